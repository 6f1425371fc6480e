"""A line on stderr that says how far a long piece of work is; silent where nobody watches."""

import sys
import time


class Progress:
    """Rate and time left of `total` steps, or whatever the unit is.

    Nothing is written unless stderr is a terminal, or `watched` says so.
    """

    def __init__(self, total: int, done: int = 0, watched: bool | None = None, unit: str = "steps") -> None:
        self.total, self.first, self.unit = total, done, unit
        self.watched = sys.stderr.isatty() if watched is None else watched
        self.start = self.last = time.monotonic()

    def update(self, done: int, text: str) -> None:
        """Show that `done` steps are done; at most ten times a second."""
        now = time.monotonic()
        if not self.watched or (now - self.last < 0.1 and done < self.total):
            return
        self.last = now
        rate = (done - self.first) / max(now - self.start, 1e-9)
        left = (self.total - done) / rate if rate else float("inf")
        filled = "█" * (20 * done // self.total)
        line = f"\r{filled:░<20} {100 * done // self.total:3d} %  {rate:.0f} {self.unit}/s  {clock(left)} left  {text}"
        sys.stderr.write(line[:160] + "\x1b[K")
        sys.stderr.flush()

    def say(self, text: str) -> None:
        """Leave a line above the bar."""
        if self.watched:
            sys.stderr.write(f"\r{text}\x1b[K\n")

    def close(self) -> None:
        """Clear the bar."""
        if self.watched:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> clock(125), clock(float("inf"))
    ('2:05', '?:??')
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}" if seconds < 1e6 else "?:??"
