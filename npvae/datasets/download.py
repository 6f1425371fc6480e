"""The only code of the package that touches the network, and only for data that was asked for by name."""

import time
from pathlib import Path

from npvae.checkpoint import write_atomically
from npvae.datasets.streams import MIB, reading
from npvae.errors import InputError

MOST_BYTES = 64 * MIB  # the largest file known takes 26
SILENCE, DEADLINE = 20.0, 900.0  # seconds: between two answers of a server, and for one file
_CHUNK = 2**16


def fetch(url: str) -> bytes:
    """Return what `url` holds; raises `InputError` for every failure, silence and excess of size included."""
    from http.client import HTTPException  # slow to import, seldom needed
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    start = time.monotonic()
    data = bytearray()
    with reading(url):
        try:
            # Some mirrors turn Python's own name away.
            with urlopen(Request(url, headers={"User-Agent": "npvae"}), timeout=SILENCE) as response:
                while piece := response.read1(_CHUNK):
                    data += piece
                    if len(data) > MOST_BYTES:
                        raise InputError(f"{url} sends more than {MOST_BYTES:,} bytes")
                    if time.monotonic() - start > DEADLINE:
                        raise InputError(f"{url} has sent only {len(data):,} bytes in {DEADLINE:.0f} seconds")
        except HTTPError as error:
            error.close()  # it is an open response as well
            raise InputError(f"{url} answers {error.code} {error.reason}") from error
        except HTTPException as error:
            raise InputError(f"{url} breaks off: {error!r}") from error
    return bytes(data)


def store(data: bytes, path: Path) -> None:
    """Write `data` to `path` so that either the whole file is there or none; raises `InputError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
