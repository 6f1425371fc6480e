"""The bug zoo: mistakes that variational autoencoders have, each alone in a file that is right otherwise.

`plain.py` is somebody's implementation in plain NumPy: a VAE with the ELBO or the importance-weighted bound, a tied
linear autoencoder, Adam, an epoch; it is right. A bug replaces a line or a few of it (`wrong_gradients.py`: a gradient
check sees them; `wrong_losses.py`: no derivative does). Killers find them: the gradient check, and `witnesses.py`,
statistics and identities that hold for every right model. `report.py` runs all killers on all bugs.

    npvae gradcheck --zoo                      which killer finds which bug, and what it calls it
    npvae gradcheck --exercise 7               a file with one bug: find it
    npvae gradcheck --exercise 7 --solution    the answer

>>> from npvae.zoo import bug, wrong_losses, witnesses
>>> module = bug.as_module(wrong_losses.WRONG_LOSSES[0].source(), "broken")
>>> print(witnesses.rate(module).text)
"""
