"""Images to train on: embedded, known by name, or your own.

    load("mnist-small")          10,000 + 2,000 digits, in the package itself: no network, no disk
    load("mnist")                60,000 + 10,000 digits; `fashion-mnist` is its twin with garments
    load("faces.npy")            or .npz, an IDX file (gzip or not), a folder of PNGs or of MNIST's four files
    from_arrays(images)          arrays you already have

Whatever the source, the result is a `Dataset` of float32 rows that passed one set of checks (arrays.py).
Modules in reading order: arrays, streams, idx, npy, png, known, download, sources.
"""

from npvae.datasets.arrays import Dataset, Origin, Split, from_arrays
from npvae.datasets.known import cache_folder, data_home
from npvae.datasets.sources import load

__all__ = ["Dataset", "Origin", "Split", "cache_folder", "data_home", "from_arrays", "load"]
