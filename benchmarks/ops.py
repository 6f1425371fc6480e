"""Every op pair and every update rule alone: npvae's two backends at the shapes of 784-400-20, B = 128."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peaks
from benchmarks.contest import Arrays, Cell, Check, Pace, compete, l2
from benchmarks.options import Options
from benchmarks.problem import BETA1, BETA2, EPSILON, LR, Problem
from benchmarks.results import Result, result
from benchmarks.workers import Worker, close_all
from npvae.ops import load_backend, reference

LABELS = {"jit": "npvae jit", "reference": "npvae reference"}
Array = Any
Ops = Any

PROBLEM = Problem()
B, D, H, Z, P = PROBLEM.batch, PROBLEM.data, PROBLEM.hidden[0], PROBLEM.latent, PROBLEM.parameters
K = 5  # samples, for the ops that only the importance-weighted bound uses
BETA, FREE_BITS = 1.0, 0.0


class Call(NamedTuple):
    """A prepared op: call it again and again; `results` are what it writes to or returns."""

    once: Callable[[], Any]
    results: tuple[Array, ...]  # written by `once`
    inputs: tuple[Array, ...]  # read by it


class Op(NamedTuple):
    """How a cell is prepared, and the arithmetic of one call.

    operations: additions, multiplications, divisions and comparisons; an exponential, a logarithm or a root counts as
    one, which makes the few ops that are full of them look slower than they are.
    """

    prepare: Callable[[Ops, Any, np.random.Generator], Call]
    operations: int


# ── Pairs: (ops, dtype, rng) -> Call ─────────────────────────────────────────────────────────────────────────────────


def dense(fan_in: int, fan_out: int, act: int, direction: str, rows: int = B) -> Op:
    """A layer; `backward` as the model calls it, with room for everything."""

    def prepare(ops: Ops, dtype: Any, rng: np.random.Generator) -> Call:
        x, dy = normal(rng, dtype, rows, fan_in), normal(rng, dtype, rows, fan_out)
        W, b = normal(rng, dtype, fan_in, fan_out) / dtype(fan_in**0.5), normal(rng, dtype, fan_out)
        y = np.empty_like(dy)
        if direction == "forward":
            return Call(lambda: ops.dense_forward(x, W, b, act, out=y), (y,), (x, W, b))
        y[:] = reference.dense_forward(x.astype(np.float64), W.astype(np.float64), b.astype(np.float64), act)
        out = np.empty_like(x), np.empty_like(W), np.empty_like(b)
        scratch = np.empty(ops.dense_scratch(rows, fan_in, fan_out), dtype)
        return Call(lambda: ops.dense_backward(dy, x, W, y, act, out=out, scratch=scratch), out, (dy, x, W, y))

    products = 2 * rows * fan_in * fan_out
    return Op(prepare, products + 2 * rows * fan_out if direction == "forward" else 2 * products + 2 * rows * fan_out)


def pair(name: str, forward: int, backward: int, draw: Callable[..., Any]) -> Iterator[tuple[str, Op]]:
    """The two halves of an op. draw: (rng, dtype) -> inputs and settings by name, as the ops call them."""
    import inspect

    def prepare_forward(ops: Ops, dtype: Any, rng: np.random.Generator) -> Call:
        given = draw(rng, dtype)
        out = blank(outputs(name, given))
        function = getattr(ops, f"{name}_forward")
        return Call(lambda: function(**given, **packed(name, out)), out, arrays_of(given.values()))

    def prepare_backward(ops: Ops, dtype: Any, rng: np.random.Generator) -> Call:
        given = draw(rng, dtype)
        function = getattr(ops, f"{name}_backward")
        kept = dict(zip(OUTPUTS[name], outputs(name, given), strict=True))
        seeds = {f"d{key}": value if np.ndim(value) == 0 else normal(rng, value.dtype.type, *value.shape)
                 for key, value in kept.items()}  # fmt: skip
        pool = given | kept | seeds | {"dloss": 1.0}
        wanted = [key for key in inspect.signature(function).parameters if key not in ("out", "scratch")]
        arguments = {key: pool[key] for key in wanted}
        example = getattr(reference, f"{name}_backward")(**arguments)
        out = blank(example if isinstance(example, tuple) else (example,))
        extra = {"out": out if len(out) > 1 else out[0]}
        if name == "tied":
            extra["scratch"] = np.empty(ops.tied_scratch(D, Z), dtype)
        return Call(lambda: function(**arguments, **extra), out, arrays_of(arguments.values()))

    yield f"{name} forward", Op(prepare_forward, forward)
    yield f"{name} backward", Op(prepare_backward, backward)


OUTPUTS = {  # of the forward
    "tied": ("z", "y"), "squared_error": ("error",), "reparameterize": ("z",), "gaussian_kl": ("rate",),
    "log_ratio": ("rate",), "bernoulli": ("log_px",), "gaussian": ("log_px",),
    "gaussian_optimal": ("log_px", "logvar"), "gaussian_pixel": ("log_px",), "elbo": ("loss",),
    "iwae": ("loss", "log_w"),
}  # fmt: skip


def outputs(name: str, given: dict[str, Any]) -> tuple[Any, ...]:
    """What the forward returns."""
    found = getattr(reference, f"{name}_forward")(**given)
    return found if isinstance(found, tuple) else (found,)


def packed(name: str, out: tuple[Array, ...]) -> dict[str, Any]:
    """`out` as the forward takes it: the bounds' loss is returned, not written."""
    return {"out": out if len(out) > 1 else out[0]} if out else {}


def blank(examples: Any) -> tuple[Array, ...]:
    """Room for those that are arrays."""
    return tuple(np.empty_like(a) for a in examples if np.ndim(a))


def arrays_of(values: Any) -> tuple[Array, ...]:
    return tuple(value for value in values if isinstance(value, np.ndarray))


def normal(rng: np.random.Generator, dtype: Any, *shape: int) -> Array:
    """N(0, 1), the same numbers in every precision: they are rounded to float32 first."""
    return rng.standard_normal(shape, np.float32).astype(dtype)


def images(rng: np.random.Generator, dtype: Any) -> Array:
    """Black or white."""
    return (rng.random((B, D)) < 0.2).astype(dtype)


def wide(rng: np.random.Generator, *shape: int) -> Array:
    """Rates and log-densities are float64 in every precision."""
    return rng.uniform(0.5, 1.5, shape)


# ── Update rules ─────────────────────────────────────────────────────────────────────────────────────────────────────


def update(name: str, vectors: int, settings: tuple[Any, ...], operations: int) -> Op:
    """A rule on vectors of the size of theta; its results go on from call to call."""

    def prepare(ops: Ops, dtype: Any, rng: np.random.Generator) -> Call:
        theta, dtheta = normal(rng, dtype, P), normal(rng, dtype, P)
        memory = [np.zeros_like(theta) for _ in range(vectors)]
        function = getattr(ops, name)
        return Call(lambda: function(theta, dtheta, *memory, *settings), (theta, *memory), (theta, dtheta, *memory))

    return Op(prepare, operations * P)


def norm() -> Op:
    """The gradient's norm."""

    def prepare(ops: Ops, dtype: Any, rng: np.random.Generator) -> Call:
        dtheta, found = normal(rng, dtype, P), np.zeros(1)

        def once() -> None:
            found[0] = ops.global_norm(dtheta)

        return Call(once, (found,), (dtheta,))

    return Op(prepare, 2 * P)


def every() -> dict[str, Op]:
    """All ops by the name of their cell."""
    ops: dict[str, Op] = {}
    relu, linear = reference.RELU, reference.IDENTITY
    for i, o, act in ((D, H, relu), (H, 2 * Z, linear), (Z, H, relu), (H, D, linear)):
        for direction in ("forward", "backward"):
            ops[f"dense {i}×{o} {direction}"] = dense(i, o, act, direction)
    pixels, codes = B * D, B * Z

    def stats(r: Any, t: Any) -> Array:
        return normal(r, t, B, 1, 2 * Z)

    for made in (
        pair("bernoulli", 6 * pixels, 5 * pixels,
             lambda r, t: {"logits": normal(r, t, B, 1, D), "target": images(r, t)}),
        pair("reparameterize", 4 * codes, 5 * codes, lambda r, t: {"stats": stats(r, t), "eps": normal(r, t, B, 1, Z)}),
        pair("gaussian_kl", 6 * codes, 4 * codes, lambda r, t: {"stats": stats(r, t)}),
        pair("elbo", codes, codes,
             lambda r, t: {"log_px": wide(r, B, 1), "rate": wide(r, B, 1, Z), "beta": BETA, "free_bits": FREE_BITS}),
        pair("log_ratio", 5 * K * codes, 3 * K * codes,
             lambda r, t: {"stats": stats(r, t), "z": normal(r, t, B, K, Z), "eps": normal(r, t, B, K, Z)}),
        pair("iwae", K * codes, 2 * K * codes,
             lambda r, t: {"log_px": wide(r, B, K), "rate": wide(r, B, K, Z), "beta": BETA}),
        pair("gaussian", 3 * pixels, 2 * pixels,
             lambda r, t: {"mean": normal(r, t, B, 1, D), "target": images(r, t), "logvar": np.zeros(1, t)}),
        pair("gaussian_optimal", 3 * pixels, 2 * pixels,
             lambda r, t: {"mean": normal(r, t, B, 1, D), "target": images(r, t)}),
        pair("gaussian_pixel", 7 * pixels, 7 * pixels,
             lambda r, t: {"pixels": normal(r, t, B, 1, 2 * D), "target": images(r, t)}),
        pair("squared_error", 3 * pixels, 2 * pixels, lambda r, t: {"y": normal(r, t, B, D), "target": images(r, t)}),
        pair("tied", 4 * B * D * Z, 6 * B * D * Z,
             lambda r, t: {"x": normal(r, t, B, D), "W": normal(r, t, D, Z) / t(D**0.5)}),
    ):  # fmt: skip
        ops |= made
    ops["adam"] = update("adam_step", 2, (LR, BETA1, BETA2, EPSILON, 7, 1.0), 14)
    ops["rmsprop"] = update("rmsprop_step", 1, (LR, 0.99, EPSILON, 1.0), 10)
    ops["sgd"] = update("sgd_step", 1, (LR, 0.9, 1.0), 5)
    ops["global norm"] = norm()
    return ops


# ── The benchmark ────────────────────────────────────────────────────────────────────────────────────────────────────


def run(options: Options) -> Result:
    """All ops that are wanted."""
    names, wanted = options.choose(list(LABELS)), [name for name in every() if options.wants(name)]
    pace = Pace(len(wanted) * options.rounds)
    workers = {name: Worker(name, options.threads) for name in names}
    try:
        cells, limits = peaks.around(
            options, (P,), lambda: [compete(cell_of(op), workers, LABELS, "jit", options.timing, pace) for op in wanted]
        )
    finally:
        close_all(workers.values())
    pace.close()
    return result("ops", options, cells, limits)


def cell_of(name: str) -> Cell:
    """The cell in which this op is timed."""
    op = every()[name]
    exact = Running("reference", name, np.float64).answer()
    call = op.prepare(reference, np.float32, np.random.default_rng(0))
    moved = sum(a.nbytes for a in (*call.inputs, *call.results))

    def check(found: Arrays) -> dict[str, tuple[float, float]]:
        return {what: (l2(found[what], exact[what]), 1e-5) for what in exact}

    wanted: Check = check
    return Cell(name, "benchmarks.ops", {"op": name}, wanted, {}, {"flops": op.operations, "bytes": moved})


class Running:
    """An op on one backend, ready to be called."""

    def __init__(self, backend: str, op: str, dtype: Any) -> None:
        self.call = every()[op].prepare(load_backend(backend), dtype, np.random.default_rng(0))
        self.state = [a.copy() for a in self.call.results]
        self.notes: dict[str, Any] = {}

    def reset(self) -> None:
        for array, first in zip(self.call.results, self.state, strict=True):
            array[...] = first

    def run(self, times: int) -> None:
        once = self.call.once
        for _ in range(times):
            once()

    def answer(self) -> Arrays:
        returned = self.call.once()
        found = {f"result {i}": a.copy() for i, a in enumerate(self.call.results)}
        loss = returned[0] if isinstance(returned, tuple) else returned
        if np.ndim(loss) == 0 and loss is not None:  # a bound
            found["loss"] = np.array(loss)
        self.reset()
        return found


def make(name: str, problem: dict[str, Any], given: Arrays) -> Running:
    return Running(name, problem["op"], np.float32)
