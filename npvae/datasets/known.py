"""Data sets known by name: where they lie, where they come from, the digests that tell them from others."""

import io
import lzma
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from npvae.datasets import idx
from npvae.datasets.arrays import Raw
from npvae.datasets.download import fetch, store
from npvae.datasets.streams import check_end, reading
from npvae.errors import InputError

EMBEDDED = "mnist-small"
EMBEDDED_FILE = "mnist-small.xz"
WHITE = 255  # the greatest grey level of an unsigned byte


class Source(NamedTuple):
    """Mirrors in the order they are tried, https first; the SHA-256 of each of `idx.FILES`, uncompressed."""

    mirrors: tuple[str, ...]
    digests: tuple[str, str, str, str]


SOURCES = {
    # LeCun, Cortes, Burges. CC BY-SA 3.0.
    "mnist": Source(
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        digests=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    # Zalando SE. MIT.
    "fashion-mnist": Source(
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        digests=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}
NAMES = (EMBEDDED, *SOURCES)


def data_home() -> Path | None:
    """Return the folder that NPVAE_DATA_HOME names, or None; it holds mnist/ and fashion-mnist/."""
    named = os.environ.get("NPVAE_DATA_HOME")
    return Path(named) if named else None


def cache_folder() -> Path:
    """Return the folder that keeps downloads, where the platform wants it; it need not exist yet.

    Sources: XDG Base Directory Specification; Apple, File System Programming Guide; Microsoft, Known Folders.
    Raises `InputError` if the user has no home folder.
    """
    try:
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            named = os.environ.get("XDG_CACHE_HOME", "")
            # The specification has relative paths ignored.
            base = named if Path(named).is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise InputError("no home folder to keep downloads in: set NPVAE_DATA_HOME to a folder of data") from error
    return Path(base) / "npvae"


def read(name: str) -> Raw:
    """Read `name`, one of NAMES: grey levels 0..255, (n, 28, 28), and labels. Raises `InputError`."""
    parts = read_embedded() if name == EMBEDDED else [_find(name, position) for position in range(len(idx.FILES))]
    train, train_labels, test, test_labels = parts
    return Raw(train, test, train_labels, test_labels, white=WHITE)


def read_embedded() -> list[NDArray[np.uint8]]:
    """Return the arrays in the package, in the order of `idx.FILES`."""
    from importlib import resources  # slow to import

    with reading(EMBEDDED_FILE):
        packed = resources.files(__package__).joinpath(EMBEDDED_FILE).read_bytes()
        with lzma.LZMAFile(io.BytesIO(packed)) as stream:
            parts = [idx.decode_next(stream, EMBEDDED_FILE) for _ in idx.FILES]
            check_end(stream, EMBEDDED_FILE)
    return parts


def _find(name: str, position: int) -> NDArray[np.uint8]:
    """Return one of the four arrays of `name`: from the user's data, else the cache, else the network."""
    home = data_home()
    if home is not None and not home.is_dir():
        raise InputError(f"NPVAE_DATA_HOME names {home}, which is not a folder: correct or unset it")
    for place in (data_home, cache_folder):
        folder = place()
        path = folder and idx.find(folder / name, idx.FILES[position])
        if path:
            array = idx.read(path)
            _check_digest(array, SOURCES[name].digests[position], str(path))
            return array
    return _download(name, position, cache_folder() / name)


def _download(name: str, position: int, folder: Path) -> NDArray[np.uint8]:
    """Fetch one of the four files of `name` into `folder`, once its content is known to be right."""
    source, file = SOURCES[name], f"{idx.FILES[position]}.gz"
    failures = []
    for mirror in source.mirrors:
        url = mirror + file
        try:
            data = fetch(url)
            with reading(url):
                array = idx.decode(io.BytesIO(data), len(data), url)
            _check_digest(array, source.digests[position], url)
        except InputError as error:
            failures.append(f"  {error}")
            continue
        store(data, folder / file)
        return array
    raise InputError(
        "\n".join([f"{name} is not on this machine, and no mirror has {file}:", *failures])
        + f"\nGet {', '.join(f'{each}.gz' for each in idx.FILES)} elsewhere and put them in {folder}, "
        f"or in a folder {name} inside the one that NPVAE_DATA_HOME names."
    )


def _check_digest(array: NDArray[np.uint8], expected: str, where: str) -> None:
    got = idx.digest(array)
    if got != expected:
        raise InputError(
            f"{where} is not the file it should be: SHA-256 of its uncompressed content: expected {expected}, got {got}"
        )
