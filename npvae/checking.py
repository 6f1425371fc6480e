"""Gradient checks of a model, of an op, or of anybody's code: what backward wrote beside what the loss itself says.

Here each of the three becomes a `Problem`: a loss of arrays that may be moved, and its gradients. The oracles stand in
`oracles`, where they look and what verdict follows in `probing`, all that is asked of a problem in `examination`, the
explanations in `diagnosis`, what comes out in `reports`.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from npvae import noise
from npvae.bounds import ELBO
from npvae.calls import Problem, Terms, Values, as_array, as_number, returned_views, same, scalar, shared
from npvae.errors import InputError
from npvae.examination import Progress, examine
from npvae.flat import Array, leaves
from npvae.noise import Purpose, stream
from npvae.oracles import complex_step, richardson
from npvae.probing import Function
from npvae.reports import Report
from npvae.vae import VAE
from npvae.workspace import Workspace

# ── The three public functions ───────────────────────────────────────────────────────────────────────────────────────


def gradcheck(
    ws: Workspace, x: Array, target: Array | None = None, beta: float = 1.0, entries: int | None = None
) -> Report:
    """Check the gradient that `ws`'s model and backend give for a batch x (B, D), and return a Report.

    The check works on a private copy in float64 (the complex step's in complex128, on the reference backend): `ws`,
    its generator included, is left as it was. entries: how many of each parameter array are checked one by one, one
    from each of so many strata, the rest by two random directions. None: all, if the model has no more than 2,000 and
    they take no more than ten seconds; else 16, or 8, 4, 2 or 1, and one direction instead of two, as those allow. Only
    a loss so slow that one entry and one direction of every array take longer is given more; and of an array that is
    wrong, the place is then looked for besides. Raises InputError for what `Workspace.forward` would refuse.

    >>> import npvae as nv
    >>> ws = nv.Workspace(nv.VAE(data=6, hidden=(5,), latent=2), batch=4)
    >>> nv.gradcheck(ws, np.eye(4, 6)).ok
    True
    """
    if not isinstance(ws, Workspace):
        raise InputError(f"ws must be a Workspace, such as Workspace(model, batch=8), got {type(ws).__name__}")
    if not isinstance(x, np.ndarray) or x.ndim != 2:
        raise InputError(f"x must be an array (B, {ws.model.data}), got {x!r:.80}")
    real, oracle = (
        Workspace(ws.model, max(len(x), 1), ws.samples, dtype, backend, theta=ws.theta.real.astype(dtype))
        for dtype, backend in (("float64", ws.backend), ("complex128", "reference"))
    )
    shape = ws.model.noise(len(x), ws.samples)
    eps = None if shape is None else noise.normal(stream(ws.seed, Purpose.CHECK), np.empty(shape))

    def gradients() -> dict[str, Array]:
        real.forward(x, target, eps, beta)
        real.backward()
        return dict(leaves(real.grads))

    def loss_of(copy: Workspace, weight: float = beta) -> Callable[[], Any]:
        return lambda: copy.forward(x, target, eps, weight)

    loss_of(real)()  # refuses what does not fit
    params = dict(leaves(oracle.params))
    scales = {"B": len(x), "D": ws.model.data, "Z": ws.model.latent, "K": ws.samples, "beta": beta}
    problem = Problem(
        real=Function(dict(leaves(real.params)), loss_of(real)),
        exact=Function(params, loss_of(oracle)),
        gradients=gradients,
        scales=scales,
        other=f"the loss of backend {ws.backend!r} is not that of the reference",
    )
    if isinstance(ws.model, VAE) and isinstance(ws.model.bound, ELBO):  # the loss is affine in beta
        problem.terms = _parts(problem.exact, Function(params, loss_of(oracle, 0.0)))
    return examine(problem, entries)


def check_pair(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: Values,
    *,
    outputs: Sequence[str] = ("y",),
    gradients: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    exact: Callable[..., Any] | None = None,
    entries: int | None = None,
    seed: int = 0,
) -> Report:
    """Check an op: backward's derivatives of <v, forward(inputs)> for a random v, and return a Report.

    forward(**inputs, **settings) returns an array, or a tuple of them, which `outputs` names in order. backward is
    called by the names of its own parameters: those of inputs, outputs and settings, and "d" + an output's name for
    v, the loss's derivative by it; an output whose derivative it does not take is left out of the loss, which a finding
    says. It returns, as an array, a tuple or a dict, the derivatives by `gradients` (all inputs when None), in order;
    those by an output that stand among them are not looked at. exact: a forward for the complex step, if `forward`
    takes no complex numbers. entries: see `gradcheck`. seed: of v. Raises InputError for arguments that do not fit
    together.

    >>> W, x = np.eye(3, 2), np.ones((4, 3))
    >>> check_pair(lambda x, W: x @ W, lambda dy, x, W: (dy @ W.T, x.T @ dy), {"x": x, "W": W}).ok
    True
    """
    check_functions(forward=forward, backward=backward, **({} if exact is None else {"exact": exact}))
    fixed = dict(settings or {})
    arrays = {name: np.array(value, order="C") for name, value in check_arrays("inputs", inputs, floats=False).items()}
    returned = tuple(arrays if gradients is None else gradients)
    names = [name for name in returned if name in arrays]
    for name in returned:
        if name not in arrays and name not in outputs:
            raise InputError(f"gradients names {name!r}, which is no input: {', '.join(arrays)}")
    params = {
        name: np.array(value, np.float64)
        for name, value in check_arrays("inputs", {n: arrays[n] for n in names}).items()
    }
    check_names("forward", forward, [*arrays, *fixed])
    given = _copied(arrays | params)
    first = _named(outputs, forward(**given, **fixed), "forward", "outputs")
    overwritten = [name for name, value in (arrays | params).items() if not same(value, given[name])]
    rng = np.random.default_rng(seed)
    parameters = _parameters("backward", backward)
    v = {f"d{name}": rng.standard_normal(np.shape(value)) for name, value in first.items()}
    v = {name: value for name, value in v.items() if name in parameters}
    if not v:
        raise InputError(
            f"backward must take {' or '.join('d' + name for name in first)}, its parameters are {[*parameters]}"
        )
    known = {*arrays, *first, *fixed, *v}
    required = [p.name for p in parameters.values() if p.default is p.empty]
    if set(required) - known:
        raise InputError(
            f"backward's parameters must be among {', '.join(sorted(known))}: got {', '.join(set(required) - known)}"
        )

    def loss_of(function: Callable[..., Any], values: Values) -> Callable[[], Any]:
        def loss() -> Any:
            put_out = _named(outputs, function(**_copied(arrays | dict(values)), **fixed), "forward", "outputs")
            return sum(np.sum(w * put_out[name[1:]]) for name, w in v.items())

        return loss

    changed: dict[str, None] = {}
    views: dict[str, None] = {}

    def derivatives() -> dict[str, Array]:
        given = arrays | params
        pool = {**_named(outputs, forward(**_copied(given), **fixed), "forward", "outputs"), **given, **fixed, **v}
        used = {name: pool[name] for name in parameters if name in pool}
        before = {name: value.copy() for name, value in used.items() if isinstance(value, np.ndarray)}
        result = backward(**used)
        changed.update({name: None for name, value in before.items() if not same(value, used[name])})
        for name, value in before.items():
            used[name][...] = value
        named = result if isinstance(result, Mapping) else _named(returned, result, "backward", "gradients")
        returned_by_name = {name: value for name, value in named.items() if name in params}
        found = {f"the gradient of {name}": g for name, g in returned_by_name.items() if isinstance(g, np.ndarray)}
        views.update(dict.fromkeys(shared(found, {name: used[name] for name in before if name not in params})))
        return returned_by_name

    complex_params = {name: value.astype(np.complex128) for name, value in params.items()}
    problem = Problem(
        real=Function(params, loss_of(forward, params)),
        exact=Function(complex_params, loss_of(exact or forward, complex_params)),
        gradients=derivatives,
        other="" if exact is None else "forward does not compute what `exact` does",
    )
    with np.errstate(all="ignore"):
        derivatives()
    for name in first:
        if f"d{name}" not in v:
            text = f"backward takes no d{name}: what flows back through {name} is not checked"
            problem.find("unchecked", text, fatal=False)
    problem.findings += returned_views(views)
    for who, names in (("forward", overwritten), ("backward", [*changed])):
        if names:
            problem.find("mutation", f"{who} changes what it is given: {', '.join(names)}")
    return examine(problem, entries, seed)


def check_function(
    loss: Callable[[dict[str, Array]], float],
    gradients: Callable[[dict[str, Array]], Mapping[str, Array]],
    params: Values,
    *,
    terms: Callable[[dict[str, Array]], Mapping[str, float | Values]] | None = None,
    sizes: Mapping[str, float] | None = None,
    entries: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Check anybody's gradients against the loss they belong to, and return a Report.

    loss(params) -> float and gradients(params) -> dict are called with a dict of arrays like `params` (float64 copies
    of them, which are moved a little), `gradients` right after `loss` at the same parameters; noise must be the same
    in every call. The order of `params` is taken for that of the forward pass: a gradient that is wrong spoils those
    before it. A loss that takes complex numbers too is checked by the complex step besides.

    terms: terms(params) is what the loss is the sum of, as numbers by name such as {"reconstruction": 81.2, "rate":
    5.3}, or what the gradient is the sum of, as dicts like what gradients returns: a term that is missing or off by a
    factor is then named. sizes: what factors may be called, such as {"B": 16, "D": 784}. entries: see
    `gradcheck`. seed: of the probes. progress: is told how many tensors are done, of how many. Raises InputError for
    what is not a dict of float arrays, not a number or not a function.

    >>> w = {"w": np.arange(3.0)}
    >>> check_function(lambda p: (p["w"] ** 2).sum(), lambda p: {"w": 2 * p["w"]}, w).ok
    True
    >>> print(check_function(lambda p: (p["w"] ** 2).sum(), lambda p: {"w": 4 * p["w"]}, w).diagnosis)
    w: 2 times what it should be
    """
    check_functions(loss=loss, gradients=gradients, **({} if terms is None else {"terms": terms}))
    scales = check_sizes(sizes)
    copies = {name: np.array(value, np.float64, order="C") for name, value in check_arrays("params", params).items()}
    mutated: dict[str, None] = {}
    seen: set[str] = set()

    def called(what: str, function: Callable[[dict[str, Array]], Any], values: dict[str, Array]) -> Any:
        """The first call, and every one once something was changed, works on copies."""
        if what in seen and not mutated:
            return function(dict(values))
        seen.add(what)
        given = _copied(values)
        before = _copied(values)
        result = function(given)
        if any(not same(before[name], given.get(name)) for name in before):
            mutated[what] = None
        return result

    def derivatives() -> dict[str, Array]:
        called("loss", loss, copies)
        result = called("gradients", gradients, copies)
        if not isinstance(result, Mapping):
            raise InputError(
                f"gradients must return a dict of arrays by the names of params, got {type(result).__name__}"
            )
        return dict(result)

    complex_params = {name: value.astype(np.complex128) for name, value in copies.items()}
    problem = Problem(
        real=Function(copies, lambda: scalar(called("loss", loss, copies))),
        exact=Function(complex_params, lambda: scalar(called("loss with complex numbers", loss, complex_params))),
        gradients=derivatives,
        scales=scales,
    )
    if terms is not None:
        problem.terms = _given(terms, problem.real)
    with np.errstate(all="ignore"):
        derivatives()
    if pairs := shared(params):
        text = "the loss of views has another derivative than that of the copies that are checked: pass one array"
        problem.find("overlap", f"memory is shared by the parameters {'; '.join(pairs)}: {text}")
    for what in mutated:
        problem.find("mutation", f"{what} changes the parameters that it is given")
    return examine(problem, entries, seed, progress)


# ── Arguments ────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_arrays(what: str, values: object, *, floats: bool = True) -> dict[str, Array]:
    """Return `values` as a dict, or raise InputError unless it is one of arrays; of float32 or float64, if `floats`."""
    if not isinstance(values, Mapping) or not values:
        raise InputError(f"{what} must be a dict of arrays such as {{'W': W, 'b': b}}, got {values!r:.80}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise InputError(f"{what} must map names to arrays, got {name!r}: {value!r:.60}")
        if floats and value.dtype.kind != "f":
            raise InputError(
                f"{what}[{name!r}] must hold real numbers with a fraction, such as float64, got {value.dtype}"
            )
    if floats and not any(value.size for value in values.values()):
        said = ", ".join(f"{name} of shape {value.shape}" for name, value in values.items())
        raise InputError(f"{what} holds no number: {said}")
    return dict(values)


def check_functions(**given: object) -> None:
    """Raise InputError unless each of these can be called."""
    for name, value in given.items():
        if not callable(value):
            raise InputError(f"{name} must be a function, got {type(value).__name__}")


def check_sizes(sizes: object) -> dict[str, float]:
    """Return `sizes` as a dict, empty for None, or raise InputError unless it maps names to numbers."""
    if sizes is None:
        return {}
    if not isinstance(sizes, Mapping):
        raise InputError(f"sizes must be a dict such as {{'B': 16, 'D': 784}}, got {sizes!r:.60}")
    for name, value in sizes.items():
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(name, str) or not number:
            raise InputError(f"sizes must map names to numbers such as 'B': 16, got {name!r}: {value!r:.60}")
    return {name: float(value) for name, value in sizes.items()}


def check_names(what: str, function: Callable[..., Any], names: Sequence[str]) -> None:
    """Raise InputError unless a function can be called with arguments of these names."""
    _parameters(what, function)
    try:
        inspect.signature(function).bind(**dict.fromkeys(names))
    except TypeError as error:
        raise InputError(f"{what} must take {', '.join(names)}: {error}") from None


def _parameters(what: str, function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a function calls its arguments, all of which may be passed by name."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some that are written in C do not say
        raise InputError(f"{what} must say what its arguments are called: wrap {function!r:.60} in a def") from None
    unnamed = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_ONLY]
    if unnamed:
        raise InputError(
            f"{what} is called by the names of its parameters: let {', '.join(unnamed)} be passed by name (no '/')"
        )
    return parameters


def _copied(values: Values) -> dict[str, Array]:
    return {name: value.copy() for name, value in values.items()}


def _named(names: Sequence[str], result: Any, what: str, said: str) -> dict[str, Array]:
    """An array or a tuple of them, by name."""
    parts = result if isinstance(result, tuple) else (result,)
    if len(parts) != len(names):
        raise InputError(f"{what} returns {len(parts)} arrays, {said} names {len(names)}: {', '.join(names)}")
    return dict(zip(names, parts, strict=True))


# ── Terms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parts(whole: Function, reconstruction: Function) -> Terms:
    """Of a loss affine in beta: its slopes at beta 0, and what the rate adds."""

    def terms(name: str, where: Array) -> dict[str, Array]:
        total, part = (np.array([complex_step(f.line(name, int(i))) for i in where]) for f in (whole, reconstruction))
        return {"reconstruction": part, "rate": total - part}

    return terms


def _given(terms: Callable[[dict[str, Array]], Any], real: Function) -> Terms:
    """Of somebody's terms, the slopes at entries of an array: of a number by the oracle, of a gradient its entries."""

    def ask() -> dict[str, Any]:
        result = terms(dict(real.params))
        if not isinstance(result, Mapping):
            raise InputError(f"terms must return a dict of numbers or of dicts of arrays, got {type(result).__name__}")
        return dict(result)

    def slopes(name: str, where: Array) -> dict[str, Array]:
        found, x = {}, real.params[name]
        for term, value in ask().items():
            if isinstance(value, Mapping):
                gradient = as_array(f"terms: {term} of {name}", value.get(name, np.zeros_like(x)))
                if gradient.shape != x.shape or gradient.dtype.kind not in "fiub":
                    said = f"{gradient.dtype} of shape {gradient.shape}"
                    raise InputError(f"terms: {term} of {name} must be real numbers of shape {x.shape}, got {said}")
                found[term] = gradient.reshape(-1)[where]
            else:
                part, here = Function(real.params, lambda term=term: as_number(ask()[term])), as_number(value)  # type: ignore[misc]
                each = (
                    richardson(part.line(name, int(i)), here, real.size(name, int(i)), 0.0, real.noise) for i in where
                )
                found[term] = np.array([slope.value for slope in each])
        return found

    return slopes
