"""The estimate of log p(x), against models whose log p(x) is known exactly."""

import json
import math
import tracemalloc

import numpy as np
import pytest

import npvae as nv
from npvae import evaluation
from npvae.datasets import Split
from npvae.runs import Settings

D, Z, SIGMA = 6, 2, 0.5
LINEAR = nv.VAE(data=D, hidden=(), latent=Z, activation="identity", likelihood=nv.Gaussian(SIGMA))
ORIGIN = {"origin": None, "shape": (D,), "digest": ""}


def linear_run(spread=1.0, shift=0.0, **settings):
    """A run of LINEAR and its density: y = z W + b, so that p(x) = N(b, W^T W + sigma^2).

    The rows of W are orthogonal, so the posterior is a diagonal Gaussian that the encoder can match exactly: precision
    1 + |w|^2/sigma^2, mean W (x - b)/sigma^2 over the precision. `spread` multiplies its standard deviations and
    `shift` is added to its means.
    """
    rng = np.random.default_rng(8)
    W = np.linalg.qr(rng.standard_normal((D, Z)))[0].T * np.array([[1.5], [0.8]])
    b = rng.standard_normal(D)
    settings = Settings(**{"dtype": "float64"} | settings).completed(LINEAR)
    theta = np.zeros(nv.Workspace(LINEAR, 1).theta.size, settings.dtype)
    run = nv.Run(LINEAR, settings, ORIGIN, theta, None)
    precision = 1 + (W**2).sum(axis=1) / SIGMA**2
    encoder, decoder = run.ws.params.encoder[0], run.ws.params.decoder[0]
    decoder.W[:], decoder.b[:] = W, b
    encoder.W[:, :Z] = W.T / SIGMA**2 / precision
    encoder.b[:Z] = -b @ encoder.W[:, :Z] + shift
    encoder.b[Z:] = 2 * math.log(spread) - np.log(precision)
    covariance = W.T @ W + SIGMA**2 * np.eye(D)

    def log_p(x):
        off = x - b
        quadratic = (off @ np.linalg.inv(covariance) * off).sum(axis=1)
        return -(quadratic + np.linalg.slogdet(covariance)[1] + D * math.log(2 * math.pi)) / 2

    def draw(n):
        rng = np.random.default_rng(9)
        return rng.standard_normal((n, Z)) @ W + b + SIGMA * rng.standard_normal((n, D))

    return run, log_p, draw


@pytest.mark.parametrize("samples", (1, 7, 250))
def test_a_perfect_posterior_gives_log_p_exactly(samples):
    """All weights p(x,z)/q(z|x) are then p(x) itself, whatever the noise."""
    run, log_p, draw = linear_run()
    x = draw(130)  # a batch of 100 and one of 30
    result = nv.evaluate(run, x, samples)
    assert result.nll == pytest.approx(-log_p(x).mean(), rel=1e-12)
    # What is left of the error is the root of rounding; one sample says nothing of its own error.
    assert math.isnan(result.nll_se_image) if samples == 1 else result.nll_se_image < 1e-6
    assert result.nll_se == pytest.approx(log_p(x).std(ddof=1) / math.sqrt(130), rel=1e-9)
    assert (result.images, result.samples) == (130, samples)


def test_an_imperfect_posterior_is_corrected_within_its_standard_error():
    """Bound: 4 standard errors of the mean, sqrt(sum se^2)/n, here with every image's own se about the mean se."""
    run, log_p, draw = linear_run(spread=1.3, shift=0.4)
    x = draw(200)
    result = nv.evaluate(run, x, 2000)
    bound = 4 * result.nll_se_image / math.sqrt(len(x))
    assert 0 < bound < 0.01
    assert abs(result.nll + log_p(x).mean()) < bound
    assert result.loss > result.nll + 0.1  # the plain bound is far from it


def test_single_images_lie_within_four_standard_errors():
    run, log_p, draw = linear_run(spread=1.4, shift=-0.3)
    for x in draw(8):
        result = nv.evaluate(run, x[None], 3000)
        assert 0 < result.nll_se_image < 0.05
        assert abs(result.nll + log_p(x[None])[0]) < 4 * result.nll_se_image
        assert math.isnan(result.nll_se)  # one image has no spread


def test_the_standard_error_is_the_spread_of_repetitions():
    """One image 600 times, each with noise of its own: the estimates' spread is what each said of itself.

    The standard deviation of 600 estimates is known to 1/sqrt(1200), 2.9 %; bound: four times that.
    """
    run, _, draw = linear_run(spread=1.4, shift=0.3)
    result = nv.evaluate(run, np.repeat(draw(1), 600, axis=0), 400)
    spread = result.nll_se * math.sqrt(600)
    assert result.nll_se_image == pytest.approx(spread, rel=4 / math.sqrt(1200))


def test_more_samples_give_a_tighter_bound():
    """In expectation (Burda et al. 2016, theorem 1); 400 repetitions, every gain at least 4 standard errors."""
    run, log_p, draw = linear_run(spread=1.6, shift=0.8)
    x = np.repeat(draw(1), 400, axis=0)
    results = [nv.evaluate(run, x, samples) for samples in (1, 4, 16, 64)]
    for loose, tight in zip(results[:-1], results[1:], strict=True):
        assert loose.nll - tight.nll > 4 * math.hypot(loose.nll_se, tight.nll_se)
    assert results[-1].nll + 4 * results[-1].nll_se > -log_p(x[:1])[0]  # never better than the truth


def log_weights(run, x, eps):
    """Log p(x,z) - log q(z|x) in plain NumPy, (n, K), for the linear model."""
    encoder, decoder = run.ws.params.encoder[0], run.ws.params.decoder[0]
    mu, logvar = np.split(x @ encoder.W + encoder.b, 2, axis=1)
    z = mu[:, None] + np.exp(logvar / 2)[:, None] * eps

    def normal(v, mean, logvar):
        return -((v - mean) ** 2 / np.exp(logvar) + logvar + math.log(2 * math.pi)).sum(axis=-1) / 2

    log_px = normal(x[:, None], z @ decoder.W + decoder.b, 2 * math.log(SIGMA))
    return log_px + normal(z, 0.0, 0.0) - normal(z, mu[:, None], logvar[:, None])


@pytest.mark.parametrize("samples", (1, 60, 100, 101, 250))
def test_chunks_do_not_show(monkeypatch, samples):
    """Noise handed out from one array (n, K, Z): the result is that of one mean over all K, to rounding."""
    run, _, draw = linear_run(spread=1.3, shift=0.5)
    x = draw(120)
    plain = nv.evaluate(run, x, None)
    eps = np.random.default_rng(10).standard_normal((120, samples, Z))
    position = [0, 0]

    def draw_eps(ws, rows, rng):
        row, sample = position
        part = eps[row : row + rows, sample : sample + ws.samples]
        assert part.shape == (rows, ws.samples, Z)
        position[:] = (row + rows, 0) if sample + ws.samples == samples else (row, sample + ws.samples)
        return part

    monkeypatch.setattr(evaluation, "measure", lambda run, ws, images: plain)
    monkeypatch.setattr(evaluation, "draw_eps", draw_eps)
    result = nv.evaluate(run, x, samples)
    assert position == [120, 0]
    w = np.exp(log_weights(run, x, eps))
    assert result.nll == pytest.approx(-np.log(w.mean(axis=1)).mean(), rel=1e-12)
    if samples == 1:
        assert math.isnan(result.nll_se_image)
    else:
        errors = w.std(axis=1, ddof=1) / w.mean(axis=1) / math.sqrt(samples)
        assert result.nll_se_image == pytest.approx(errors.mean(), rel=1e-9)
    assert result.nll_se == pytest.approx(np.log(w.mean(axis=1)).std(ddof=1) / math.sqrt(120), rel=1e-9)


def test_every_sample_has_noise_of_its_own(monkeypatch):
    run, _, draw = linear_run()
    drawn, original = [], evaluation.draw_eps

    def draw_eps(ws, rows, rng):
        drawn.append(original(ws, rows, rng))
        return drawn[-1]

    monkeypatch.setattr(evaluation, "draw_eps", draw_eps)
    nv.evaluate(run, draw(230), 250)
    numbers = np.concatenate([eps.ravel() for eps in drawn])
    assert len(numbers) == 230 * (1 + 250) * Z
    assert len(np.unique(numbers)) == len(numbers)


def test_figures_repeat_and_hang_on_the_seed():
    run, _, draw = linear_run(spread=1.3)
    x = draw(50)
    first = nv.evaluate(run, x, 20)
    run.sample(3)
    assert nv.evaluate(run, x, 20) == first
    other, _, _ = linear_run(spread=1.3, seed=1)
    assert nv.evaluate(other, x, 20).nll != first.nll


def test_five_thousand_samples_in_little_memory():
    """12 images of 784 pixels: all samples at once would take 12 * 5000 * 784 * 4 bytes, 188 MB for one array."""
    model = nv.VAE(data=784, hidden=(16,), latent=2)
    settings = Settings(batch=10).completed(model)
    theta = nv.Workspace(model, 1, seed=4).theta
    run = nv.Run(model, settings, ORIGIN, theta, None)
    x = (np.random.default_rng(0).random((12, 784)) < 0.3).astype(np.float32)
    peaks = []
    nv.evaluate(run, x, 500)  # compiles what it needs
    for samples in (500, 5000):
        tracemalloc.start()
        result = nv.evaluate(run, x, samples)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.samples == samples
        assert math.isfinite(result.nll)
    assert peaks[1] < 64e6
    assert peaks[1] < 1.1 * peaks[0]


@pytest.fixture(scope="module")
def digits():
    data = nv.datasets.load("mnist-small", rows=200)
    return data._replace(test=Split(data.test.images[:60], None))


CASES = {
    "bernoulli": (nv.VAE(784, (12,), 2), {}),
    "grey, free bits, beta": (nv.VAE(784, (12,), 2, bound=nv.ELBO(2.0)), {"binarize": "none", "beta": 3.0}),
    "three samples": (nv.VAE(784, (12,), 2), {"samples": 3, "binarize": "static"}),
    "gaussian-optimal": (nv.VAE(784, (12,), 2, likelihood="gaussian-optimal"), {}),
    "gaussian-pixel": (nv.VAE(784, (12,), 2, likelihood="gaussian-pixel"), {"dtype": "float64"}),
    "denoising": (nv.VAE(784, (12,), 2), {"corruption": "masking"}),
    "ae": (nv.Autoencoder(784, (12,), 2), {"corruption": "gaussian"}),
    "linear": (nv.LinearAutoencoder(784, 2), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_figures_as_validation(digits, tmp_path, case):
    model, settings = CASES[case]
    run = nv.train(model, digits, epochs=2, batch=50, out=tmp_path / "run", **settings)
    for measured in (run, nv.load(tmp_path / "run")):
        result = nv.evaluate(measured, digits.test.images, None)
        row = run.history[-1]
        assert (result.loss, result.reconstruction, result.rate, result.active_units, result.images) == (
            *(row[f"test_{name}"] for name in ("loss", "reconstruction", "rate")),
            row["active_units"],
            60,
        )
        assert result[5:] == (None, None, None, None)


def test_an_importance_weighted_model_is_measured_by_its_elbo(digits):
    """The rate in closed form instead of at the samples, and no weights: a looser bound than the validation's."""
    model = nv.VAE(784, (12,), 2, bound=nv.IWAE())
    run = nv.train(model, digits, epochs=2, batch=50, samples=4)
    row, result = run.history[-1], nv.evaluate(run, digits.test.images, 100)
    assert result.reconstruction == row["test_reconstruction"]
    assert result.loss == pytest.approx(result.reconstruction + result.rate, rel=1e-12)
    assert result.rate == pytest.approx(run.rates(digits.test.images).sum(), rel=1e-6)
    assert result.loss > row["test_loss"] > result.nll


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("ae", "linear")])
def test_the_estimate_improves_on_the_bound(digits, case):
    model, settings = CASES[case]
    run = nv.train(model, digits, epochs=2, batch=50, **settings)
    result = nv.evaluate(run, digits.test.images, 120)
    assert result.nll < result.loss
    assert result.loss - result.nll < 0.2 * abs(result.loss)
    assert 0 < result.nll_se_image < 1
    json.loads(json.dumps(result._asdict(), allow_nan=False))


@pytest.mark.parametrize("case", ("ae", "linear"))
def test_autoencoders_give_their_squared_error(digits, case):
    model, settings = CASES[case]
    run = nv.train(model, digits, epochs=1, batch=50, **settings)
    x = digits.test.images
    result = nv.evaluate(run, x)
    error = ((run.reconstruct(run.corrupt(x)).astype(float) - x) ** 2).sum(axis=1).mean()
    assert result.loss == pytest.approx(error, rel=1e-5)
    assert (result.reconstruction, result.rate, result.nll) == (result.loss, 0, None)
    assert result.active_units == (run.encode(run.corrupt(x)).astype(float).var(axis=0) > 0.01).sum()


def test_active_units_are_those_whose_means_vary():
    run, _, draw = linear_run()
    x = draw(100)
    assert nv.evaluate(run, x, None).active_units == 2
    run.ws.params.encoder[0].W[:, 1] *= 1e-3  # the mean of the second code hardly moves
    assert nv.evaluate(run, x, None).active_units == 1
    run.ws.params.encoder[0].W[:, 0] = 0
    assert nv.evaluate(run, x, None).active_units == 0


def test_progress_is_heard_batch_by_batch():
    run, _, draw = linear_run()
    heard = []
    nv.evaluate(run, draw(250), 3, lambda done, total: heard.append((done, total)))
    assert heard == [(100, 250), (200, 250), (250, 250)]


def test_a_corrupted_theta_shows(digits):
    """NaN is not averaged away."""
    run, _, draw = linear_run()
    run.theta[0] = math.nan
    with np.errstate(invalid="ignore"):
        result = nv.evaluate(run, draw(5), 10)
    assert math.isnan(result.loss)
    assert math.isnan(result.nll)


def test_bad_input_is_refused(digits):
    run, _, draw = linear_run()
    x = draw(3)
    for images, named in ((x[:, :5], "6"), (x[:0], "at least 1"), (x[0], "6")):
        with pytest.raises(nv.InputError, match=named):
            nv.evaluate(run, images, 5)
    x[1, 4] = math.inf
    with pytest.raises(nv.InputError, match="inf in row 1, column 4"):
        nv.evaluate(run, x, 5)
    for samples in (0, -1, 2.5, True):
        with pytest.raises(nv.InputError, match="samples"):
            nv.evaluate(run, draw(3), samples)
    model = nv.VAE(data=784, hidden=(4,), latent=2)
    bernoulli = nv.Run(model, Settings().completed(model), ORIGIN, nv.Workspace(model, 1).theta, None)
    with pytest.raises(nv.InputError, match=r"\[0, 2\].*--rescale"):
        nv.evaluate(bernoulli, 2 * digits.test.images, 5)


@pytest.mark.parametrize("likelihood", ("gaussian-learned", "gaussian-optimal", "gaussian-pixel"))
def test_one_image_can_be_measured_under_a_learned_sigma(digits, likelihood):
    model = nv.VAE(784, (4,), 2, likelihood=likelihood)
    run = nv.train(model, digits, epochs=1, batch=50)
    result = nv.evaluate(run, digits.test.images[:1], 20)
    assert math.isfinite(result.nll)


def test_a_folder_is_not_a_run():
    with pytest.raises(nv.InputError, match="run must be a Run"):
        nv.evaluate("runs/first", np.zeros((2, 784)))
