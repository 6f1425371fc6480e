"""All lessons as one page of HTML that needs nothing else."""

from collections.abc import Sequence
from pathlib import Path

from npvae.checkpoint import write_atomically
from npvae.lessons.outcome import Outcome


def write_page(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write index.html into the folder and return its path."""
    path = folder / "index.html"
    write_atomically(path, "".join(f"<p>{outcome}</p>" for outcome in outcomes).encode())
    return path
