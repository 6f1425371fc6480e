"""Bugs whose gradient is not the derivative of the loss: a gradient check sees them."""

from npvae.zoo.bug import Bug

KL_PATH = (
    "        else:\n"
    "            dmu += self.beta * self.mu / B\n"
    "            dlogvar += 0.5 * self.beta * (np.exp(self.logvar) - 1) / B\n"
)
PRIOR_PATH = "        if self.iwae:\n            dz += self.beta * weight[:, :, None] * self.z\n"
LOG_Q_PATH = "        if self.iwae:\n            dlogvar -= 0.5 * self.beta / B\n"
NO_BATCH_MEAN = (
    ("weight = self.weight / B", "weight = self.weight"),
    ("dlogvar -= 0.5 * self.beta / B", "dlogvar -= 0.5 * self.beta"),
    ("dmu += self.beta * self.mu / B", "dmu += self.beta * self.mu"),
    ("(np.exp(self.logvar) - 1) / B", "(np.exp(self.logvar) - 1)"),
)
BATCH_SUM = (
    ("-np.mean(top[:, 0]", "-np.sum(top[:, 0]"),
    ("-np.mean(log_px)", "-np.sum(log_px) / K"),
    ("self.beta * np.mean(kl)", "self.beta * np.sum(kl)"),
)
ANALYTIC_KL = (
    (PRIOR_PATH, ""),
    (
        LOG_Q_PATH + KL_PATH,
        "        dmu += self.beta * self.mu / B\n        dlogvar += 0.5 * self.beta * (np.exp(self.logvar) - 1) / B\n",
    ),
)

WRONG_GRADIENTS = (
    # ── The rate ─────────────────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "kl-sign-in-backward",
        "Written from the ELBO, which is maximised, into a backward that minimises: the KL is pushed up.",
        "the reported loss is right and soon rises; codes run away from the prior",
        (
            ("dmu += self.beta * self.mu / B", "dmu -= self.beta * self.mu / B"),
            ("dlogvar += 0.5 * self.beta * (np", "dlogvar -= 0.5 * self.beta * (np"),
        ),
        "gradient",
        "term",
        "rate is the negative",
    ),
    Bug(
        "kl-half-missing-in-backward",
        "The derivative of (e^logvar - logvar - 1)/2 written without its half: sigma feels the prior twice.",
        "trains; sigmas come out nearer to 1 than they should, so reconstructions are blurred a little",
        (("dlogvar += 0.5 * self.beta * (np", "dlogvar += self.beta * (np"),),
        "gradient",
        "term",
        "rate is 2 times",
    ),
    Bug(
        "kl-std-for-variance-in-backward",
        "e^logvar is the variance; backward puts the standard deviation, which is at hand, in its place.",
        "trains; sigmas settle at other values than the loss asks for",
        (("(np.exp(self.logvar) - 1) / B", "(self.std - 1) / B"),),
        "gradient",
        "closed-form",
    ),
    Bug(
        "kl-not-averaged-in-backward",
        "The reconstruction's delta is divided by the batch size, the KL's is not: beta is B times what was asked for.",
        "posterior collapse that gets worse with larger batches",
        (
            ("dmu += self.beta * self.mu / B", "dmu += self.beta * self.mu"),
            ("(np.exp(self.logvar) - 1) / B", "(np.exp(self.logvar) - 1)"),
        ),
        "gradient",
        "term",
        "rate is 5 times what it should be (B)",
    ),
    Bug(
        "beta-ignored-in-backward",
        "beta was added to the loss later and forgotten in backward: the curves change, the training does not.",
        "every beta trains the same model",
        (
            ("dmu += self.beta * self.mu / B", "dmu += self.mu / B"),
            ("dlogvar += 0.5 * self.beta * (np", "dlogvar += 0.5 * (np"),
        ),
        "gradient",
        "term",
        "(1/beta)",
    ),
    # ── The sampled code ─────────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "sigma-half-missing",
        "sigma = e^(logvar/2), so dsigma/dlogvar = sigma/2; the half is lost.",
        "trains; the noise's gradient is twice as strong as it should be",
        (("axis=1) * 0.5 * self.std", "axis=1) * self.std"),),
        "gradient",
        "term",
        "reconstruction is 2 times",
    ),
    Bug(
        "variance-for-std-in-backward",
        "The path through the noise multiplied by the variance, not by sigma: both are 1 at the start.",
        "trains; goes astray as sigmas shrink",
        (("axis=1) * 0.5 * self.std", "axis=1) * 0.5 * np.exp(self.logvar)"),),
        "gradient",
        "noise",
        "the path through sigma",
    ),
    Bug(
        "sigma-path-forgotten",
        "z = mu + sigma eps is differentiated by mu alone: sigma never hears of the reconstruction.",
        "sigmas go to 1 and stay there, whatever the decoder needs",
        (
            (
                "dlogvar = np.sum(dz * self.eps, axis=1) * 0.5 * self.std",
                "dlogvar = np.zeros_like(self.logvar)",
            ),
        ),
        "gradient",
        "term",
        "reconstruction is missing",
    ),
    Bug(
        "noise-detached",
        "The sampled code is taken for a constant, as if drawn outside the graph: the encoder hears the KL alone.",
        "the encoder collapses to the prior; the decoder learns the mean image",
        (
            ("dmu = np.sum(dz, axis=1)", "dmu = np.zeros_like(self.mu)"),
            (
                "dlogvar = np.sum(dz * self.eps, axis=1) * 0.5 * self.std",
                "dlogvar = np.zeros_like(self.logvar)",
            ),
        ),
        "gradient",
        "term",
        "reconstruction is missing",
    ),
    Bug(
        "noise-redrawn",
        "Backward calls the generator again instead of keeping forward's noise: sigma's gradient is that of another z.",
        "trains slowly, sigmas wander; the decoder is fine",
        (("np.sum(dz * self.eps, axis=1)", "np.sum(dz * self.rng.standard_normal(dz.shape), axis=1)"),),
        "gradient",
        "noise",
        "drawn anew",
    ),
    Bug(
        "clamp-without-derivative",
        "logvar is clipped on the way down; on the way up the clip is forgotten, so clipped entries still move.",
        "nothing for long; where logvar hits the limit it drifts on and never comes back",
        (("        dlogvar *= np.abs(self.raw) < LIMIT\n", ""),),
        "gradient",
        "unit",
        "clamp",
    ),
    Bug(
        "heads-exchanged",
        "The gradients of the mu head and of the logvar head are put into each other's place: the shapes agree.",
        "does not learn",
        (
            ('grads["W2"], grads["b2"] = self.h.T @ dmu', 'grads["W3"], grads["b3"] = self.h.T @ dmu'),
            ('grads["W3"], grads["b3"] = self.h.T @ dlogvar', 'grads["W2"], grads["b2"] = self.h.T @ dlogvar'),
        ),
        "gradient",
        "exchanged",
        "W2",
    ),
    Bug(
        "logvar-head-cut",
        "The hidden layer feeds two heads; only mu's sends its delta back.",
        "trains; sigmas are poor because the hidden layer does not serve them",
        (('dmu @ p["W2"].T + dlogvar @ p["W3"].T', 'dmu @ p["W2"].T'),),
        "gradient",
        "activation",
        "W1",
    ),
    # ── Factors ──────────────────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "mean-forward-sum-backward",
        "The loss is averaged over the batch, its gradient summed: the learning rate is multiplied by the batch size.",
        "diverges at learning rates that work elsewhere; a larger batch makes it worse",
        NO_BATCH_MEAN,
        "gradient",
        "factor",
        "the whole gradient: 5 times what it should be (B)",
    ),
    Bug(
        "sum-forward-mean-backward",
        "The loss is summed over the batch, its gradient averaged.",
        "reported losses grow with the batch size; training looks fine",
        BATCH_SUM,
        "gradient",
        "factor",
        "(1/B)",
    ),
    Bug(
        "pixel-mean-in-backward",
        "The delta of the pixels is divided by their number, the loss is not: the KL outweighs it by D.",
        "posterior collapse, blurred mean images",
        (("(self.y - t)", "(self.y - t) / t.shape[1]"),),
        "gradient",
        "factor",
        "(1/D)",
    ),
    Bug(
        "sample-mean-missing",
        "K codes are drawn per image and averaged in the loss; backward forgets 1/K.",
        "right with one sample; with more, the reconstruction weighs K times as much as asked",
        (("np.full((B, K), 1 / K)", "np.ones((B, K))"),),
        "gradient",
        "factor",
        "(K)",
    ),
    # ── Layers ───────────────────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "sigmoid-twice",
        "y - x is already the derivative by the logits; the habit of squared errors adds y (1 - y) once more.",
        "trains slowly, and stalls where pixels are sure and wrong",
        (("(self.y - t)", "(self.y - t) * self.y * (1 - self.y)"),),
        "gradient",
        "activation",
        "W5",
    ),
    Bug(
        "pre-for-post-activation",
        "tanh' = 1 - h^2 from the output h; backward puts the layer's input into it.",
        "trains while inputs are small; then gradients explode with the wrong sign",
        (
            (
                'self.h = np.tanh(x @ p["W1"] + p["b1"])',
                'self.a = x @ p["W1"] + p["b1"]\n        self.h = np.tanh(self.a)',
            ),
            ("(1 - self.h**2)", "(1 - self.a**2)"),
        ),
        "gradient",
        "activation",
        "W1",
    ),
    Bug(
        "activation-derivative-missing",
        "The decoder's hidden layer passes its delta on as if it were linear.",
        "trains, worse than it could; nothing looks wrong",
        ((" * (1 - self.g**2)", ""),),
        "gradient",
        "activation",
        "W4, b4: the derivative of its activation is missing",
    ),
    Bug(
        "sigmoid-derivative-for-tanh",
        "The activation was changed from sigmoid to tanh, its derivative was not.",
        "trains badly: units whose output is negative learn with the wrong sign",
        (("(1 - self.g**2)", "self.g * (1 - self.g)"),),
        "gradient",
        "activation",
        "W4",
    ),
    Bug(
        "stale-delta",
        "The layer's own gradient uses its delta, but what is handed down is the delta from before the activation.",
        "the decoder trains, the encoder gets a gradient that is not its own",
        (
            (" * (1 - self.g**2)\n        rows = self.z", "\n        rows = self.z"),
            (
                "rows.T @ d4, np.sum(d4, axis=0)",
                "rows.T @ (d4 * (1 - self.g**2)), np.sum(d4 * (1 - self.g**2), axis=0)",
            ),
        ),
        "gradient",
        "activation",
        "what flows back to the code",
    ),
    Bug(
        "weight-not-transposed",
        "The delta goes up through W instead of W^T; only a square layer lets it.",
        "the decoder trains, the encoder does not",
        (('d4 @ p["W4"].T', 'd4 @ p["W4"]'),),
        "gradient",
        "activation",
        "W3",
    ),
    Bug(
        "gradient-transposed",
        "delta^T h in place of h^T delta; only a square layer lets it.",
        "one layer does not learn",
        (("self.h.T @ dmu,", "dmu.T @ self.h,"),),
        "gradient",
        "transposed",
        "W2",
    ),
    Bug(
        "bias-without-sum",
        "The bias gets its delta row by row; broadcasting then turns the bias vector into a matrix without a word.",
        "a parameter changes its shape after the first step; batches of another size fail",
        (("np.sum(d4, axis=0)", "d4"),),
        "gradient",
        "shape",
        "b4",
    ),
    Bug(
        "bias-mean",
        "The delta is already divided by the batch size; the bias takes its mean once more.",
        "biases learn slowly: pixels that are always blank stay grey for long",
        (("np.sum(d5, axis=0)", "np.mean(d5, axis=0)"),),
        "gradient",
        "factor",
        "(1/(B K))",
    ),
    Bug(
        "last-row-lost",
        "A loop over range(n - 1), or a slice [:-1], leaves the last row of the batch out of a layer's gradient.",
        "trains; with a batch of one that layer does not move",
        (
            (
                "self.g.T @ d5, np.sum(d5, axis=0)",
                "self.g[:-1].T @ d5[:-1], np.sum(d5[:-1], axis=0)",
            ),
        ),
        "gradient",
        "rows",
        "W5",
    ),
    Bug(
        "tied-one-term",
        "The one matrix of x W W^T is used twice, so its gradient has two terms; only the decoder's is written.",
        "does not land on the principal subspace",
        (('terms["encoding"]["W"] + terms["decoding"]["W"]', 'terms["decoding"]["W"]'),),
        "gradient",
        "term",
        "encoding is missing",
    ),
    # ── Importance weights ───────────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "weights-not-normalised",
        "The importance weights are used as exp left them: images get gradients of any size.",
        "importance-weighted training is unstable; one sample looks right",
        (("self.weight = w / np.sum(w, axis=1, keepdims=True)", "self.weight = w"),),
        "gradient",
        "importance-weights",
    ),
    Bug(
        "weights-in-wrong-order",
        "Backward flattens (B,K) weights sample by sample, while the rows of z lie image by image.",
        "importance-weighted training learns slowly; one sample is right",
        (("weight.reshape(-1, 1)", "weight.T.reshape(-1, 1)"),),
        "gradient",
        "importance-weights",
    ),
    Bug(
        "prior-path-forgotten",
        "log p(z) depends on z, and z on the encoder; that path is not written.",
        "importance-weighted codes run away from the prior",
        ((PRIOR_PATH, ""),),
        "gradient",
        "term",
        "rate is missing",
    ),
    Bug(
        "analytic-kl-in-backward",
        "The importance-weighted loss is sampled, but its backward is the closed-form KL's.",
        "like an ELBO with odd weights: the bound does not tighten with K",
        ANALYTIC_KL,
        "gradient",
        "importance-rate",
    ),
    # ── What is left from before ─────────────────────────────────────────────────────────────────────────────────────
    Bug(
        "stale-code",
        "Two buffers take turns and are exchanged a step too early: backward reads the code of the last batch.",
        "the decoder's first layer learns nothing of use; a smaller last batch raises an error",
        (
            (
                "        rows = self.z.reshape(B * K, -1)\n        self.g",
                '        self.front, self.back = self.z, getattr(self, "front", self.z)\n'
                "        rows = self.z.reshape(B * K, -1)\n        self.g",
            ),
            (
                '        rows = self.z.reshape(B * K, -1)\n        grads["W4"]',
                '        rows = self.back.reshape(B * K, -1)\n        grads["W4"]',
            ),
        ),
        "gradient",
        "stale",
        "W4",
    ),
    Bug(
        "gradients-accumulated",
        "The gradients are added to those of the last call, and nobody sets them to 0.",
        "steps grow from batch to batch until it diverges",
        (
            (
                "        return grads\n",
                '        held = getattr(self, "grads", {})\n'
                "        self.grads = {name: grad + held.get(name, 0) for name, grad in grads.items()}\n"
                "        return self.grads\n",
            ),
        ),
        "gradient",
        "accumulated",
    ),
    Bug(
        "update-inside-backward",
        "Each layer is updated as soon as its gradient is known: the delta goes on through weights that have moved.",
        "trains; the result depends on the learning rate more than it should",
        (
            (
                "        d4 = (d5",
                '        p["W5"] -= 1e-2 * grads["W5"]\n        d4 = (d5',
            ),
        ),
        "gradient",
        "mutation",
    ),
)
