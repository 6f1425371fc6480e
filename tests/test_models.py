"""Models by name: there and back through JSON, and nothing given is ignored."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE
from npvae.errors import InputError
from npvae.likelihoods import LIKELIHOODS, Gaussian
from npvae.mlp import ACTIVATIONS
from npvae.models import BOUNDS, KINDS, OPTIONS, describe, make_model
from npvae.vae import VAE

WIDTHS = st.integers(1, 9)
HIDDEN = st.lists(WIDTHS, max_size=3).map(tuple)
POSITIVE = st.floats(1e-6, 1e6)
ACTIVATION = st.sampled_from(tuple(ACTIVATIONS))
MODELS = st.one_of(
    st.builds(
        VAE,
        data=WIDTHS,
        hidden=HIDDEN,
        latent=WIDTHS,
        activation=ACTIVATION,
        likelihood=st.sampled_from(tuple(LIKELIHOODS)) | st.builds(Gaussian, POSITIVE),
        bound=st.builds(ELBO, st.just(0.0) | POSITIVE) | st.builds(IWAE),
    ),
    st.builds(Autoencoder, data=WIDTHS, hidden=HIDDEN, latent=WIDTHS, activation=ACTIVATION),
    st.builds(LinearAutoencoder, data=WIDTHS, latent=WIDTHS),
)


@settings(derandomize=True, database=None, deadline=None, max_examples=200)
@given(MODELS)
def test_a_model_comes_back_from_its_description(model):
    again = make_model(**json.loads(json.dumps(describe(model), allow_nan=False)))
    assert again == model and type(again) is type(model)
    assert describe(again) == describe(model)


def test_what_is_not_given_keeps_its_default():
    assert make_model("vae", 7) == VAE(7)
    assert make_model("vae", 7, latent=None, sigma=None, bound=None) == VAE(7)
    assert make_model("ae", 7) == Autoencoder(7)
    assert make_model("linear", 7) == LinearAutoencoder(7)


def test_what_is_given_is_taken():
    model = make_model("vae", 7, hidden=(3,), latent=2, activation="elu", likelihood="gaussian-pixel", bound="iwae")
    assert model == VAE(7, (3,), 2, "elu", "gaussian-pixel", IWAE())
    assert make_model("vae", 7, likelihood="gaussian", sigma=0.5).likelihood == Gaussian(0.5)
    assert make_model("vae", 7, free_bits=0.5).bound == make_model("vae", 7, bound="elbo", free_bits=0.5).bound
    assert make_model("vae", 7, free_bits=0.5).bound == ELBO(0.5)
    assert make_model("ae", 7, hidden=(3,), latent=2, activation="tanh") == Autoencoder(7, (3,), 2, "tanh")
    assert make_model("linear", 7, latent=2) == LinearAutoencoder(7, 2)


GIVEN = {
    "hidden": (3,), "activation": "tanh", "likelihood": "gaussian", "sigma": 0.5, "bound": "iwae", "free_bits": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    "kind, name", [(kind, name) for kind in ("ae", "linear") for name in GIVEN if name not in OPTIONS[kind]]
)
def test_an_option_that_a_model_would_ignore_is_refused(kind, name):
    with pytest.raises(InputError, match=f"^{name} means nothing to the model '{kind}'"):
        make_model(kind, 7, **{name: GIVEN[name]})


def test_every_option_means_something_to_some_model():
    assert set(GIVEN) == set(OPTIONS["vae"])
    assert OPTIONS["ae"] == ("hidden", "activation") and OPTIONS["linear"] == ()
    with pytest.raises(InputError, match=r"^colour means nothing to the model 'vae'"):
        make_model("vae", 7, colour="red")


def test_an_activation_stands_between_layers():
    with pytest.raises(InputError, match=r"^activation means nothing without hidden layers"):
        make_model("ae", 7, hidden=(), activation="tanh")


@pytest.mark.parametrize("likelihood", [None, *(name for name in LIKELIHOODS if name != "gaussian")])
def test_sigma_belongs_to_the_gaussian(likelihood):
    with pytest.raises(InputError, match=f"^sigma means nothing to the likelihood '{likelihood or 'bernoulli'}'"):
        make_model("vae", 7, likelihood=likelihood, sigma=0.5)


def test_free_bits_belong_to_the_elbo():
    with pytest.raises(InputError, match=r"^free_bits means nothing to the bound 'iwae'"):
        make_model("vae", 7, bound="iwae", free_bits=0.5)
    with pytest.raises(InputError, match=r"^free_bits means nothing"):
        make_model("vae", 7, bound="iwae", free_bits=0.0)


@pytest.mark.parametrize(
    "kind, options, what, known, nearest",
    [
        ("vea", {}, "model", KINDS, "vae"),
        ("vae", {"activation": "Tanh"}, "activation", ACTIVATIONS, "tanh"),
        ("vae", {"likelihood": "gaussian-learnt"}, "likelihood", LIKELIHOODS, "gaussian-learned"),
        ("vae", {"bound": "iwea"}, "bound", BOUNDS, "iwae"),
    ],
)
def test_unknown_names_list_the_known_and_suggest_the_nearest(kind, options, what, known, nearest):
    with pytest.raises(InputError, match=rf"^unknown {what} .*expected one of {', '.join(known)}\. .*'{nearest}'\?$"):
        make_model(kind, 7, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrong", [0, -3, 2.5, "20", True])
def test_sizes_are_whole_numbers_above_zero(kind, wrong):
    with pytest.raises(InputError, match=r"^latent must be a whole number of at least 1"):
        make_model(kind, 7, latent=wrong)
    with pytest.raises(InputError, match=r"^data must be a whole number of at least 1"):
        make_model(kind, wrong)
    if kind != "linear":
        with pytest.raises(InputError, match=r"^hidden must be a whole number of at least 1"):
            make_model(kind, 7, hidden=(4, wrong))


@pytest.mark.parametrize("name", ["sigma", "free_bits"])
@pytest.mark.parametrize("wrong", [-1, float("nan"), "1"])
def test_other_numbers_are_checked(name, wrong):
    options = {"likelihood": "gaussian"} if name == "sigma" else {}
    with pytest.raises(InputError, match=f"^{name} must be a number"):
        make_model("vae", 7, **options, **{name: wrong})
