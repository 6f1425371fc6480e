"""What a benchmark is asked to do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.contest import Timing


@dataclass(frozen=True)
class Options:
    """What was asked on the command line."""

    threads: int = 1
    rounds: int = 15
    seconds: float = 20.0
    peers: tuple[str, ...] | None = None  # None: the benchmark's own choice
    only: str = ""  # a part of the names of the cells that are wanted
    quick: bool = False

    @property
    def timing(self) -> Timing:
        return Timing(self.rounds, self.seconds)

    def with_threads(self, threads: int) -> "Options":
        """The same with another number of threads."""
        return replace(self, threads=threads)

    def choose(self, peers: Sequence[str]) -> list[str]:
        """Those of a benchmark's contestants that are wanted; ours always is."""
        return [name for name in peers if self.peers is None or name == "jit" or name in self.peers]

    def wants(self, name: str) -> bool:
        """Whether this cell is to be measured."""
        return self.only.lower() in name.lower()
