"""Make mnist-small.xz out of MNIST: python -m npvae.datasets.embed FOLDER.

The file is an xz stream of four IDX files, one after the other: the first training images, their labels, the
first test images, their labels. The same input and liblzma give the same bytes.
"""

import argparse
import lzma
from pathlib import Path

from npvae.datasets import idx
from npvae.datasets.download import store
from npvae.datasets.known import EMBEDDED_FILE
from npvae.errors import InputError, check_whole

TRAIN, TEST = 10_000, 2_000
# The upper half of a pixel (lc 4) says much about the next, its position modulo 2 or 4 nothing (lp, pb 0).
# The reader must allocate the dictionary: 8 MiB are nearly the whole data already.
_FILTER = {
    "id": lzma.FILTER_LZMA2,
    "dict_size": 8 * 2**20,
    "lc": 4,
    "lp": 0,
    "pb": 0,
    "mode": lzma.MODE_NORMAL,
    "mf": lzma.MF_BT4,
    "nice_len": 273,
    "depth": 1000,
}


def embed(folder: Path, train: int = TRAIN, test: int = TEST) -> bytes:
    """Return the first images and labels of the IDX files in `folder`, compressed. Raises `InputError`."""
    content = b""
    for name, count in zip(idx.FILES, (train, train, test, test), strict=True):
        path = idx.find(folder, name)
        if path is None:
            raise InputError(f"{folder} lacks {name} (.gz or not)")
        array = idx.read(path)
        if check_whole("count", count) > len(array):
            raise InputError(f"{path} holds {len(array):,} items, {count:,} are wanted")
        content += idx.encode(array[:count])
    return lzma.compress(content, check=lzma.CHECK_CRC32, filters=[_FILTER])


def main() -> None:
    """Read the command line, write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m npvae.datasets.embed",
        description=f"Write the first {TRAIN:,} training and {TEST:,} test digits of MNIST to one file.",
    )
    parser.add_argument("folder", type=Path, help="holds MNIST's four IDX files, gzip or not")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).with_name(EMBEDDED_FILE),
        help="file to write (default: %(default)s)",
    )
    options = parser.parse_args()
    try:
        store(embed(options.folder), options.out)
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
