"""Somebody's variational autoencoder in plain NumPy, every gradient by hand.

x (B,D) -> h = tanh -> q(z|x) = N(mu, exp(logvar)) -> K codes z (B,K,Z) each -> g = tanh -> Bernoulli pixels y (B*K,D).
The loss is minus the bound in nats per image, averaged over the batch: the ELBO with its KL in closed form and weighted
by beta (Kingma & Welling 2014), or the importance-weighted bound (Burda et al. 2016).
"""

import numpy as np

LIMIT = 6  # logvar is kept in [-LIMIT, LIMIT], so that exp stays finite


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


class VAE:
    def __init__(self, D, H, Z, K=1, beta=1.0, iwae=False, seed=0):
        self.K, self.beta, self.iwae = K, beta, iwae
        self.rng = np.random.default_rng(seed)
        self.p = {}
        for i, (n, m) in enumerate([(D, H), (H, Z), (H, Z), (Z, H), (H, D)], start=1):
            self.p[f"W{i}"] = self.rng.standard_normal((n, m)) / np.sqrt(n)
            self.p[f"b{i}"] = np.zeros(m)
        self.m = {name: np.zeros_like(value) for name, value in self.p.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.p.items()}
        self.t = 0

    def forward(self, x, eps=None):
        """Returns the loss and keeps what backward needs; eps (B,K,Z) is drawn if not given."""
        p, K, B = self.p, self.K, len(x)
        self.x = x
        self.h = np.tanh(x @ p["W1"] + p["b1"])
        self.mu = self.h @ p["W2"] + p["b2"]
        self.raw = self.h @ p["W3"] + p["b3"]
        self.logvar = np.clip(self.raw, -LIMIT, LIMIT)
        self.std = np.exp(0.5 * self.logvar)
        self.eps = self.rng.standard_normal((B, K, self.mu.shape[1])) if eps is None else eps
        self.z = self.mu[:, None] + self.std[:, None] * self.eps
        rows = self.z.reshape(B * K, -1)
        self.g = np.tanh(rows @ p["W4"] + p["b4"])
        self.y = sigmoid(self.g @ p["W5"] + p["b5"])
        t = np.repeat(x, K, axis=0)
        log_px = np.sum(t * np.log(self.y) + (1 - t) * np.log(1 - self.y), axis=1).reshape(B, K)
        if self.iwae:
            rate = 0.5 * np.sum(self.z**2 - self.eps**2 - self.logvar[:, None], axis=2)  # log q(z|x) - log p(z)
            log_w = log_px - self.beta * rate
            top = np.max(log_w, axis=1, keepdims=True)
            w = np.exp(log_w - top)
            self.weight = w / np.sum(w, axis=1, keepdims=True)
            self.parts = {"bound": -np.mean(top[:, 0] + np.log(np.mean(w, axis=1)))}
        else:
            kl = 0.5 * np.sum(self.mu**2 + np.exp(self.logvar) - self.logvar - 1, axis=1)
            self.weight = np.full((B, K), 1 / K)
            self.parts = {"reconstruction": -np.mean(log_px), "rate": self.beta * np.mean(kl)}
        return sum(self.parts.values())

    def backward(self):
        """Returns the gradient of the last forward's loss by every parameter."""
        p, K, B, grads = self.p, self.K, len(self.x), {}
        t = np.repeat(self.x, K, axis=0)
        weight = self.weight / B
        d5 = weight.reshape(-1, 1) * (self.y - t)
        grads["W5"], grads["b5"] = self.g.T @ d5, np.sum(d5, axis=0)
        d4 = (d5 @ p["W5"].T) * (1 - self.g**2)
        rows = self.z.reshape(B * K, -1)
        grads["W4"], grads["b4"] = rows.T @ d4, np.sum(d4, axis=0)
        dz = (d4 @ p["W4"].T).reshape(B, K, -1)
        if self.iwae:
            dz += self.beta * weight[:, :, None] * self.z
        dmu = np.sum(dz, axis=1)
        dlogvar = np.sum(dz * self.eps, axis=1) * 0.5 * self.std
        if self.iwae:
            dlogvar -= 0.5 * self.beta / B
        else:
            dmu += self.beta * self.mu / B
            dlogvar += 0.5 * self.beta * (np.exp(self.logvar) - 1) / B
        dlogvar *= np.abs(self.raw) < LIMIT
        grads["W2"], grads["b2"] = self.h.T @ dmu, np.sum(dmu, axis=0)
        grads["W3"], grads["b3"] = self.h.T @ dlogvar, np.sum(dlogvar, axis=0)
        d1 = (dmu @ p["W2"].T + dlogvar @ p["W3"].T) * (1 - self.h**2)
        grads["W1"], grads["b1"] = self.x.T @ d1, np.sum(d1, axis=0)
        return grads

    def terms(self):
        """What the last forward's loss is the sum of."""
        return self.parts

    def step(self, grads, lr=1e-3, b1=0.9, b2=0.999, tiny=1e-8):
        """Adam (Kingma & Ba 2015)."""
        self.t += 1
        for name, grad in grads.items():
            self.m[name] = b1 * self.m[name] + (1 - b1) * grad
            self.v[name] = b2 * self.v[name] + (1 - b2) * grad**2
            mean = self.m[name] / (1 - b1**self.t)
            square = self.v[name] / (1 - b2**self.t)
            self.p[name] -= lr * mean / (np.sqrt(square) + tiny)

    def epoch(self, images, batch=100, lr=1e-3):
        """One pass over the images in random order; returns the mean loss per image."""
        order, total = self.rng.permutation(len(images)), 0.0
        for start in range(0, len(images), batch):
            x = images[order[start : start + batch]]
            total += self.forward(x) * len(x)
            self.step(self.backward(), lr)
        return total / len(images)


class LinearAE:
    """x W W^T: one matrix (D,Z), tied; the loss is the squared error, summed over D and averaged over the batch."""

    def __init__(self, D, Z, seed=0):
        self.p = {"W": np.random.default_rng(seed).standard_normal((D, Z)) / np.sqrt(D)}

    def forward(self, x):
        self.x, self.z = x, x @ self.p["W"]
        self.y = self.z @ self.p["W"].T
        return np.sum((self.y - x) ** 2) / len(x)

    def terms(self):
        """What the gradient is the sum of: W encodes and decodes."""
        dy = 2 * (self.y - self.x) / len(self.x)
        dz = dy @ self.p["W"]
        return {"encoding": {"W": self.x.T @ dz}, "decoding": {"W": dy.T @ self.z}}

    def backward(self):
        terms = self.terms()
        return {"W": terms["encoding"]["W"] + terms["decoding"]["W"]}


class Check:
    """What `npvae gradcheck` asks for: a model on a fixed batch, with fixed noise."""

    def __init__(self, model, x, **sizes):
        self.model, self.x, self.start, self.sizes = model, x, model.p, {"B": len(x), **sizes}

    def params(self):
        return self.start

    def loss(self, params):
        self.model.p, self.model.rng = params, np.random.default_rng(1)
        return self.model.forward(self.x)

    def gradients(self, params):
        """Right after loss(params)."""
        self.model.p = params
        return self.model.backward()

    def terms(self, params):
        self.loss(params)
        return self.model.terms()


def example(H, iwae=False):
    """A small model whose sizes are told apart, away from its start: no bias is 0, and some logvar are clipped."""
    model, rng = VAE(D=7, H=H, Z=4, K=3, beta=0.65, iwae=iwae), np.random.default_rng(30)
    for value in model.p.values():
        value += 0.3 * rng.standard_normal(value.shape)
    model.p["b3"][0] = -LIMIT
    return Check(model, rng.random((5, 7)), D=7, K=3, beta=0.65)


def elbo():
    return example(H=3)


def iwae():
    return example(H=3, iwae=True)


def square():
    """As many hidden units as codes: a transposed matrix fits where it should not."""
    return example(H=4)


def linear():
    return Check(LinearAE(D=7, Z=4), np.random.default_rng(2).random((5, 7)), D=7)
