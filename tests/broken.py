"""A VAE deeper than the zoo's, and the ways in which its backward can be wrong that the zoo has no place for.

Two hidden layers of tanh or ReLU on either side, one of them square, mu and log sigma^2 from layers of their own, a
Bernoulli likelihood; the loss is summed over pixels and averaged over the batch. `make_gradients(bug)` has every bug at
the place where it would be made. What the zoo has is tested by the zoo (test_diagnosis.py).
"""

import numpy as np

B, D, H, G, Z = 4, 9, 7, 6, 3


def params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"W1": (D, H), "b1": H, "W2": (H, G), "b2": G, "Wm": (G, Z), "bm": Z, "Wv": (G, Z), "bv": Z,
              "W3": (Z, G), "b3": G, "W4": (G, G), "b4": G, "W5": (G, D), "b5": D}  # fmt: skip
    return {name: 0.5 * rng.standard_normal(shape) for name, shape in shapes.items()}


X = np.random.default_rng(1).random((B, D))
EPS = np.random.default_rng(2).standard_normal((B, Z))


def forward(p, act="tanh", eps=EPS):
    f = {"tanh": np.tanh, "relu": lambda a: a * (a.real > 0)}[act]
    s = {"x": X, "eps": eps}
    s["a1"] = X @ p["W1"] + p["b1"]
    s["h1"] = f(s["a1"])
    s["a2"] = s["h1"] @ p["W2"] + p["b2"]
    s["h2"] = f(s["a2"])
    s["mu"], s["lv"] = s["h2"] @ p["Wm"] + p["bm"], s["h2"] @ p["Wv"] + p["bv"]
    s["z"] = s["mu"] + np.exp(s["lv"] / 2) * eps
    s["a3"] = s["z"] @ p["W3"] + p["b3"]
    s["h3"] = f(s["a3"])
    s["a4"] = s["h3"] @ p["W4"] + p["b4"]
    s["h4"] = f(s["a4"])
    s["y"] = s["h4"] @ p["W5"] + p["b5"]
    return s


def terms(p, act="tanh"):
    s = forward(p, act)
    reconstruction = (np.log(1 + np.exp(s["y"])) - X * s["y"]).sum() / B
    rate = 0.5 * (s["mu"] ** 2 + np.exp(s["lv"]) - 1 - s["lv"]).sum() / B
    return {"reconstruction": reconstruction, "rate": rate}


def loss(p, act="tanh"):
    return sum(terms(p, act).values())


def make_gradients(bug="", act="tanh"):
    """A function of params that returns their gradients, with one bug."""
    rng = np.random.default_rng(0)

    def gradients(p):
        s = forward(p, act)
        d = {"tanh": lambda h: 1 - h**2, "relu": lambda h: (h > 0) * 1.0}[act]
        g = {}

        def layer(i, delta, x):
            g[f"W{i}"], g[f"b{i}"] = x.T @ delta, delta.sum(0)
            return delta @ p[f"W{i}"].T

        dy = (1 / (1 + np.exp(-s["y"])) - X) / B
        if bug == "wrong sign of the reconstruction":
            dy = -dy
        dh4 = layer("5", dy, s["a4"] if bug == "pre- for post-activation" else s["h4"])
        d4 = dh4 * d(s["h3" if bug == "derivative of another layer's activation" else "h4"])
        dh3 = layer("4", d4, s["h3"])
        d3 = dh3 * d(s["h3"])
        dz = layer("3", d3, s["z"])
        eps = EPS[::-1] if bug == "noise of another row" else EPS
        eps = rng.standard_normal(EPS.shape) if bug == "noise drawn anew in every call" else eps
        kl_mu, kl_lv = s["mu"] / B, 0.5 * (np.exp(s["lv"]) - 1) / B
        path_mu, path_lv = dz, dz * eps * np.exp(s["lv"] / 2) / 2
        if bug == "KL forgotten":
            kl_mu, kl_lv = 0 * kl_mu, 0 * kl_lv
        dmu, dlv = path_mu + kl_mu, path_lv + kl_lv
        if bug == "logvar taken for log sigma":
            dlv = 2 * dlv
        dh2 = layer("m", dmu, s["h2"]) + layer("v", dlv, s["h2"])
        d2 = dh2 * (1 if bug == "derivative of the encoder's activation missing" else d(s["h2"]))
        dh1 = layer("2", d2, s["h1"])
        layer("1", dh1 * d(s["h1"]), X)
        if bug == "bias forgotten":
            g["b4"] = 0 * g["b4"]
        if bug == "bias of the first row alone":
            g["b4"] = d4[0].copy()
        if bug == "a column not written":
            g["W3"][:, 2] = 0
        if bug == "reshaped in the wrong order":
            g["W1"] = g["W1"].T.reshape(D, H).copy()
        if bug == "columns reversed":
            g["W5"] = g["W5"][:, ::-1].copy()
        return {name: g[name] for name in p}

    return gradients


HIDDEN = "W1 b1 W2 b2"
ENCODER = f"{HIDDEN} Wm bm Wv bv"
SIGMA = f"{HIDDEN} Wv bv"
ALL = f"{ENCODER} W3 b3 W4 b4 W5 b5"
BUGS = {  # kind of the diagnosis of all together, words of it, the tensors that are wrong
    "wrong sign of the reconstruction": ("factor", "the negative", ALL),
    "pre- for post-activation": ("input", "before its activation", "W5"),
    "derivative of another layer's activation": ("activation", "another layer's", f"{ENCODER} W3 b3 W4 b4"),
    "KL forgotten": ("term", "the term of the rate is missing", ENCODER),
    "logvar taken for log sigma": ("factor", "Wv, bv: 2 times", SIGMA),
    "derivative of the encoder's activation missing": ("activation", "is missing", HIDDEN),
    "bias forgotten": ("forgotten", "b4: forgotten", "b4"),
    "bias of the first row alone": ("bias", "summed over the rows wrongly", "b4"),
    "a column not written": ("part-forgotten", "column 2", "W3"),
    "reshaped in the wrong order": ("permuted", "its transpose was reshaped", "W1"),
    "columns reversed": ("permuted", "the last axis is reversed", "W5"),
    "noise of another row": ("noise", "drawn anew, or another row's", SIGMA),
    "noise drawn anew in every call": ("noise", "the noise is redrawn between forward and backward", SIGMA),
}
