"""Models by name: what the command line says and what a configuration file keeps.

Every option that a model would ignore is refused: None says that an option was not given.
"""

from dataclasses import asdict
from typing import Any

from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE
from npvae.errors import InputError, check_choice
from npvae.likelihoods import LIKELIHOODS, Gaussian
from npvae.vae import VAE
from npvae.workspace import Model

KINDS = {"vae": VAE, "ae": Autoencoder, "linear": LinearAutoencoder}
BOUNDS = {"elbo": ELBO, "iwae": IWAE}
# Options that each kind takes besides data and latent.
OPTIONS = {
    "vae": ("hidden", "activation", "likelihood", "sigma", "bound", "free_bits"),
    "ae": ("hidden", "activation"),
    "linear": (),
}


def make_model(kind: str, data: int, **options: Any) -> Model:
    """The model of a kind ("vae", "ae" or "linear") for `data` pixels; options that are None keep their defaults.

    Raises InputError for unknown names and for an option that this model would ignore.

    >>> make_model("vae", 784, latent=2, likelihood="gaussian", sigma=0.5, bound=None)
    VAE(data=784, hidden=(400,), latent=2, activation='relu', likelihood=Gaussian(sigma=0.5), \
bound=ELBO(free_bits=0.0))
    >>> make_model("linear", 784, hidden=(400,))
    Traceback (most recent call last):
    npvae.errors.InputError: hidden means nothing to the model 'linear': leave it out
    """
    kind = check_choice("model", kind, KINDS)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in ("latent", *OPTIONS[kind]):
            raise InputError(f"{name} means nothing to the model {kind!r}: leave it out")
    if given.get("hidden") == () and "activation" in given:
        raise InputError("activation means nothing without hidden layers: leave it out")
    if kind == "vae":
        likelihood = check_choice("likelihood", given.get("likelihood", "bernoulli"), LIKELIHOODS)
        bound = check_choice("bound", given.get("bound", "elbo"), BOUNDS)
        sigma, free_bits = given.pop("sigma", None), given.pop("free_bits", None)
        if sigma is not None and likelihood != "gaussian":
            raise InputError(f"sigma means nothing to the likelihood {likelihood!r}: leave it out, or say 'gaussian'")
        if free_bits is not None and bound != "elbo":
            raise InputError(f"free_bits means nothing to the bound {bound!r}: leave it out, or say 'elbo'")
        given["likelihood"] = likelihood if sigma is None else Gaussian(sigma)
        given["bound"] = BOUNDS[bound]() if free_bits is None else ELBO(free_bits)
    model: Model = KINDS[kind](data=data, **given)
    return model


def describe(model: Model) -> dict[str, Any]:
    """What `make_model` needs to make this model again, as plain JSON values."""
    if not isinstance(model, VAE):
        kind = "ae" if isinstance(model, Autoencoder) else "linear"
        return {"kind": kind, **asdict(model)}
    description = {"kind": "vae", "data": model.data, "hidden": model.hidden, "latent": model.latent}
    description |= {"activation": model.activation, "likelihood": model.p_x.name}
    if isinstance(model.p_x, Gaussian):
        description["sigma"] = model.p_x.sigma
    description["bound"] = "elbo" if isinstance(model.bound, ELBO) else "iwae"
    if isinstance(model.bound, ELBO):
        description["free_bits"] = model.bound.free_bits
    return description
