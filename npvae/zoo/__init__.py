"""The bug zoo: mistakes that variational autoencoders have, each alone in a file that is right otherwise.

`plain.py` is somebody's implementation in plain NumPy: a VAE with the ELBO or the importance-weighted bound, a tied
linear autoencoder, Adam, an epoch; it is right. A bug replaces a line or a few of it (`wrong_gradients.py`: a gradient
check sees them; `wrong_losses.py`: no derivative does). Killers find them: the gradient check, and the
statistics and identities of `loss_witnesses.py` and `training_witnesses.py`, which hold for every right model. `report.py` runs all killers on all bugs.

    npvae gradcheck --zoo                      which killer finds which bug, and what it calls it
    npvae gradcheck --exercise 7               a file with one bug: find it
    npvae gradcheck --exercise 7 --solution    the answer

>>> from npvae.zoo.report import KILLERS, case
>>> case("kl-sign").diagnosis
"""
