"""Bugs that no derivative sees: forward and backward agree on a wrong loss, or the training around them is wrong."""

from npvae.zoo.bug import Bug
from npvae.zoo.wrong_gradients import ANALYTIC_KL, BATCH_SUM, NO_BATCH_MEAN

DRAW = "self.rng.standard_normal((B, K, self.mu.shape[1]))"
FORWARD_KL = "kl = 0.5 * np.sum(self.mu**2 + np.exp(self.logvar) - self.logvar - 1, axis=1)"
DMU, DLOGVAR = "dmu += self.beta * self.mu / B", "dlogvar += 0.5 * self.beta * (np.exp(self.logvar) - 1) / B"

WRONG_LOSSES = (
    # ── The rate ─────────────────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "kl-sign",
        "The closed form that papers print is minus the KL; taken for the KL, it has the wrong sign.",
        "the loss falls below what any model could reach, then codes and loss run away",
        (
            ("self.beta * np.mean(kl)", "-self.beta * np.mean(kl)"),
            (DMU, DMU.replace("+=", "-=")),
            (DLOGVAR, DLOGVAR.replace("+=", "-=")),
        ),
        "rate",
        "factor -1",
    ),
    Bug(
        "kl-half-missing",
        "The KL without its 1/2, in loss and gradient alike: a beta of 2 that nobody asked for.",
        "blurred reconstructions, unused latents; the reported bound is too low",
        ((FORWARD_KL, FORWARD_KL.replace("0.5 * ", "")), (DMU, DMU.replace("+=", "+= 2 *")), ("+= 0.5 *", "+=")),
        "rate",
        "factor 2",
    ),
    Bug(
        "kl-mean-over-latents",
        "The KL is averaged over the latents while the pixels are summed: a beta of 1/Z.",
        "sharp reconstructions, samples from the prior look like nothing",
        (
            (FORWARD_KL, FORWARD_KL.replace("np.sum", "np.mean")),
            (DMU, f"{DMU} / self.mu.shape[1]"),
            (DLOGVAR, f"{DLOGVAR} / self.mu.shape[1]"),
        ),
        "rate",
        "factor 1/Z",
    ),
    Bug(
        "kl-std-for-variance",
        "sigma in the KL where sigma^2 belongs, in loss and gradient alike: the gradient check passes.",
        "sigmas above 1 are cheap: samples are noisy, the bound is none",
        (
            (FORWARD_KL, FORWARD_KL.replace("np.exp(self.logvar)", "self.std")),
            (DLOGVAR, DLOGVAR.replace("np.exp(self.logvar)", "0.5 * self.std")),
        ),
        "rate",
        "std for variance",
    ),
    Bug(
        "kl-takes-logvar-for-log-std",
        "The sampler reads the head as log sigma^2, the KL as log sigma: each is right, together they are wrong.",
        "trains; -loss is no bound, and posterior sigmas are off by a square",
        (
            (
                FORWARD_KL,
                FORWARD_KL.replace("np.exp(self.logvar) - self.logvar", "np.exp(2 * self.logvar) - 2 * self.logvar"),
            ),
            (DLOGVAR, DLOGVAR.replace("0.5 * ", "").replace("self.logvar", "2 * self.logvar")),
        ),
        "rate",
        "KL takes sigma^2 for sigma",
    ),
    Bug(
        "sampler-takes-logvar-for-log-std",
        "z = mu + e^logvar eps, while the KL reads e^logvar as the variance: a known implementation passes every "
        "gradient check with it.",
        "trains; codes scatter by another sigma than the loss charges for",
        (("np.exp(0.5 * self.logvar)", "np.exp(self.logvar)"), ("axis=1) * 0.5 * self.std", "axis=1) * self.std")),
        "rate",
        "KL takes sigma for sigma^2",
    ),
    Bug(
        "kl-without-mean",
        "mu^2 dropped from the KL: only sigma is charged for.",
        "codes spread without limit, reconstructions are excellent, samples are noise",
        ((FORWARD_KL, FORWARD_KL.replace("self.mu**2 + ", "")), (f"            {DMU}\n", "")),
        "rate",
        "mu^2 missing",
    ),
    Bug(
        "beta-ignored",
        "The constructor takes beta and stores it; neither loss nor gradient reads it.",
        "every beta trains the same model",
        (
            ("self.beta * np.mean(kl)", "np.mean(kl)"),
            (DMU, DMU.replace("self.beta * ", "")),
            (DLOGVAR, DLOGVAR.replace("self.beta * ", "")),
        ),
        "rate",
        "ignored",
    ),
    # ── The reconstruction ───────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "pixel-mean",
        "log p(x|z) averaged over the D pixels instead of summed, beside a KL that is summed: a beta of D.",
        "a loss of less than 1 nat, posterior collapse, one blurred image for all",
        (
            ("log_px = np.sum(t * np", "log_px = np.mean(t * np"),
            ("(self.y - t)", "(self.y - t) / t.shape[1]"),
        ),
        "pixels",
        "mean over D",
    ),
    Bug(
        "black-pixels-forgotten",
        "Only x log y is written: the term of the black pixels is missing from loss and gradient.",
        "every pixel turns white and the loss goes to the KL alone",
        (
            ("t * np.log(self.y) + (1 - t) * np.log(1 - self.y)", "t * np.log(self.y)"),
            ("(self.y - t)", "t * (self.y - 1)"),
        ),
        "pixels",
        "one pixel value missing",
    ),
    Bug(
        "batch-sum",
        "Loss and gradient are summed over the batch: they agree, and the learning rate depends on the batch size.",
        "losses of different batch sizes cannot be compared; large batches diverge",
        (*BATCH_SUM, *NO_BATCH_MEAN),
        "images",
        "sum over B",
    ),
    # ── Importance weights ───────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "log-sum-for-log-mean",
        "log sum_k w_k for log mean_k w_k: a constant, so every gradient is right.",
        "the bound improves by log K nats with K samples, past log p(x)",
        (("np.log(np.mean(w, axis=1))", "np.log(np.sum(w, axis=1))"),),
        "samples",
        "1/K missing",
    ),
    Bug(
        "analytic-kl-in-weight",
        "log p(x|z) - KL as the weight: the closed form has integrated z away, so this is no importance weight.",
        "trains; the reported bound is not one, and K does not tighten it as it should",
        (
            (
                "rate = 0.5 * np.sum(self.z**2 - self.eps**2 - self.logvar[:, None], axis=2)",
                "rate = 0.5 * np.sum(self.mu**2 + np.exp(self.logvar) - self.logvar - 1, axis=1)[:, None]",
            ),
            *ANALYTIC_KL,
        ),
        "evidence-iwae",
        "analytic KL in the weight",
    ),
    Bug(
        "average-of-log-weights",
        "mean_k log w_k instead of log mean_k w_k: K samples, and still the ELBO.",
        "more samples do not tighten the bound",
        (
            ("-np.mean(top[:, 0] + np.log(np.mean(w, axis=1)))", "-np.mean(log_w)"),
            ("self.weight = w / np.sum(w, axis=1, keepdims=True)", "self.weight = np.full((B, K), 1 / K)"),
        ),
        "samples",
        "mean of logs",
    ),
    Bug(
        "log-of-mean-in-elbo",
        "The likelihoods of the K samples are averaged inside the logarithm, and the closed-form KL is taken off: "
        "half importance-weighted, no bound.",
        "the reported bound rises with K past log p(x)",
        (
            ("            self.weight = np.full((B, K), 1 / K)\n", ""),
            (
                'self.parts = {"reconstruction": -np.mean(log_px),',
                "top = np.max(log_px, axis=1, keepdims=True)\n"
                "            w = np.exp(log_px - top)\n"
                "            self.weight = w / np.sum(w, axis=1, keepdims=True)\n"
                '            self.parts = {"reconstruction": -np.mean(top[:, 0] + np.log(np.mean(w, axis=1))),',
            ),
        ),
        "samples",
        "log of mean",
    ),
    Bug(
        "samples-in-wrong-order",
        "The rows lie image by image and are reshaped as if they lay sample by sample, in forward and backward alike.",
        "importance-weighted training is a little worse than it should be; one sample, or one image, is right",
        (
            ("axis=1).reshape(B, K)", "axis=1).reshape(K, B).T"),
            ("weight.reshape(-1, 1)", "weight.T.reshape(-1, 1)"),
        ),
        "images",
        "images mixed",
    ),
    # ── The noise ────────────────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "uniform-noise",
        "rand for randn: the noise is uniform in [0, 1), its mean 1/2 and its variance 1/12.",
        "reconstructions are sharper than they should be, samples from the prior are poor",
        ((DRAW, DRAW.replace("standard_normal", "random")),),
        "sampler",
        "uniform",
    ),
    Bug(
        "noise-shared-by-images",
        "The noise is drawn for one image and broadcast over the batch.",
        "training curves jump from batch to batch: errors of the estimate no longer average out",
        ((DRAW, DRAW.replace("(B, ", "(1, ")),),
        "sampler",
        "shared by images",
    ),
    Bug(
        "noise-shared-by-samples",
        "The K codes of an image are one code K times.",
        "more samples cost time and change nothing",
        ((DRAW, f"np.repeat({DRAW.replace('B, K,', 'B, 1,')}, K, axis=1)"),),
        "sampler",
        "shared by samples",
    ),
    Bug(
        "noise-frozen",
        "A generator with a fixed seed is made inside forward: every batch sees the same noise.",
        "training loss is better than it should be, the test loss with other noise is not",
        ((DRAW, DRAW.replace("self.rng", "np.random.default_rng(0)")),),
        "sampler",
        "repeated",
    ),
    # ── Adam ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "adam-without-bias-correction",
        "The moments start at 0 and are used as they are: the first step is 3.2 times as long as it should be.",
        "the loss jumps in the first steps, then all is well",
        (
            ("self.m[name] / (1 - b1**self.t)", "self.m[name]"),
            ("self.v[name] / (1 - b2**self.t)", "self.v[name]"),
        ),
        "adam",
        "no bias correction",
    ),
    Bug(
        "adam-epsilon-inside-root",
        "sqrt(v + 1e-8) for sqrt(v) + 1e-8: a floor of 1e-4 instead of 1e-8 under every gradient.",
        "parameters with small gradients hardly move",
        (("(np.sqrt(square) + tiny)", "np.sqrt(square + tiny)"),),
        "adam",
        "epsilon inside the root",
    ),
    Bug(
        "adam-counts-parameters",
        "t grows with every parameter array instead of every step: the bias correction is over too soon.",
        "the first steps are too long, those of the last layers most",
        (
            ("        self.t += 1\n", ""),
            (
                "        for name, grad in grads.items():\n",
                "        for name, grad in grads.items():\n            self.t += 1\n",
            ),
        ),
        "adam",
        "counter per array",
    ),
    Bug(
        "adam-square-of-mean",
        "The second moment is made from the averaged gradient instead of the gradient itself.",
        "steps are too long where gradients are noisy; training is unstable",
        (("(1 - b2) * grad**2", "(1 - b2) * self.m[name] ** 2"),),
        "adam",
        "square of the mean",
    ),
    # ── The epoch ────────────────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "last-batch-weighted-as-full",
        "The losses of the batches are averaged as if all had the same number of rows.",
        "the reported loss depends on the batch size",
        (
            ("self.forward(x) * len(x)", "self.forward(x)"),
            ("return total / len(images)", "return total / np.ceil(len(images) / batch)"),
        ),
        "epoch-mean",
        "last batch weighted as full",
    ),
    Bug(
        "last-image-dropped",
        "A range that ends one too early: the image at the end is never seen.",
        "nothing at all, until somebody counts",
        (("self.rng.permutation(len(images))", "self.rng.permutation(len(images) - 1)"),),
        "epoch-rows",
        "rows missing",
    ),
    Bug(
        "smaller-batch-dropped",
        "The last batch is left out where it is not full; the sum is divided by all images nevertheless.",
        "the reported loss is too low when the batch size does not divide the number of images",
        (("range(0, len(images), batch)", "range(0, len(images) - batch + 1, batch)"),),
        "epoch-rows",
        "rows missing",
    ),
    Bug(
        "drawn-with-replacement",
        "The order of an epoch is drawn by integers() instead of permutation(): a third of the images is missed.",
        "training is a little slower and noisier; reported losses of an epoch are not those of the data",
        (("self.rng.permutation(len(images))", "self.rng.integers(len(images), size=len(images))"),),
        "epoch-rows",
        "rows repeated",
    ),
)
