"""A name or a path in, a `Dataset` out. Files are known by how they start, not by how they are called."""

import os
from pathlib import Path

from npvae.datasets import idx, known, npy, png
from npvae.datasets.arrays import Dataset, Origin, Raw, assemble
from npvae.datasets.streams import reading
from npvae.errors import InputError, check_choice

_READABLE = ".npy, .npz, IDX (gzip or not), a folder of PNGs, or a folder of MNIST's four IDX files"


def load(source: str | os.PathLike[str], *, rescale: bool = False, rows: int | None = None) -> Dataset:
    """Load images by name (`mnist-small`, `mnist`, `fashion-mnist`) or from a path.

    Known names win over files of the same name: write ./mnist for a folder called mnist. `mnist` and
    `fashion-mnist` come from NPVAE_DATA_HOME, else from `cache_folder()`, else from the network, and their
    digests are always checked. A path is a .npy file; a .npz file (x_train and x_test with optional y_train,
    y_test; images with optional labels; or a single array); an IDX file of images; a folder of MNIST's four
    IDX files; or a folder of PNGs of one size, taken in the order of their names, colours averaged to grey.

    Pixels of IDX files and PNGs, whose format says what white is, come in [0, 1]. Those of .npy and .npz stay
    as they are; `rescale` maps the [min, max] of the training and test images to [0, 1].
    `rows` keeps the first so many training images. A source without test images has its last tenth held out.

    Returns images (n, D) float32 and labels (n,) int64 or None. Raises `InputError` for unknown names, for
    files that are missing, damaged or larger than they can be, and for everything `from_arrays` refuses.

    >>> data = load("mnist-small", rows=100)
    >>> data.train.images.shape, data.test.images.shape, data.train.labels[:5].tolist()
    ((100, 784), (2000, 784), [5, 0, 4, 1, 9])
    """
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise InputError(
            f"data must be a name or a path, got {type(source).__name__} {source!r:.30}; "
            "for arrays there is from_arrays"
        )
    with reading(source):
        named = isinstance(source, str) and source in known.NAMES
        raw = known.read(str(source)) if named else _read_path(source)
    data = assemble(raw, name=os.fspath(source), rescale=rescale, rows=rows)
    place = str(source) if named else str(Path(source).absolute())
    return data._replace(origin=Origin(place, None if rows is None else int(rows), bool(rescale)))


def _read_path(source: str | os.PathLike[str]) -> Raw:
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_file(path)
    if path.exists():
        raise InputError(f"{path} is neither a file nor a folder")
    # A bare word was probably meant as a name.
    if isinstance(source, str) and path.name == source and not path.suffix:
        try:
            check_choice("dataset", source, known.NAMES)
        except InputError as error:
            raise InputError(f"{error} (No such file either; a path can be {_READABLE}.)") from None
    raise InputError(f"there is no file or folder {source}")


def _read_file(path: Path) -> Raw:
    with path.open("rb") as stream:
        start = stream.read(8)
    if start.startswith(npy.NPY):
        return Raw(npy.read_npy(path))
    if start.startswith(npy.ZIP):
        return npy.read_npz(path)
    if start.startswith((b"\0\0", idx.GZIP)):
        images = idx.read(path)
        if images.ndim == 1:
            raise InputError(f"{path} holds labels, not images: give the images' file, or the folder that has both")
        return Raw(images, white=known.WHITE)
    if start == png.SIGNATURE:
        raise InputError(f"{path} is a single image: give the folder of images")
    raise InputError(f"{path} is of no format that is read ({_READABLE}): it starts with {start.hex(' ') or 'nothing'}")


def _read_folder(folder: Path) -> Raw:
    files = [idx.find(folder, name) for name in idx.FILES]
    if any(files):
        missing = [name for name, file in zip(idx.FILES, files, strict=True) if file is None]
        if missing:
            raise InputError(f"{folder} lacks {', '.join(missing)} (.gz or not) beside its other IDX files")
        train, train_labels, test, test_labels = (idx.read(file) for file in files if file)
        return Raw(train, test, train_labels, test_labels, white=known.WHITE)
    images = png.find(folder)
    if not images:
        raise InputError(f"{folder} holds neither PNG images nor {', '.join(idx.FILES)}")
    return Raw(png.read(images))
