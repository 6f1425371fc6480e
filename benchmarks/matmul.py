"""Matrix products alone: GFLOP/s at the shapes of a VAE's layers, and the share of the machine's peak."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks import peaks
from benchmarks.contest import Arrays, Cell, Check, Pace, compete, l2
from benchmarks.options import Options
from benchmarks.results import Result, result
from benchmarks.workers import Worker, close_all

LABELS = {"jit": "npvae", "numpy": "NumPy", "torch": "PyTorch"}


class Product(NamedTuple):
    """One of the three products of a layer of `rows` rows: y = x W, dW = x^T dy or dx = dy W^T."""

    kind: str
    rows: int
    fan_in: int
    fan_out: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, K, N of the product (M,K) (K,N)."""
        n, i, o = self.rows, self.fan_in, self.fan_out
        return {"y = x W": (n, i, o), "dW = xᵀ dy": (i, n, o), "dx = dy Wᵀ": (n, o, i)}[self.kind]

    @property
    def name(self) -> str:
        """Such as 128×784×400 y = x W."""
        return "×".join(map(str, self.shape)) + f" {self.kind}"

    @property
    def flops(self) -> int:
        """A multiplication and an addition for each of M K N."""
        M, K, N = self.shape
        return 2 * M * K * N

    @property
    def bytes(self) -> int:
        """Both factors read once and the product written once, in float32."""
        M, K, N = self.shape
        return 4 * (M * K + K * N + M * N)


KINDS = ("y = x W", "dW = xᵀ dy", "dx = dy Wᵀ")
PRODUCTS = (
    *(Product(kind, 128, 784, 400) for kind in KINDS),
    *(Product(kind, 128, 400, 784) for kind in KINDS),
    *(Product(kind, 128, 400, 40) for kind in KINDS),
    *(Product(kind, 128, 20, 400) for kind in KINDS),
    *(Product(kind, 16, 784, 400) for kind in KINDS),
    *(Product(kind, 2048, 784, 400) for kind in KINDS),
    Product("y = x W", 5000, 200, 784),
    Product("y = x W", 1024, 1024, 1024),
)


def run(options: Options) -> Result:
    """All products that are wanted."""
    names, products = options.choose(list(LABELS)), [p for p in PRODUCTS if options.wants(p.name)]
    pace = Pace(len(products) * options.rounds)
    workers = {name: Worker(name, options.threads) for name in names}
    try:
        cells, limits = peaks.around(
            options, (), lambda: [compete(cell_of(p), workers, LABELS, "jit", options.timing, pace) for p in products]
        )
    finally:
        close_all(workers.values())
    pace.close()
    return result("matmul", options, cells, limits)


def cell_of(product: Product) -> Cell:
    """The cell in which this product is timed."""
    rng = np.random.default_rng(0)
    n, i, o = product[1:]
    given = {name: rng.standard_normal(shape, np.float32) for name, shape in
             (("x", (n, i)), ("W", (i, o)), ("dy", (n, o)))}  # fmt: skip
    a, b = (side.astype(np.float64) for side in sides(product.kind, given))
    exact = a @ b

    def check(found: Arrays) -> dict[str, tuple[float, float]]:
        return {"product": (l2(found["product"], exact), 1e-5)}

    wanted: Check = check
    facts = {"flops": product.flops, "bytes": product.bytes, "shape": list(product.shape)}
    return Cell(product.name, "benchmarks.matmul", product._asdict(), wanted, given, facts)


def sides(kind: str, given: Arrays) -> tuple[Any, Any]:
    """The two factors, C-contiguous arrays or their transposes."""
    x, W, dy = given["x"], given["W"], given["dy"]
    return {"y = x W": (x, W), "dW = xᵀ dy": (x.T, dy), "dx = dy Wᵀ": (dy, W.T)}[kind]


class Multiplication:
    """A product that is computed again and again into the same array."""

    def __init__(self, name: str, kind: str, given: Arrays) -> None:
        a, b = sides(kind, given)
        self.product = np.empty((a.shape[0], b.shape[1]), a.dtype)
        self.notes: dict[str, Any] = {}
        if name == "jit":
            from npvae.ops.matmul import matmul

            self.once: Any = lambda: matmul(a, b, self.product)
        elif name == "torch":
            import os

            import torch  # type: ignore[import-not-found,unused-ignore]

            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            left, right, out = torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(self.product)
            self.once = lambda: torch.mm(left, right, out=out)
        else:
            self.once = lambda: np.matmul(a, b, out=self.product)

    def reset(self) -> None:
        """There is no state."""

    def run(self, times: int) -> None:
        once = self.once
        for _ in range(times):
            once()

    def answer(self) -> Arrays:
        self.product[:] = np.nan
        self.once()
        return {"product": self.product}


def make(name: str, problem: dict[str, Any], given: Arrays) -> Multiplication:
    return Multiplication(name, problem["kind"], given)
