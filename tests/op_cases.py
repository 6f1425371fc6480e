"""Every op, for all tests that sweep ops.

What an op reads, puts out and returns derivatives by is declared in `npvae.specimens`; a `Case` adds in which ways its
backward could be wrong, and what tests need to call it on any backend, with `out=` and scratch.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from npvae.mlp import ACTIVATIONS
from npvae.ops import reference
from npvae.specimens import OPS, Op, Sizes, normal

Array = np.ndarray
Values = dict[str, Any]  # arrays and numbers by the name they have in the ops


# ── Numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def error(a: Any, b: Any, size: Any = None) -> float:
    """max|a - b| / max|b| over the entries where b is finite; the others must be the same in both.

    size: as b, without what cancels in its sums; the error is then relative to that.
    """
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, (a.shape, b.shape)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return np.inf
    if not finite.any():
        return 0.0
    a, b, size = (np.asarray(each)[finite].astype(np.float64) for each in (a, b, b if size is None else size))
    return float(np.max(np.abs(a - b)) / (np.max(np.abs(size)) or 1.0))


def same(a: Any, b: Any) -> bool:
    """Bit for bit, dtype and shape included."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


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

    declared: Op
    mutations: Mapping[str, Mutation]
    kept: tuple[str, ...] | None = None  # the outputs that forward's `out` takes; None: all
    wide: bool = False  # inputs are float64 in every precision
    transcendental: bool = True
    empty: bool = True  # sizes may be 0
    scratch: Callable[[Values], tuple[int, ...]] | None = None  # arguments of `op`_scratch

    @property
    def op(self) -> str:
        """The functions are `op`_forward and `op`_backward."""
        return self.declared.name

    @property
    def outputs(self) -> tuple[str, ...]:
        """What forward returns."""
        return self.declared.outputs

    @property
    def gradients(self) -> tuple[str, ...]:
        """By what backward returns derivatives, in order."""
        return self.declared.gradients

    @property
    def settings(self) -> Values:
        """The other arguments of both."""
        return dict(self.declared.settings)

    @property
    def name(self) -> str:
        return str(self.declared).replace(" ", "-")

    def __str__(self) -> str:
        return self.name

    def inputs(self, rng: np.random.Generator, sizes: Sizes, dtype: Any = np.float64) -> Values:
        """Valid inputs; kinks, where the op has any, are at a distance."""
        return {k: v.astype(np.float64 if self.wide else dtype) for k, v in self.declared.draw(rng, sizes).items()}

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


DECLARED = {str(op): op for op in OPS}


def dense(name: str, act: int) -> Case:
    mutations = {
        "W for its transpose": reads(W=np.transpose),  # seen where D = H
        "bias averaged over the rows": returns(b=lambda db, x: db / len(x)),
    }
    if act != reference.IDENTITY:
        mutations["derivative of the activation missing"] = reads(act=lambda act: reference.IDENTITY)
    return Case(
        DECLARED[f"dense {name}"],
        transcendental=name in ("tanh", "sigmoid", "softplus", "elu"),
        scratch=lambda inputs: (len(inputs["x"]), *inputs["W"].shape),
        mutations=mutations,
    )


def elbo(name: str, **mutations: Mutation) -> Case:
    return Case(
        DECLARED[name],
        kept=(),
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


CASES = (
    *(dense(name, act) for name, act in ACTIVATIONS.items()),
    Case(
        DECLARED["tied"],
        mutations={
            "encoder's term missing": returns(W=lambda dW, dy, z: dy.T @ z),
            "decoder's term missing": returns(W=lambda dW, dy, x, W: x.T @ (dy @ W)),
        },
        transcendental=False,
        scratch=lambda inputs: inputs["W"].shape,
    ),
    Case(
        DECLARED["squared_error"],
        mutations={
            "2 missing": returns(y=lambda dy: dy / 2),
            "wrong sign": returns(y=lambda d: -d),
            "averaged over D": returns(y=lambda dy: dy / dy.shape[-1]),
        },
        transcendental=False,
    ),
    Case(
        DECLARED["reparameterize"],
        mutations={
            "1/2 missing": returns(stats=map_half(1, lambda d: d * 2)),
            "noise of another row": reads(eps=lambda eps: eps[::-1]),
            "sum over K missing": reads(dz=lambda dz: dz * (np.arange(dz.shape[1]) == 0)[:, None]),
            "logvar taken for log sigma": reads(stats=map_half(1, lambda logvar: logvar * 2)),
            "noise detached": returns(stats=map_half(1, np.zeros_like)),
        },
    ),
    Case(
        DECLARED["gaussian_kl"],
        mutations={
            "wrong sign": returns(stats=lambda d: -d),
            "sigma for its square": reads(stats=map_half(1, lambda logvar: logvar / 2)),
            "half of it missing": returns(stats=map_half(1, np.zeros_like)),
        },
    ),
    Case(
        DECLARED["log_ratio"],
        mutations={
            "path through q missing": returns(stats=lambda d: 0 * d),
            "path through p missing": returns(z=lambda d: 0 * d),
            "averaged over K": returns(stats=lambda dstats, drate: dstats / drate.shape[1]),
        },
        transcendental=False,
    ),
    Case(
        DECLARED["bernoulli"],
        mutations={
            "wrong sign": returns(logits=lambda d: -d),
            "probabilities for logits": reads(logits=reference.sigmoid),
            "seed of another sample": reads(dlog_px=lambda d: d[:, ::-1]),
        },
    ),
    Case(
        DECLARED["gaussian"],
        mutations={
            "precision missing": returns(mean=lambda dmean, logvar: dmean * np.exp(logvar)),
            "log sigma for logvar": returns(logvar=lambda dlogvar: dlogvar * 2),
            "D forgotten": returns(logvar=lambda dlogvar, mean: dlogvar / mean.shape[-1]),
        },
    ),
    Case(
        DECLARED["gaussian_optimal"],
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
        DECLARED["gaussian_pixel"],
        mutations={
            "1/2 missing": returns(pixels=map_half(1, lambda d: d * 2)),
            "sigma for its square": reads(pixels=map_half(1, lambda logvar: logvar / 2)),
            "log sigma^2 term missing": returns(
                pixels=lambda d, dlog_px: d + np.repeat([0, 0.5], d.shape[-1] // 2) * dlog_px[..., None]
            ),
        },
    ),
    elbo("elbo"),
    elbo("elbo free-bits", clamp_without_its_derivative=reads(free_bits=lambda free_bits: 0.0)),
    Case(
        DECLARED["iwae"],
        kept=("log_w",),
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
