"""The command line: python -m benchmarks NAME."""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks import pictures, results, tables
from benchmarks.options import Options
from benchmarks.peers import PEERS
from benchmarks.workers import ROOT, cores
from npvae.errors import InputError, check_choice

RESULTS = ROOT / "benchmarks" / "results"

NAMES = {
    "step": "a training step (forward, backward, Adam) against PyTorch, JAX, autograd and plain NumPy",
    "matmul": "matrix products at a VAE's shapes: GFLOP/s, and the share of the machine's measured peak",
    "ops": "every op pair and update rule, npvae's reference against its compiled backend",
    "startup": "importing, the first step with nothing cached and with a cache, the second step",
    "memory": "peak memory of a process that trains, and what a step allocates",
    "epoch": "an epoch of mnist-small end to end",
    "scaling": "a step's time by threads, batch and width",
}

DESCRIPTION = """\
Measure npvae against what people would otherwise use. Every contestant runs alone in its process, with as many
threads as the others. Its loss, gradient and update, or its results, are compared with npvae's reference in double
precision, and who is wrong is refused: before anything is timed, but in startup and memory, where the first step is
what is measured, right after it in the same process. Rounds interleave: in each, every contestant works for a moment
while the others sleep, in an order drawn anew. A contestant that is not installed is named, and the others go on.

  python -m benchmarks step --quick               does it work here? A few minutes, rough figures
  python -m benchmarks step                       the figures, into benchmarks/results/step.json (others: partial/)
  python -m benchmarks step --peers torch,jax --only "B=128"
  python -m benchmarks all && python -m benchmarks plot
  python -m benchmarks plot                       the pictures again, from the results

Peers come with: pip install -e ".[bench]". torch.compile needs a C++ compiler. Close what else runs on the machine.
"""


def parser() -> argparse.ArgumentParser:
    """The grammar."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=DESCRIPTION,
        epilog="benchmarks:\n" + "\n".join(f"  {name:<9} {what}" for name, what in NAMES.items())
        + "\n  all       all of these, and the pictures\n  plot      the pictures, from results that are there",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("name", metavar="NAME", choices=[*NAMES, "all", "plot"], help="one of those below")
    made.add_argument("--threads", type=int, default=cores(), metavar="N", help="of every contestant (%(default)s)")
    made.add_argument("--rounds", type=int, metavar="N", help="bursts of every contestant in a cell (15; quick: 3)")
    made.add_argument("--seconds", type=float, metavar="S", help="of bursts, all contestants of a cell (20; quick: 2)")
    made.add_argument("--peers", metavar="A,B", help=f"some of {','.join(PEERS)}; npvae jit always takes part")
    made.add_argument("--only", default="", metavar="TEXT", help="the cells with this in their name")
    made.add_argument("--quick", action="store_true", help="few rounds, short bursts, settings not searched")
    made.add_argument("--out", type=Path, metavar="FOLDER",
                      help="for NAME.json (benchmarks/results; partial/ in it if not all was asked for)")  # fmt: skip
    made.add_argument("--pictures", type=Path, default=ROOT / "benchmarks" / "pictures", metavar="FOLDER",
                      help="for the PNGs (benchmarks/pictures)")  # fmt: skip
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    asked = parser().parse_args(arguments)
    try:
        options = options_of(asked)
        partial = options.quick or options.only or options.peers is not None
        out = asked.out or (RESULTS / "partial" if partial else RESULTS)
        for name in NAMES if asked.name == "all" else [asked.name]:
            if name != "plot":
                print(f"benchmark {name}", file=sys.stderr)
                made = importlib.import_module(f"benchmarks.{name}").run(options)
                print(tables.report(made), end="\n\n", flush=True)
                print(results.write(made, out), file=sys.stderr)
        if asked.name in ("all", "plot"):
            drawn, lacking = pictures.draw_all(out, asked.pictures)
            for line in (*drawn, *lacking):
                print(line, file=sys.stderr)
            return 0 if drawn else 2
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def options_of(asked: argparse.Namespace) -> Options:
    """What was asked, checked."""
    rounds = asked.rounds if asked.rounds is not None else 3 if asked.quick else 15
    seconds = asked.seconds if asked.seconds is not None else 2.0 if asked.quick else 20.0
    for what, value in (("--threads", asked.threads), ("--rounds", rounds), ("--seconds", seconds)):
        if not value > 0:
            raise InputError(f"{what} must be above 0, got {value}")
    peers = None if asked.peers is None else tuple(check_choice("peer", p, PEERS) for p in asked.peers.split(","))
    return Options(asked.threads, rounds, seconds, peers, asked.only, asked.quick)


if __name__ == "__main__":
    sys.exit(main())
