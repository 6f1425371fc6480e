"""Workspace: the numbers of a model - one flat buffer per role - with its backend and its noise."""

import math
from collections.abc import Iterator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npvae import noise
from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.errors import InputError, check_choice, check_memory, check_whole
from npvae.flat import Array, Tree, carve, sizes, zeros
from npvae.ops import default_backend, load_backend
from npvae.ops.reference import wide
from npvae.vae import VAE, Inputs

Model = VAE | Autoencoder | LinearAutoencoder

DTYPES = ("float32", "float64", "complex128")


class _Views(NamedTuple):
    """What a forward of so many rows writes to."""

    acts: Tree
    x: Array
    target: Array
    eps: Any  # None for a model without noise


class Workspace:
    """The buffers of a model for up to `batch` images at once.

    model: a VAE, Autoencoder or LinearAutoencoder. samples: K per image. dtype: float32, float64, or complex128 for
    the complex step (reference backend). backend: "jit" (the default, unless NUMBA_DISABLE_JIT is set) or
    "reference". seed: of the initial parameters and of `rng`. theta: parameters to share, another workspace's
    `theta`, in place of new ones. What does not fit raises InputError.

    theta, dtheta: all parameters and the loss's derivatives by them, as vectors. params, grads: the same memory as
    trees. acts, dacts: every intermediate of the last forward and the loss's derivatives by them. Gradients are
    allocated at the first backward.

    >>> import npvae as nv
    >>> ws = nv.Workspace(nv.VAE(data=6, hidden=(5,), latent=2), batch=4, dtype="float64", backend="reference")
    >>> loss = ws.forward(np.eye(4, 6))
    >>> ws.backward()
    >>> ws.grads.encoder[0].W.shape, ws.dacts.z.shape
    ((6, 5), (4, 1, 2))
    """

    def __init__(
        self,
        model: Model,
        batch: int,
        samples: int = 1,
        dtype: npt.DTypeLike = "float32",
        backend: str | None = None,
        seed: int = 0,
        theta: Array | None = None,
    ) -> None:
        if not isinstance(model, Model):
            raise InputError(f"model must be a VAE, an Autoencoder or a LinearAutoencoder, got {model!r}")
        self.model = model
        self.batch = check_whole("batch", batch)
        self.samples = check_whole("samples", samples)
        self.seed = check_seed(seed)
        self.dtype = np.dtype(check_choice("dtype", _dtype_name(dtype), DTYPES))
        if samples != 1 and model.noise(batch, samples) is None:
            raise InputError(f"samples must be 1: {type(model).__name__} draws none, got {samples}")
        if backend is None:
            backend = default_backend() if self.dtype.kind == "f" else "reference"
        self.ops = load_backend(backend)
        self.backend = backend
        if self.dtype.kind == "c" and backend != "reference":
            raise InputError("complex numbers need backend='reference'")

        layout = model.params()
        count, _ = sizes(layout)
        self._check_memory(count)
        if theta is None:
            self.theta = self._allocate(count)[0]
            self.params = carve(layout, self.theta)
            model.initialize(self.params, noise.stream(seed, noise.Purpose.INITIALIZE))
        else:
            if not isinstance(theta, np.ndarray) or theta.shape != (count,) or theta.dtype != self.dtype:
                raise InputError(
                    f"theta must be a vector of {count} {self.dtype} to share with {model!r}, "
                    f"got {getattr(theta, 'shape', theta)!r} of {getattr(theta, 'dtype', type(theta))}"
                )
            self.theta = theta
            self.params = carve(layout, theta)
        self.rng = noise.stream(seed, noise.Purpose.WORKSPACE)
        self._acts = self._allocate(*sizes(model.acts(batch, samples)))
        self._input = self._allocate(2 * batch * model.data)[0]
        self._eps = self._allocate(math.prod(model.noise(batch, samples) or (0,)))[0]
        self._views: dict[int, _Views] = {}
        self._gradient_views: dict[int, tuple[Tree, Tree]] = {}
        self._inputs: Inputs | None = None
        self.acts = self._views_of(batch).acts

    # ── The pass ─────────────────────────────────────────────────────────────────────────────────────────────────

    def forward(
        self, x: Array, target: Array | None = None, eps: Array | None = None, beta: float = 1.0
    ) -> float | complex:
        """The loss of a batch, in nats for a VAE; every intermediate is left in `acts`.

        x: (B, D), 1 <= B <= batch, what the encoder sees. target: (B, D), what is to be reconstructed, x itself when
        None. eps: (B, K, Z), drawn from `rng` when None. beta: the weight of the rate. They are copied, so that the
        caller's arrays may change before backward. A complex workspace returns a complex number. Shapes and kinds
        of number that do not fit raise InputError; the values are taken as they are.
        """
        rows = self._rows("x", x)
        acts, x_view, target_view, eps_view = self._views_of(rows)
        if not isinstance(beta, Real):
            raise InputError(f"beta must be a number, got {beta!r}")
        if target is not None and self._rows("target", target) != rows:
            raise InputError(f"target must have as many rows as x, {rows}, got {len(target)}")
        if eps_view is None and (eps is not None or beta != 1.0):
            raise InputError(f"{type(self.model).__name__} has no noise and no rate: it takes no eps and no beta")
        if eps is not None and not (
            isinstance(eps, np.ndarray) and eps.shape == eps_view.shape and eps.dtype.kind in "fiu"
        ):
            raise InputError(f"eps must be (B, K, Z) = {eps_view.shape} of real numbers, got {_describe(eps)}")

        self.acts = acts  # what is refused above leaves the last forward as it was
        self.ops.copy(x, x_view)
        if target is None:
            target_view = x_view
        else:
            self.ops.copy(target, target_view)
        if eps is not None:
            self.ops.copy(eps, eps_view)
        elif eps_view is not None:
            noise.normal(self.rng, eps_view)
        self._inputs = Inputs(x_view, target_view, eps_view, beta)
        loss = self.model.forward(self.ops, self.params, self._inputs, self.acts)
        return complex(loss) if self.dtype.kind == "c" else float(loss)

    def backward(self) -> None:
        """Fill `grads` and `dacts` with the derivatives of the last forward's loss."""
        if self._inputs is None:
            raise InputError("backward differentiates the last forward: call forward first")
        self.dacts, scratch = self._gradients_of(len(self._inputs.x))
        self.model.backward(self.ops, self.params, self._inputs, self.acts, self.grads, self.dacts, scratch)

    @property
    def inputs(self) -> Inputs | None:
        """What the last forward read: x, target, eps and beta, as views of the workspace; None before the first."""
        return self._inputs

    @property
    def terms(self) -> dict[str, float]:
        """What the last forward's loss is made of: {"reconstruction": ..., "rate": ...}, nats per image, unweighted."""
        if self._inputs is None:
            raise InputError("terms are those of the last forward: call forward first")
        return self.model.terms(self.acts)

    # ── Around the pass ──────────────────────────────────────────────────────────────────────────────────────────

    def encode(self, x: Array) -> Array:
        """x (n, D) -> codes (n, Z), for a VAE the posterior means; any n. Overwrites `acts`."""
        parts = self._parts("x", x, self.model.data)
        codes = [self.model.encode(self.ops, self.params, part, acts).copy() for part, acts in parts]
        return np.concatenate(codes or [np.empty((0, self.model.latent), self.dtype)])

    def decode(self, z: Array) -> Array:
        """Codes (n, Z) -> images (n, D), the mean of p(x|z) for a VAE; any n. Overwrites `acts`."""
        parts = self._parts("z", z, self.model.latent)
        images = [self.model.decode(self.ops, self.params, part, acts).copy() for part, acts in parts]
        return np.concatenate(images or [np.empty((0, self.model.data), self.dtype)])

    # ── Memory ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _rows(self, name: str, x: Array) -> int:
        """How many rows `x` has, if it is a batch of real images."""
        if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[1] != self.model.data:
            raise InputError(f"{name} must be an array (B, {self.model.data}), got {_describe(x)}")
        if x.dtype.kind not in "fiub":
            raise InputError(f"{name} must hold real numbers, got {x.dtype}")
        if not 1 <= len(x) <= self.batch:
            raise InputError(f"{name} must have 1 to {self.batch} rows, the workspace's batch, got {len(x)}")
        return len(x)

    def _parts(self, name: str, x: Array, width: int) -> Iterator[tuple[Array, Tree]]:
        """Batches of `x`, each in the workspace's dtype and with the activations to run it through."""
        if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[1] != width or x.dtype.kind not in "fiub":
            raise InputError(f"{name} must be an array (n, {width}) of real numbers, got {_describe(x)}")
        self._inputs = None  # the last forward's activations are gone
        for start in range(0, len(x), self.batch):
            part = np.ascontiguousarray(x[start : start + self.batch], self.dtype)
            self.acts = self._views_of(len(part)).acts
            yield part, self.acts

    def _views_of(self, rows: int) -> _Views:
        """The views of the buffers' beginnings that `rows` images need."""
        if rows not in self._views:
            data, noise_shape = self.model.data, self.model.noise(rows, self.samples)
            x, target = self._input[: 2 * rows * data].reshape(2, rows, data)
            eps = None if noise_shape is None else self._eps[: math.prod(noise_shape)].reshape(noise_shape)
            self._views[rows] = _Views(carve(self.model.acts(rows, self.samples), *self._acts), x, target, eps)
        return self._views[rows]

    def _gradients_of(self, rows: int) -> tuple[Tree, Tree]:
        """The same for backward: dacts and scratch, allocated with dtheta when they are first asked for."""
        if not hasattr(self, "dtheta"):
            self.dtheta = self._allocate(self.theta.size)[0]
            self.grads = carve(self.model.params(), self.dtheta)
            self._dacts = self._allocate(*sizes(self.model.acts(self.batch, self.samples)))
            self._scratch = self._allocate(*sizes(self.model.scratch(self.ops, self.batch, self.samples)))[0]
        if rows not in self._gradient_views:
            dacts = carve(self.model.acts(rows, self.samples), *self._dacts)
            scratch = carve(self.model.scratch(self.ops, rows, self.samples), self._scratch)
            self._gradient_views[rows] = dacts, scratch
        return self._gradient_views[rows]

    def _allocate(self, count: int, wide_count: int = 0) -> tuple[Array, Array]:
        """A vector of the workspace's dtype and one of its wide dtype, filled with 0."""
        return zeros(count, self.dtype), zeros(wide_count, wide(self.dtype))

    def _check_memory(self, count: int) -> None:
        """Refuse a workspace that this machine could not train, before any of its memory is asked for."""
        narrow, wider = sizes(self.model.acts(self.batch, self.samples))
        # theta, dtheta and an optimiser's two moments; in and out of every activation; x and target.
        numbers = 4 * count + 2 * narrow + 2 * self.batch * self.model.data
        wanted = numbers * self.dtype.itemsize + 2 * wider * wide(self.dtype).itemsize
        what = f"training {self.model!r} with batch {self.batch} and {self.samples} samples"
        check_memory(what, wanted, "take fewer or narrower layers, a smaller batch or fewer samples")


def check_seed(seed: object) -> int:
    """Return `seed` as an int in [0, 2^64), or raise InputError."""
    number = check_whole("seed", seed, least=0)
    if number >= 2**64:
        raise InputError(f"seed must be below 2^64, got {number}")
    return number


def _dtype_name(dtype: object) -> str:
    """The name of a dtype, or of what was meant to be one; None, which NumPy reads as float64, is not."""
    try:
        return "None" if dtype is None else np.dtype(dtype).name  # type: ignore[call-overload]
    except TypeError:
        return str(dtype)


def _describe(x: object) -> str:
    return f"{x.shape} of {x.dtype}" if isinstance(x, np.ndarray) else f"{type(x).__name__} {x!r:.80}"
