"""npvae: a variational autoencoder from scratch, every gradient written by hand.

In reading order: `npvae.ops.reference` (the pairs and their derivations), `flat`, `mlp`, `likelihoods`, `bounds`,
`vae`, `autoencoder`, `workspace`, `optim`, `checking`, then everything around them. Numba and matplotlib are imported
when they are first needed, not here.
"""

from npvae import datasets, lessons
from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE
from npvae.checking import check_function, check_pair, gradcheck
from npvae.datasets import Dataset
from npvae.errors import DivergenceError, InputError
from npvae.evaluation import Evaluation, evaluate
from npvae.explaining import Explanation, explain
from npvae.flat import named
from npvae.likelihoods import Bernoulli, Gaussian, GaussianLearned, GaussianOptimal, GaussianPixel
from npvae.ops.threads import get_threads, set_threads
from npvae.optim import SGD, Adam, AdamW, RMSProp, constant, cosine, linear_warmup, step_decay
from npvae.reports import Diagnosis, Finding, Report, TensorCheck
from npvae.runs import Run, load
from npvae.training import Interrupted, resume, train
from npvae.vae import VAE
from npvae.workspace import Workspace

__all__ = [
    "ELBO",
    "IWAE",
    "SGD",
    "VAE",
    "Adam",
    "AdamW",
    "Autoencoder",
    "Bernoulli",
    "Dataset",
    "Diagnosis",
    "DivergenceError",
    "Evaluation",
    "Explanation",
    "Finding",
    "Gaussian",
    "GaussianLearned",
    "GaussianOptimal",
    "GaussianPixel",
    "InputError",
    "Interrupted",
    "LinearAutoencoder",
    "RMSProp",
    "Report",
    "Run",
    "TensorCheck",
    "Workspace",
    "check_function",
    "check_pair",
    "constant",
    "cosine",
    "datasets",
    "evaluate",
    "explain",
    "get_threads",
    "gradcheck",
    "lessons",
    "linear_warmup",
    "load",
    "named",
    "resume",
    "set_threads",
    "step_decay",
    "train",
]
