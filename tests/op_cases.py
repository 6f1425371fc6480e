"""Every op, declared once, for all tests that sweep ops.

A `Case` says how to draw an op's inputs, what its forward puts out, what its backward returns and in which
ways it could be wrong. It can call the op on any backend, because the ops' own parameter names are the
protocol: forward's are inputs and settings; backward's are inputs, outputs, settings and, as `d` + the name
of an output, the derivative by it.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from npvae.ops import reference

Array = np.ndarray
Values = dict[str, Any]  # arrays and numbers by the name they have in the ops


class Sizes(NamedTuple):
    """Batch, samples, data, hidden, latent."""

    B: int
    K: int
    D: int
    H: int
    Z: int


# ── Numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def error(a: Any, b: Any) -> float:
    """max|a - b| / max|b| over the entries where b is finite; the others must be the same in both."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return np.inf
    if not finite.any():
        return 0.0
    a, b = a[finite].astype(np.float64), b[finite].astype(np.float64)
    return float(np.max(np.abs(a - b)) / (np.max(np.abs(b)) or 1.0))


def same(a: Any, b: Any) -> bool:
    """Bit for bit, dtype and shape included."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def normal(rng: np.random.Generator, *shape: int, edge: tuple[float, float] = (0.5, 1.5)) -> Array:
    """N(0, 1), but uniform in `edge` where the first or the last index is 0.

    So of the sums over a batch, over samples or over features at least one has terms of one sign. Errors are
    measured against the largest entry: this keeps it from being what a cancellation has left over.
    """
    a = rng.standard_normal(shape)
    steady = rng.uniform(*edge, shape)
    a[:1], a[..., :1] = steady[:1], steady[..., :1]
    return a


def gaussian_stats(rng: np.random.Generator, *shape: int, edge: tuple[float, float] = (0.5, 1.5)) -> Array:
    """[mu | logvar] along the last axis, logvar in (-1, 1)."""
    return np.concatenate([normal(rng, *shape, edge=edge), rng.uniform(-1, 1, shape)], axis=-1)


def map_half(half: int, change: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Change the left (0) or the right (1) half of the last axis."""

    def changed(a: Array) -> Array:
        a = a.copy()
        part = reference.halves(a)[half]
        part[:] = change(part)
        return a

    return changed


# ── A mutation: a backward that is wrong, as somebody's once was ─────────────────────────────────────────────────

Backward = Callable[..., Any]
Mutation = Callable[["Case", Backward, Values], Any]


def reads(**changes: Callable[[Any], Any]) -> Mutation:
    """Backward sees something else than forward did."""
    return lambda case, backward, given: backward(**given | {k: f(given[k]) for k, f in changes.items()})


def returns(**changes: Callable[..., Array]) -> Mutation:
    """Some results are changed; a change takes the result and those of backward's arguments that it names."""

    def mutant(case: "Case", backward: Backward, given: Values) -> Any:
        result = backward(**given)
        gradients = dict(zip(case.gradients, as_tuple(result), strict=True))
        for name, change in changes.items():
            others = list(inspect.signature(change).parameters)[1:]
            gradients[name][...] = change(gradients[name], *(given[other] for other in others))
        return result

    return mutant


def as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


# ── A case ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """An op, with one setting of its options."""

    op: str  # the functions are `op`_forward and `op`_backward
    draw: Callable[[np.random.Generator, Sizes], Values]  # inputs, in float64
    outputs: tuple[str, ...]  # what forward returns
    gradients: tuple[str, ...]  # by what backward returns derivatives, in order
    mutations: Mapping[str, Mutation]
    variant: str = ""
    settings: Values = field(default_factory=dict)  # the other arguments of both
    kept: tuple[str, ...] | None = None  # the outputs that forward's `out` takes; None: all
    wide: bool = False  # inputs are float64 in every precision
    transcendental: bool = True
    empty: bool = True  # sizes may be 0
    scratch: Callable[[Values], tuple[int, ...]] | None = None  # arguments of `op`_scratch

    @property
    def name(self) -> str:
        return f"{self.op}-{self.variant}" if self.variant else self.op

    def __str__(self) -> str:
        return self.name

    def inputs(self, rng: np.random.Generator, sizes: Sizes, dtype: Any = np.float64) -> Values:
        """Valid inputs; kinks, where the op has any, are at a distance."""
        return {k: v.astype(np.float64 if self.wide else dtype) for k, v in self.draw(rng, sizes).items()}

    def differentiable(self, inputs: Values) -> list[str]:
        """The inputs that backward returns derivatives by. (By an output it may return them besides.)"""
        return [name for name in self.gradients if name in inputs]

    def forward(self, ops: Any, inputs: Values, out: Values | None = None) -> Values:
        """Outputs by name."""
        extra = {} if out is None else {"out": _packed(out, self.buffers)}
        result = getattr(ops, f"{self.op}_forward")(**inputs, **self.settings, **extra)
        return dict(zip(self.outputs, as_tuple(result), strict=True))

    @property
    def seeded(self) -> str:
        """The output whose derivative backward starts from; every op has one."""
        (name,) = (name for name in self.outputs if f"d{name}" in self.backward_parameters)
        return name

    def cotangents(self, rng: np.random.Generator, outputs: Values) -> Values:
        """The derivative of some loss by that output, random."""
        value = outputs[self.seeded]
        drawn = normal(rng, *value.shape).astype(value.dtype) if np.ndim(value) else rng.uniform(0.5, 1.5)
        return {f"d{self.seeded}": drawn}

    def arguments(self, cotangents: Values, inputs: Values, outputs: Values) -> Values:
        """What backward is called with, but for out and scratch."""
        pool = {**outputs, **inputs, **self.settings, **cotangents}
        return {name: pool[name] for name in self.backward_parameters}

    def backward(self, ops: Any, arguments: Values, out: Values | None = None, **extra: Any) -> Values:
        """Derivatives by name."""
        if out is not None:
            extra["out"] = _packed(out, self.gradients)
        result = getattr(ops, f"{self.op}_backward")(**arguments, **extra)
        return dict(zip(self.gradients, as_tuple(result), strict=True))

    @property
    def backward_parameters(self) -> list[str]:
        """All but out and scratch."""
        names = inspect.signature(getattr(reference, f"{self.op}_backward")).parameters
        return [name for name in names if name not in ("out", "scratch")]

    @property
    def buffers(self) -> tuple[str, ...]:
        """The outputs that forward's `out` takes."""
        return self.outputs if self.kept is None else self.kept

    def room(self, ops: Any, inputs: Values) -> int | None:
        """How much scratch backward wants; None if it knows no scratch."""
        return None if self.scratch is None else getattr(ops, f"{self.op}_scratch")(*self.scratch(inputs))

    def broken(self, ops: Any, mutation: Mutation) -> Any:
        """The backend with this op's backward mutated."""
        backward = getattr(ops, f"{self.op}_backward")
        wrong = {f"{self.op}_backward": lambda **given: mutation(self, backward, given)}
        return SimpleNamespace(**vars(ops) | wrong)


def _packed(values: Values, names: Sequence[str]) -> Any:
    return values[names[0]] if len(names) == 1 else tuple(values[name] for name in names)


def blank(values: Values, names: Sequence[str]) -> Values:
    """Buffers for the named values, full of NaN."""
    return {name: np.full_like(values[name], np.nan) for name in names}


# ── The cases ────────────────────────────────────────────────────────────────────────────────────────────────────


def draw_dense(rng: np.random.Generator, s: Sizes) -> Values:
    while True:
        x, W, b = normal(rng, s.B * s.K, s.D), normal(rng, s.D, s.H) / max(1, s.D) ** 0.5, normal(rng, s.H)
        a = x @ W + b
        if np.all(np.abs(a) > 0.2 / (1 + a.size)):  # away from where ReLU and its kin have their kink
            return {"x": x, "W": W, "b": b}


def dense(name: str, act: int) -> Case:
    mutations = {
        "W for its transpose": reads(W=np.transpose),  # seen where D = H
        "bias averaged over the rows": returns(b=lambda db, x: db / len(x)),
    }
    if act != reference.IDENTITY:
        mutations["derivative of the activation missing"] = reads(act=lambda act: reference.IDENTITY)
    return Case(
        "dense",
        variant=name,
        draw=draw_dense,
        outputs=("y",),
        gradients=("x", "W", "b"),
        settings={"act": act},
        transcendental=name in ("tanh", "sigmoid", "softplus", "elu"),
        scratch=lambda inputs: (len(inputs["x"]), *inputs["W"].shape),
        mutations=mutations,
    )


def draw_bernoulli(rng: np.random.Generator, s: Sizes) -> Values:
    target = rng.random((s.B, s.D))
    target[:, ::3] = np.rint(target[:, ::3])
    target[:, :1] = 0  # and the logit there is positive: t - s(l) does not cancel
    return {"logits": normal(rng, s.B, s.K, s.D), "target": target}


def draw_elbo(rng: np.random.Generator, s: Sizes) -> Values:
    rate = rng.uniform(0.6, 1, (s.B, s.K, s.Z))
    rate[..., 1::2] -= 0.5  # every other latent below 0.5 free bits, none near them
    return {"log_px": -20 + normal(rng, s.B, s.K), "rate": rate}


def elbo(variant: str, beta: float, free_bits: float, **mutations: Mutation) -> Case:
    return Case(
        "elbo",
        variant=variant,
        draw=draw_elbo,
        outputs=("loss",),
        kept=(),
        gradients=("log_px", "rate"),
        settings={"beta": beta, "free_bits": free_bits},
        mutations={
            "rate summed over the batch": returns(rate=lambda drate, rate: drate * len(rate)),
            "wrong sign of log p": returns(log_px=lambda d: -d),
            "beta ignored": reads(beta=lambda beta: 1.0),
            **mutations,
        },
        wide=True,
        transcendental=False,
        empty=False,
    )


ACTIVATIONS = {
    "identity": reference.IDENTITY,
    "relu": reference.RELU,
    "leaky-relu": reference.LEAKY_RELU,
    "tanh": reference.TANH,
    "sigmoid": reference.SIGMOID,
    "softplus": reference.SOFTPLUS,
    "elu": reference.ELU,
}

FAR = (-3.5, -2.5)  # of a mean from its target

CASES = (
    *(dense(name, act) for name, act in ACTIVATIONS.items()),
    Case(
        "tied",
        draw=lambda rng, s: {"x": normal(rng, s.B, s.D), "W": normal(rng, s.D, s.Z)},
        outputs=("z", "y"),
        gradients=("z", "W"),
        mutations={
            "encoder's term missing": returns(W=lambda dW, dy, z: dy.T @ z),
            "decoder's term missing": returns(W=lambda dW, dy, x, W: x.T @ (dy @ W)),
        },
        transcendental=False,
        scratch=lambda inputs: inputs["W"].shape,
    ),
    Case(
        "squared_error",
        draw=lambda rng, s: {"y": normal(rng, s.B, s.D, edge=FAR), "target": normal(rng, s.B, s.D)},
        outputs=("error",),
        gradients=("y",),
        mutations={
            "2 missing": returns(y=lambda dy: dy / 2),
            "wrong sign": returns(y=lambda d: -d),
            "averaged over D": returns(y=lambda dy: dy / dy.shape[-1]),
        },
        transcendental=False,
    ),
    Case(
        "reparameterize",
        draw=lambda rng, s: {"stats": gaussian_stats(rng, s.B, 1, s.Z), "eps": normal(rng, s.B, s.K, s.Z)},
        outputs=("z",),
        gradients=("stats",),
        mutations={
            "1/2 missing": returns(stats=map_half(1, lambda d: d * 2)),
            "noise of another row": reads(eps=lambda eps: eps[::-1]),
            "sum over K missing": reads(dz=lambda dz: dz * (np.arange(dz.shape[1]) == 0)[:, None]),
            "logvar taken for log sigma": reads(stats=map_half(1, lambda logvar: logvar * 2)),
            "noise detached": returns(stats=map_half(1, np.zeros_like)),
        },
    ),
    Case(
        "gaussian_kl",
        draw=lambda rng, s: {"stats": gaussian_stats(rng, s.B, 1, s.Z)},
        outputs=("rate",),
        gradients=("stats",),
        mutations={
            "wrong sign": returns(stats=lambda d: -d),
            "sigma for its square": reads(stats=map_half(1, lambda logvar: logvar / 2)),
            "half of it missing": returns(stats=map_half(1, np.zeros_like)),
        },
    ),
    Case(
        "log_ratio",
        draw=lambda rng, s: {
            "stats": gaussian_stats(rng, s.B, 1, s.Z),
            "z": normal(rng, s.B, s.K, s.Z, edge=(2.5, 3.5)),  # z^2 - eps^2 does not cancel
            "eps": normal(rng, s.B, s.K, s.Z),
        },
        outputs=("rate",),
        gradients=("z", "stats"),
        mutations={
            "path through q missing": returns(stats=lambda d: 0 * d),
            "path through p missing": returns(z=lambda d: 0 * d),
            "averaged over K": returns(stats=lambda dstats, drate: dstats / drate.shape[1]),
        },
        transcendental=False,
    ),
    Case(
        "bernoulli",
        draw=draw_bernoulli,
        outputs=("log_px",),
        gradients=("logits",),
        mutations={
            "wrong sign": returns(logits=lambda d: -d),
            "probabilities for logits": reads(logits=reference.sigmoid),
            "seed of another sample": reads(dlog_px=lambda d: d[:, ::-1]),
        },
    ),
    Case(
        "gaussian",
        draw=lambda rng, s: {
            "mean": normal(rng, s.B, s.K, s.D, edge=FAR),
            "target": normal(rng, s.B, s.D),
            "logvar": rng.uniform(-1, 1, 1),
        },
        outputs=("log_px",),
        gradients=("mean", "logvar"),
        mutations={
            "precision missing": returns(mean=lambda dmean, logvar: dmean * np.exp(logvar)),
            "log sigma for logvar": returns(logvar=lambda dlogvar: dlogvar * 2),
            "D forgotten": returns(logvar=lambda dlogvar, mean: dlogvar / mean.shape[-1]),
        },
    ),
    Case(
        "gaussian_optimal",
        draw=lambda rng, s: {"mean": normal(rng, s.B, s.K, s.D, edge=FAR), "target": normal(rng, s.B, s.D)},
        outputs=("log_px", "logvar"),
        gradients=("mean",),
        mutations={
            "path through sigma missing": returns(
                mean=lambda dmean, dlog_px, mean, target, logvar: (
                    dlog_px[..., None] * (target[:, None] - mean) * np.exp(-logvar)
                )
            ),
            "wrong sign": returns(mean=lambda d: -d),
        },
        empty=False,
    ),
    Case(
        "gaussian_pixel",
        draw=lambda rng, s: {
            "pixels": gaussian_stats(rng, s.B, s.K, s.D, edge=FAR),
            "target": normal(rng, s.B, s.D),
        },
        outputs=("log_px",),
        gradients=("pixels",),
        mutations={
            "1/2 missing": returns(pixels=map_half(1, lambda d: d * 2)),
            "sigma for its square": reads(pixels=map_half(1, lambda logvar: logvar / 2)),
            "log sigma^2 term missing": returns(
                pixels=lambda d, dlog_px: d + np.repeat([0, 0.5], d.shape[-1] // 2) * dlog_px[..., None]
            ),
        },
    ),
    elbo("", beta=0.7, free_bits=0.0),
    elbo("free-bits", 0.7, 0.5, clamp_without_its_derivative=reads(free_bits=lambda free_bits: 0.0)),
    Case(
        "iwae",
        draw=lambda rng, s: {"log_px": -20 + normal(rng, s.B, s.K), "rate": normal(rng, s.B, s.K, s.Z)},
        outputs=("loss", "log_w"),
        kept=("log_w",),
        gradients=("log_px", "rate", "log_w"),
        settings={"beta": 0.7},
        mutations={
            "all weights equal": reads(log_w=np.zeros_like),
            "beta ignored": reads(beta=lambda beta: 1.0),
            "wrong sign of the rate": returns(rate=lambda d: -d),
            "weights not normalised": returns(
                log_px=lambda d, log_w: d * np.exp(log_w - log_w.max(1, keepdims=True)).sum(1, keepdims=True)
            ),
        },
        wide=True,
        empty=False,
    ),
)
