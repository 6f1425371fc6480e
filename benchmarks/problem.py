"""What every contestant computes: a VAE of given widths, on a batch of given size, with given noise.

Only NumPy is imported here: a contestant's process loads this file, and must not load another contestant with it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

LR, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8  # Adam's, the same for all


@dataclass(frozen=True)
class Problem:
    """A Bernoulli VAE with ReLU layers: encoder data-hidden-[mu | logvar], decoder latent-hidden reversed-data.

    The loss is -ELBO with the rate in closed form (samples 1), or under bound "iwae" minus the importance-weighted
    bound of `samples` samples; in nats, summed over the data's pixels, averaged over the batch.
    """

    data: int = 784
    hidden: tuple[int, ...] = (400,)
    latent: int = 20
    batch: int = 128
    samples: int = 1
    bound: str = "elbo"

    @property
    def name(self) -> str:
        """Such as 784-400-20 B=128, or 784-200-200-50 B=20 K=5."""
        widths = "-".join(map(str, (self.data, *self.hidden, self.latent)))
        return f"{widths} B={self.batch}" + (f" K={self.samples}" if self.bound == "iwae" else "")

    @property
    def encoder(self) -> list[tuple[int, int]]:
        """The encoder's layers, (in, out)."""
        return list(pairwise((self.data, *self.hidden, 2 * self.latent)))

    @property
    def decoder(self) -> list[tuple[int, int]]:
        """The decoder's layers, (in, out)."""
        return list(pairwise((self.latent, *reversed(self.hidden), self.data)))

    @property
    def parameters(self) -> int:
        """How many numbers theta holds."""
        return sum(i * o + o for i, o in self.encoder + self.decoder)

    @property
    def flops(self) -> int:
        """Floating-point operations of a step's matrix products, forward and backward; nothing else is counted.

        A layer of n rows costs 2 n in out three times: y, dW and dx. Nobody needs the dx of the first.
        """
        layers = [(self.batch, i, o) for i, o in self.encoder]
        layers += [(self.batch * self.samples, i, o) for i, o in self.decoder]
        first = self.batch * self.encoder[0][0] * self.encoder[0][1]
        return 6 * sum(n * i * o for n, i, o in layers) - 2 * first

    def layers(self, theta: Array) -> list[tuple[Array, Array]]:
        """A flat vector -> (W, b) of every layer, encoder first: views, in npvae's order."""
        return [(W.reshape(i, o), b) for (i, o), W, b in self._cut(theta)]

    def flatten(self, layers: list[tuple[Any, Any]]) -> Array:
        """(W, b) of every layer -> one flat vector in npvae's order."""
        return np.concatenate([np.asarray(part).ravel() for layer in layers for part in layer])

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes back."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Problem":
        """The problem that `to_json` described."""
        return cls(**fields | {"hidden": tuple(fields["hidden"])})

    def _cut(self, theta: Array) -> Iterator[tuple[tuple[int, int], Array, Array]]:
        start = 0
        for i, o in self.encoder + self.decoder:
            middle, stop = start + i * o, start + i * o + o
            yield (i, o), theta[start:middle], theta[middle:stop]
            start = stop
