"""npvae: a variational autoencoder from scratch, every gradient written by hand.

In reading order: npvae.ops.reference (the pairs and their derivations), flat, mlp, likelihoods, bounds, vae,
autoencoder, workspace, optim, checking, then everything around them.
"""

from npvae import datasets
from npvae.autoencoder import Autoencoder, LinearAutoencoder
from npvae.bounds import ELBO, IWAE
from npvae.errors import DivergenceError, InputError
from npvae.flat import named
from npvae.likelihoods import Bernoulli, Gaussian, GaussianLearned, GaussianOptimal, GaussianPixel
from npvae.vae import VAE
from npvae.workspace import Workspace
