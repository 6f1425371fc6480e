"""Autoencoders: deep (and, with a target apart from the input, denoising), and the linear one that is PCA.

Both minimise |y - target|^2, summed over D and averaged over B, without a factor 1/2. They have the VAE's face and
no noise: what they are given of `eps` and `beta` would be ignored, so it is refused by the workspace.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from npvae.flat import Array, Shape
from npvae.mlp import MLP, check_architecture
from npvae.vae import Inputs, Params


class Acts(NamedTuple):
    """Every intermediate of a pass, or the loss's derivatives by them."""

    encoder: Any  # (B,H) per hidden layer, then the code (B,Z)
    decoder: Any  # (B,H) per hidden layer, then the reconstruction (B,D)
    error: Any  # (B,)


class LinearParams(NamedTuple):
    """The one matrix, (D,Z)."""

    W: Any


class LinearActs(NamedTuple):
    """Every intermediate of a pass, or the loss's derivatives by them."""

    z: Any  # (B,Z)
    y: Any  # (B,D)
    error: Any  # (B,)


class Scratch(NamedTuple):
    """Room for a backend."""

    backend: Any


@dataclass(frozen=True)
class Autoencoder:
    """x -> code -> y by dense layers, the decoder mirroring the encoder; the code and y are linear.

    data: pixels D. hidden: widths of the encoder's hidden layers. latent: width Z of the code. What makes no sense
    raises InputError. Hinton & Salakhutdinov 2006, "Reducing the dimensionality of data with neural networks";
    denoising: Vincent et al. 2008, "Extracting and composing robust features with denoising autoencoders".
    """

    data: int
    hidden: tuple[int, ...] = (400,)
    latent: int = 20
    activation: str = "relu"

    def __post_init__(self) -> None:
        for name, plain in check_architecture(self.data, self.hidden, self.latent, self.activation).items():
            object.__setattr__(self, name, plain)

    @cached_property
    def encoder(self) -> MLP:
        """x -> code."""
        return MLP((self.data, *self.hidden, self.latent), self.activation)

    @cached_property
    def decoder(self) -> MLP:
        """code -> y."""
        return MLP((self.latent, *reversed(self.hidden), self.data), self.activation)

    def params(self) -> Params:
        """Layout of theta."""
        return Params(self.encoder.params(), self.decoder.params(), likelihood=())

    def acts(self, batch: int, samples: int) -> Acts:
        """Layout of the activations; `samples` is 1."""
        return Acts(self.encoder.acts(batch), self.decoder.acts(batch), Shape((batch,), wide=True))

    def scratch(self, ops: Any, batch: int, samples: int) -> Scratch:
        """Layout of the scratch."""
        return Scratch(Shape((max(self.encoder.scratch(ops, batch), self.decoder.scratch(ops, batch)),)))

    def forward(self, ops: Any, p: Params, inputs: Inputs, a: Acts) -> Any:
        """Fill `a` and return the loss."""
        code = self.encoder.forward(ops, p.encoder, inputs.x, a.encoder)
        y = self.decoder.forward(ops, p.decoder, code, a.decoder)
        return ops.squared_error_forward(y, inputs.target, out=a.error).mean()

    def backward(self, ops: Any, p: Params, inputs: Inputs, a: Acts, dp: Params, da: Acts, s: Scratch) -> None:
        """Fill `dp` and `da` from what forward left in `a`."""
        da.error[:] = 1 / len(a.error)
        ops.squared_error_backward(da.error, a.decoder[-1], inputs.target, out=da.decoder[-1])
        code, dcode = a.encoder[-1], da.encoder[-1]
        self.decoder.backward(ops, p.decoder, code, a.decoder, dp.decoder, da.decoder, s.backend, dcode)
        self.encoder.backward(ops, p.encoder, inputs.x, a.encoder, dp.encoder, da.encoder, s.backend)

    def noise(self, batch: int, samples: int) -> None:
        """There is none."""

    def encode(self, ops: Any, p: Params, x: Array, a: Acts) -> Array:
        """x (B,D) -> code (B,Z)."""
        return self.encoder.forward(ops, p.encoder, x, a.encoder)

    def decode(self, ops: Any, p: Params, z: Array, a: Acts) -> Array:
        """Code (B,Z) -> y (B,D)."""
        return self.decoder.forward(ops, p.decoder, z, [h[: len(z)] for h in a.decoder])

    def initialize(self, p: Params, rng: np.random.Generator) -> None:
        """Draw the weights."""
        self.encoder.initialize(p.encoder, rng)
        self.decoder.initialize(p.decoder, rng)

    def terms(self, a: Acts) -> dict[str, float]:
        """The loss is all reconstruction."""
        return error_terms(a.error)


@dataclass(frozen=True)
class LinearAutoencoder:
    """y = x W W^T with one tied matrix W (D,Z) and no bias: its minimum spans the principal subspace.

    data: pixels D. latent: Z. What makes no sense raises InputError. Baldi & Hornik 1989, "Neural networks and
    principal component analysis: learning from examples without local minima".
    """

    data: int
    latent: int = 20

    def __post_init__(self) -> None:
        plain = check_architecture(self.data, (), self.latent, "identity")
        object.__setattr__(self, "data", plain["data"])
        object.__setattr__(self, "latent", plain["latent"])

    def params(self) -> LinearParams:
        """Layout of theta."""
        return LinearParams(Shape((self.data, self.latent)))

    def acts(self, batch: int, samples: int) -> LinearActs:
        """Layout of the activations; `samples` is 1."""
        return LinearActs(Shape((batch, self.latent)), Shape((batch, self.data)), Shape((batch,), wide=True))

    def scratch(self, ops: Any, batch: int, samples: int) -> Scratch:
        """Layout of the scratch."""
        return Scratch(Shape((ops.tied_scratch(self.data, self.latent),)))

    def forward(self, ops: Any, p: LinearParams, inputs: Inputs, a: LinearActs) -> Any:
        """Fill `a` and return the loss."""
        ops.tied_forward(inputs.x, p.W, out=(a.z, a.y))
        return ops.squared_error_forward(a.y, inputs.target, out=a.error).mean()

    def backward(
        self, ops: Any, p: LinearParams, inputs: Inputs, a: LinearActs, dp: LinearParams, da: LinearActs, s: Scratch
    ) -> None:
        """Fill `dp` and `da` from what forward left in `a`."""
        da.error[:] = 1 / len(a.error)
        ops.squared_error_backward(da.error, a.y, inputs.target, out=da.y)
        ops.tied_backward(da.y, inputs.x, p.W, a.z, out=(da.z, dp.W), scratch=s.backend)

    def noise(self, batch: int, samples: int) -> None:
        """There is none."""

    def encode(self, ops: Any, p: LinearParams, x: Array, a: LinearActs) -> Array:
        """x (B,D) -> code (B,Z)."""
        z: Array = np.matmul(x, p.W, out=a.z)
        return z

    def decode(self, ops: Any, p: LinearParams, z: Array, a: LinearActs) -> Array:
        """Code (B,Z) -> y (B,D)."""
        y: Array = np.matmul(z, p.W.T, out=a.y[: len(z)])
        return y

    def initialize(self, p: LinearParams, rng: np.random.Generator) -> None:
        """Orthonormal columns in expectation: N(0, 1/D), so that x W W^T starts as a random projection."""
        p.W[:] = rng.normal(0, np.sqrt(1 / self.data), p.W.shape)

    def terms(self, a: LinearActs) -> dict[str, float]:
        """The loss is all reconstruction."""
        return error_terms(a.error)


def error_terms(error: Array) -> dict[str, float]:
    """An autoencoder's terms: no code costs anything."""
    return {"reconstruction": float(error.real.mean()), "rate": 0.0}
