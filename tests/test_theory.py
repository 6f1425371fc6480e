"""Beyond derivatives, where forward and backward could be wrong together: models and quantities known exactly.

Bounds on means of samples are 4.5 of their standard errors, about one chance in 150,000 of failing by chance for each
number that is compared; seeds are fixed, so a test passes or never does.
"""

from typing import NamedTuple

import numpy as np
import pytest
from numba import config
from op_cases import Array, map_half
from test_ops import rng_of
from test_vae import BACKENDS, check_gradients, vae_trial

import npvae as nv
from npvae.ops import reference

DRAWS = 2_000 if config.DISABLE_JIT else 20_000  # per image
BOTH = pytest.mark.parametrize("backend", BACKENDS)


def exact_noise(rows, latent):
    """±sqrt(Z) e_j for every latent j: K = 2Z samples with the mean and the covariance of N(0, 1), exactly.

    So the mean over them of anything quadratic in z is its expectation: with a linear decoder and a Gaussian
    likelihood the bound has no sampling error.
    """
    axes = np.sqrt(latent) * np.eye(latent)
    return np.tile(np.vstack([axes, -axes]), (rows, 1, 1))


def images_of_spectrum(rng, n, variances, mean=0.0):
    """n images whose covariance has these eigenvalues, exactly, and this mean; and its eigenvectors, in columns."""
    D = len(variances)
    axes = np.linalg.qr(rng.standard_normal((D, D)))[0]
    white = np.linalg.qr(np.hstack([np.ones((n, 1)), rng.standard_normal((n, D))]))[0][:, 1:] * np.sqrt(n)
    return mean + white * np.sqrt(variances) @ axes.T, axes


def log_normal(x, mean, covariance):
    """log N(x; mean, covariance) of every row."""
    r = x - mean
    distance = np.einsum("nd,de,ne->n", r, np.linalg.inv(covariance), r)
    return -0.5 * (distance + np.linalg.slogdet(covariance)[1] + len(covariance) * np.log(2 * np.pi))


def elbo_by_image(ws):
    return ws.acts.log_px.mean(axis=1) - ws.acts.rate.sum(axis=(1, 2))


# ── Sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_codes_have_the_mean_and_the_variance_that_the_rate_counts(backend):
    """Of every image's draws: moments, correlations, and the divergence of a Gaussian with these moments.

    The standard errors are sigma/sqrt(K) of a mean, sigma^2 sqrt(2/K) of a variance, 1/sqrt(K) of a correlation; the
    rate moves by mu with the one and by (1 - 1/sigma^2)/2 with the other.
    """
    drawn = vae_trial(samples=DRAWS)
    ws = drawn.workspace(backend)
    ws.forward(drawn.batch.x)
    mu, logvar = np.split(ws.acts.stats[:, 0], 2, axis=-1)
    variance = np.exp(logvar)
    assert np.median(np.abs(logvar)) > 0.1  # sigma, sigma^2 and 1 are apart
    m, v = ws.acts.z.mean(axis=1), ws.acts.z.var(axis=1)
    mean_error, variance_error = np.sqrt(variance / DRAWS), variance * np.sqrt(2 / DRAWS)
    assert (np.abs(m - mu) <= 4.5 * mean_error).all()
    assert (np.abs(v - variance) <= 4.5 * variance_error).all()
    rate = 0.5 * (m**2 + v - 1 - np.log(v))
    rate_error = np.hypot(mu * mean_error, 0.5 * (1 - 1 / variance) * variance_error)
    second_order = mean_error**2 + (variance_error / variance) ** 2  # of the rate in its moments, times 4.5^2 / 2
    assert (np.abs(rate - ws.acts.rate[:, 0]) <= 4.5 * rate_error + 10 * second_order).all()
    for image in ws.acts.z:
        assert np.abs(np.corrcoef(image.T) - np.eye(3)).max() <= 4.5 / np.sqrt(DRAWS)


def log_density(likelihood, outputs, x, logvar):
    """log p(x|z) of one image x (D,) by decoder outputs (n, ...), written down once more."""
    if likelihood == "bernoulli":
        p = 1 / (1 + np.exp(-outputs))
        return (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(axis=-1)
    mean, v = np.split(outputs, 2, axis=-1) if likelihood == "gaussian-pixel" else (outputs, logvar)
    return (-0.5 * (np.log(2 * np.pi) + v + (x - mean) ** 2 / np.exp(v))).sum(axis=-1)


@BOTH
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "gaussian-learned", "gaussian-pixel"])
def test_expected_reconstruction_is_the_integral(likelihood, backend):
    """E_q log p(x|z) by samples, within 4.5 standard errors of the integral over the two latents.

    By the trapezium rule with 161 nodes on eight sigma either way: 121 give the same to 1e-12.
    """
    model = nv.VAE(5, (4,), 2, "tanh", likelihood)
    ws = nv.Workspace(model, 3, DRAWS, "float64", backend, seed=6)
    ws.theta[:] = 0.5 * rng_of("integral").standard_normal(ws.theta.size)
    x = rng_of("images").random((3, 5))
    ws.forward(x)
    p = ws.params
    mu, logvar = np.split(np.tanh(x @ p.encoder[0].W + p.encoder[0].b) @ p.encoder[1].W + p.encoder[1].b, 2, axis=-1)

    def integral(image, count):
        nodes = np.linspace(-8, 8, count)
        weights = np.exp(-0.5 * nodes**2) / np.sqrt(2 * np.pi) * (nodes[1] - nodes[0])
        eps = np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2)
        z = mu[image] + np.exp(logvar[image] / 2) * eps
        outputs = np.tanh(z @ p.decoder[0].W + p.decoder[0].b) @ p.decoder[1].W + p.decoder[1].b
        own = p.likelihood.logvar[0] if likelihood == "gaussian-learned" else 0.0
        return np.outer(weights, weights).ravel() @ log_density(likelihood, outputs, x[image], own)

    expected = [integral(image, 161) for image in range(3)]
    np.testing.assert_allclose([integral(image, 121) for image in range(3)], expected, rtol=1e-12)
    standard_error = ws.acts.log_px.std(axis=1) / np.sqrt(DRAWS)
    assert (standard_error < 0.05).all()
    assert (np.abs(ws.acts.log_px.mean(axis=1) - expected) <= 4.5 * standard_error).all()


# ── A model whose evidence is known ──────────────────────────────────────────────────────────────────────────────


class LinearGaussian(NamedTuple):
    """A workspace of the model, images, log p(x) and the mean and covariance of p(z|x)."""

    ws: nv.Workspace
    x: Array
    log_p: Array
    mean: Array
    covariance: Array


def linear_gaussian(bound, samples, exact_posterior=True, rows=6, backend="reference", angle=0.0):
    """x = z V + b + sigma N(0, 1): p(x) = N(b, V'V + sigma^2) and p(z|x) = N((x - b) V'C/sigma^2, C).

    C^-1 = V V'/sigma^2 + 1. At angle 0 the rows of V are orthogonal, so C is diagonal and the encoder can be the
    posterior itself; turned by an angle, p(x) stays the same and C is no longer diagonal.
    """
    rng, sigma, D, Z = rng_of("linear"), 0.6, 5, 2
    scales = np.array([1.5, 0.7])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    V = turn @ (scales[:, None] * np.linalg.qr(rng.standard_normal((D, Z)))[0].T)
    b = rng.standard_normal(D)
    model = nv.VAE(D, (), Z, "identity", nv.Gaussian(sigma), bound)
    ws = nv.Workspace(model, rows, samples, "float64", backend)
    C = np.linalg.inv(V @ V.T / sigma**2 + np.eye(Z))
    mean_map = V.T @ C / sigma**2
    ws.params.decoder[0].W[:], ws.params.decoder[0].b[:] = V, b
    ws.params.encoder[0].W[:] = np.hstack([mean_map, np.zeros((D, Z))])
    ws.params.encoder[0].b[:] = np.concatenate([-b @ mean_map, np.log(np.diag(C))])
    if not exact_posterior:
        ws.params.encoder[0].b[:] += np.repeat([0.3, 0.5], Z)
    x = rng.standard_normal((rows, Z)) @ V + b + sigma * rng.standard_normal((rows, D))
    log_p = log_normal(x, b, V.T @ V + sigma**2 * np.eye(D))
    return LinearGaussian(ws, x, log_p, (x - b) @ mean_map, C)


@BOTH
@pytest.mark.parametrize("samples", [1, 4])
def test_importance_weights_of_the_exact_posterior_are_the_evidence(samples, backend):
    """log p(x, z) - log q(z|x) = log p(x) whatever z is: every constant is right or this fails."""
    exact = linear_gaussian(nv.IWAE(), samples, backend=backend)
    loss = exact.ws.forward(exact.x)
    np.testing.assert_allclose(exact.ws.acts.log_w, np.broadcast_to(exact.log_p[:, None], (6, samples)), rtol=1e-12)
    assert loss == pytest.approx(-exact.log_p.mean(), rel=1e-12)


@BOTH
@pytest.mark.parametrize("angle", [0.0, 0.5])
def test_evidence_is_the_bound_and_the_divergence_from_the_posterior(angle, backend):
    """log p(x) = ELBO + KL(q(z|x) || p(z|x)), image by image, for a q that is off in mean, variance and correlation."""
    model = linear_gaussian(nv.ELBO(), 4, exact_posterior=False, backend=backend, angle=angle)
    loss = model.ws.forward(model.x, eps=exact_noise(6, 2))
    mu, logvar = np.split(model.ws.acts.stats[:, 0], 2, axis=-1)
    precision, apart = np.linalg.inv(model.covariance), model.mean - mu
    trace = np.exp(logvar) @ np.diag(precision)
    distance = np.einsum("nj,jk,nk->n", apart, precision, apart)
    divergence = 0.5 * (trace + distance - 2 + np.linalg.slogdet(model.covariance)[1] - logvar.sum(axis=-1))
    assert divergence.min() > 0.1
    np.testing.assert_allclose(elbo_by_image(model.ws) + divergence, model.log_p, rtol=0, atol=1e-10)
    assert loss == pytest.approx((divergence - model.log_p).mean(), abs=1e-10)


def test_importance_weights_of_a_wrong_posterior_average_to_the_evidence():
    """mean_k w_k is unbiased for p(x): within 4.5 standard errors of 20,000 draws, for every image."""
    model = linear_gaussian(nv.IWAE(), 20_000, exact_posterior=False)
    model.ws.forward(model.x)
    ratio = np.exp(model.ws.acts.log_w - model.log_p[:, None])
    standard_error = ratio.std(axis=1) / np.sqrt(ratio.shape[1])
    assert standard_error.max() < 0.05
    assert (np.abs(ratio.mean(axis=1) - 1) <= 4.5 * standard_error).all()


def test_more_importance_samples_tighten_the_bound():
    """ELBO <= IWAE_5 <= IWAE_50 <= log p(x), each by more than 4.5 standard errors.

    The same noise is cut into groups of 5 and of 50: log is concave, so IWAE_5 <= IWAE_50 holds for every draw. The
    ELBO has no sampling error.
    """
    images, groups = 3, 8_000
    elbo = linear_gaussian(nv.ELBO(), 4, exact_posterior=False, rows=images)
    bounds, errors = [-elbo.ws.forward(elbo.x, eps=exact_noise(images, 2))], [0.0]
    noise = rng_of("noise").standard_normal((images * groups, 50, 2))
    for K in (5, 50):
        rows = images * groups * 50 // K
        ws = linear_gaussian(nv.IWAE(), K, exact_posterior=False, rows=rows).ws
        bounds.append(-ws.forward(np.repeat(elbo.x, rows // images, axis=0), eps=noise.reshape(rows, K, 2)))
        by_group = np.log(np.exp(ws.acts.log_w).mean(axis=1)).reshape(images, -1)
        errors.append(np.sqrt((by_group.var(axis=1) / by_group.shape[1]).mean() / images))
    bounds.append(elbo.log_p.mean())
    assert (np.diff(bounds) > 4.5 * np.array(errors)[[1, 2, 2]]).all(), (bounds, errors)


# ── Trained, the linear models are principal component analysis ──────────────────────────────────────────────────

VARIANCES = np.array([9.0, 4.0, 1.5, 0.4, 0.2, 0.1])
MEAN = np.array([1.0, -2.0, 0.5, 0.0, 3.0, -1.0])


class Trained(NamedTuple):
    """The linear VAE after training, on the images, whose covariance has these eigenvectors."""

    ws: nv.Workspace
    x: Array
    axes: Array


def train_linear_vae(likelihood, latent):
    """Adam to the optimum: with exact noise the loss is deterministic, and a rate that decays to 0 converges.

    It has saddles, where latents have the wrong axes: some seeds start so near them that leaving takes longer.
    """
    rng, n, steps = rng_of("spectrum"), 40, 3_500
    x, axes = images_of_spectrum(rng, n, VARIANCES, MEAN)
    model = nv.VAE(len(VARIANCES), (), latent, "identity", likelihood)
    ws = nv.Workspace(model, n, 2 * latent, "float64", "reference", seed=6)
    optimizer, eps = nv.Adam(ws, lr=nv.cosine(0.3, steps)), exact_noise(n, latent)
    for _ in range(steps):
        ws.forward(x, eps=eps)
        ws.backward()
        optimizer.step()
    ws.forward(x, eps=eps)
    return Trained(ws, x, axes)


def check_principal(trained, live, variance):
    """The decoder and the bound are those of probabilistic PCA with `live` axes and this sigma^2.

    Tipping & Bishop 1999, eq. 7: W'W = U (Λ - sigma^2) U' on the first eigenvectors U. The ELBO of a diagonal q reaches
    the evidence, with orthogonal rows of W: Lucas et al. 2019, "Don't blame the ELBO!", theorem 1.
    """
    ws, U, excess = trained.ws, trained.axes[:, :live], VARIANCES[:live] - variance
    W, b = ws.params.decoder[0]
    principal = U * excess @ U.T
    np.testing.assert_allclose(b, MEAN, atol=1e-6)
    np.testing.assert_allclose(W.T @ W, principal, atol=1e-6)
    np.testing.assert_allclose(np.sort(np.diag(W @ W.T))[::-1][:live], excess, atol=1e-6)  # one latent, one axis
    outside = W @ trained.axes[:, live:]  # of the principal subspace
    assert np.abs(outside).max() <= 1e-6
    evidence = log_normal(trained.x, MEAN, principal + variance * np.eye(len(VARIANCES)))
    np.testing.assert_allclose(elbo_by_image(ws), evidence, rtol=0, atol=1e-6)
    rates = np.sort(ws.acts.rate.mean(axis=(0, 1)))[::-1]
    np.testing.assert_allclose(rates[:live], 0.5 * np.log(VARIANCES[:live] / variance), atol=1e-6)
    assert (rates[live:] <= 1e-9).all()


@pytest.mark.parametrize("latent", [1, 2, 3])
def test_trained_linear_vae_is_probabilistic_pca(latent):
    """With a learned sigma: sigma^2 is the mean of the discarded eigenvalues."""
    trained = train_linear_vae("gaussian-learned", latent)
    discarded = VARIANCES[latent:].mean()
    assert np.exp(trained.ws.params.likelihood.logvar[0]) == pytest.approx(discarded, rel=1e-6)
    check_principal(trained, latent, discarded)


@pytest.mark.parametrize("variance, live", [(1.0, 3), (2.5, 2), (6.0, 1), (10.0, 0)])
def test_latents_below_sigma_collapse_and_no_others(variance, live):
    """Of 4 latents, with sigma^2 fixed between two eigenvalues: a collapsed one has no rate and no decoder weights."""
    check_principal(train_linear_vae(nv.Gaussian(np.sqrt(variance)), 4), live, variance)


def test_trained_linear_autoencoder_is_pca():
    """By plain gradient: W ends with orthonormal columns that span the two principal directions."""
    x, axes = images_of_spectrum(rng_of("pca"), 60, VARIANCES)
    ws = nv.Workspace(nv.LinearAutoencoder(6, 2), len(x), 1, "float64", "reference", seed=1)
    optimizer = nv.SGD(ws, lr=0.02, momentum=0.0)
    for _ in range(600):
        loss = ws.forward(x)
        ws.backward()
        optimizer.step()
    W = ws.params.W
    sines = np.linalg.svd(axes[:, 2:].T @ W)[1]  # of the principal angles, W being orthonormal
    assert sines.max() <= 1e-8
    np.testing.assert_allclose(W.T @ W, np.eye(2), atol=1e-8)
    assert loss == pytest.approx(VARIANCES[2:].sum(), rel=1e-10)


# ── These tests see what derivatives do not ──────────────────────────────────────────────────────────────────────


def sigma_squared_sampled(forward, backward):
    """z = mu + sigma^2 eps."""
    doubled = map_half(1, lambda half: 2 * half)

    def wrong_backward(dz, stats, eps, out):
        out[...] = doubled(backward(dz, doubled(stats), eps))

    return lambda stats, eps, out: forward(doubled(stats), eps, out=out), wrong_backward


def halved(forward, backward):
    """Half of the divergence."""
    return (
        lambda stats, out: np.multiply(forward(stats), 0.5, out=out),
        lambda drate, stats, out: backward(0.5 * drate, stats, out=out),
    )


def shifted(forward, backward):
    """A divergence that lacks its -1."""
    return lambda stats, out: np.add(forward(stats), 0.5, out=out), backward


def unnormalised(forward, backward):
    """A density without its 2 pi."""

    def constant(mean):
        return 0.5 * mean.shape[-1] * np.log(2 * np.pi)

    def wrong_forward(mean, target, logvar, out):
        return np.add(forward(mean, target, logvar), constant(mean), out=out)

    def wrong_backward(dlog_px, mean, target, logvar, log_px, out):
        return backward(dlog_px, mean, target, logvar, log_px - constant(mean), out=out)

    return wrong_forward, wrong_backward


def weights_summed(forward, backward):
    """The log of the sum of the importance weights, not of their mean."""

    def wrong_forward(log_px, rate, beta, out):
        loss, log_w = forward(log_px, rate, beta, out=out)
        return loss - np.log(log_px.shape[1]), log_w

    return wrong_forward, backward


MISTAKES = (
    ("reparameterize", sigma_squared_sampled, "elbo"),
    ("gaussian_kl", halved, "elbo"),
    ("gaussian_kl", shifted, "elbo"),
    ("gaussian", unnormalised, "elbo"),
    ("gaussian", unnormalised, "iwae"),
    ("iwae", weights_summed, "iwae"),
)
SEES = {  # by op or bound
    "elbo": lambda: test_evidence_is_the_bound_and_the_divergence_from_the_posterior(0.5, "reference"),
    "iwae": lambda: test_importance_weights_of_the_exact_posterior_are_the_evidence(4, "reference"),
    "reparameterize": lambda: test_codes_have_the_mean_and_the_variance_that_the_rate_counts("reference"),
    "gaussian_kl": lambda: test_codes_have_the_mean_and_the_variance_that_the_rate_counts("reference"),
    "gaussian": lambda: test_expected_reconstruction_is_the_integral("gaussian", "reference"),
}


@pytest.mark.parametrize("op, mistake, bound", MISTAKES)
def test_mistakes_that_forward_and_backward_share(op, mistake, bound, monkeypatch):
    """Derivatives agree, and every test here that looks at the op or at the bound fails."""
    drawn, checks = vae_trial("gaussian", bound, 3), {SEES[op], SEES[bound]}
    for check in checks:
        check()
    pair = f"{op}_forward", f"{op}_backward"
    for name, wrong in zip(pair, mistake(*(getattr(reference, name) for name in pair)), strict=True):
        monkeypatch.setattr(reference, name, wrong)
    check_gradients(drawn.workspace(), drawn.batch)
    for check in checks:
        with pytest.raises(AssertionError):
            check()
