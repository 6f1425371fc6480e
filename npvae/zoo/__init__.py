"""The bug zoo: mistakes that variational autoencoders have, each alone in a file that is right otherwise.

`plain.py` is somebody's implementation in plain NumPy: a VAE with the ELBO or the importance-weighted bound, a tied
linear autoencoder, Adam, an epoch. It is right. A bug is a line or a few of it, written as somebody wrote them:
those of `wrong_gradients.py` a gradient check sees; those of `wrong_losses.py` no derivative does, because forward and
backward agree, or because they happen around the gradient. `loss_witnesses.py` and `training_witnesses.py` find these:
statistics, and identities that hold for every right model. `report.py` asks all killers about all bugs.

    npvae gradcheck --zoo                      which killer finds which bug, and what it calls it
    npvae gradcheck --exercise 7               a file with one bug: find it
    npvae gradcheck --exercise 7 --solution    the answer

>>> from npvae.zoo.report import case
>>> print(case("kl-half-missing").diagnosis)
the rate is 2.904 nats, the KL of what is sampled 1.455: the KL is doubled, its 1/2 is missing
"""
