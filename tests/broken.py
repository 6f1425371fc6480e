"""A VAE as people write it, in one function of a dict, and the ways in which its backward can be wrong.

Two hidden tanh layers on either side, mu and log sigma^2 from layers of their own, a Bernoulli likelihood; the loss is
summed over pixels and averaged over the batch. `gradients(bug)` has every bug at the place where it would be made.
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
OTHER = np.random.default_rng(3).standard_normal((B, Z))


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
    rng, memory = np.random.default_rng(0), {}

    def gradients(p):
        s = forward(p, act)
        d = {"tanh": lambda h: 1 - h**2, "relu": lambda h: (h > 0) * 1.0}[act]
        g = {}

        def layer(i, delta, x):
            g[f"W{i}"], g[f"b{i}"] = x.T @ delta, delta.sum(0)
            return delta @ p[f"W{i}"].T

        dy = (1 / (1 + np.exp(-s["y"])) - X) / B
        if bug == "1/B forgotten":
            dy *= B
        if bug == "averaged over D":
            dy /= D
        if bug == "wrong sign of the reconstruction":
            dy = -dy
        dh4 = layer("5", dy, s["a4"] if bug == "pre- for post-activation" else s["h4"])
        d4 = dh4 * (1 if bug == "derivative of the decoder's activation missing" else d(s["h4"]))
        if bug == "derivative of another layer's activation":
            d4 = dh4 * d(s["h3"])
        dh3 = layer("4", d4, s["h3"])
        if bug == "W for its transpose":
            dh3 = d4 @ p["W4"]
        d3 = dh3 * d(s["h3"])
        dz = layer("3", d3, s["z"])
        eps = {"noise redrawn": OTHER, "noise of another row": EPS[::-1], "noise drawn anew in every call": None}.get(
            bug, EPS
        )
        eps = rng.standard_normal(EPS.shape) if eps is None else eps
        sigma = np.exp(s["lv"] / 2)
        kl_mu, kl_lv = s["mu"] / B, 0.5 * (np.exp(s["lv"]) - 1) / B
        path_mu, path_lv = dz, dz * eps * sigma / 2
        if bug == "half missing in sigma's path":
            path_lv = 2 * path_lv
        if bug == "sigma's path forgotten":
            path_lv = 0 * path_lv
        if bug == "KL forgotten":
            kl_mu, kl_lv = 0 * kl_mu, 0 * kl_lv
        if bug == "wrong sign of the KL":
            kl_mu, kl_lv = -kl_mu, -kl_lv
        if bug == "KL summed over the batch":
            kl_mu, kl_lv = B * kl_mu, B * kl_lv
        if bug == "std for variance in the KL":
            kl_lv = 0.5 * (sigma - 1) / B
        if bug == "noise detached":
            path_mu, path_lv = 0 * path_mu, 0 * path_lv
        dmu, dlv = path_mu + kl_mu, path_lv + kl_lv
        if bug == "logvar taken for log sigma":
            dlv = 2 * dlv
        dh2 = layer("m", dmu, s["h2"]) + layer("v", dlv, s["h2"])
        if bug == "one of two paths to the hidden layer":
            dh2 = dmu @ p["Wm"].T
        d2 = dh2 * (1 if bug == "derivative of the encoder's activation missing" else d(s["h2"]))
        dh1 = layer("2", d2, s["h1"])
        d1 = dh1 * d(s["h1"])
        if bug == "stale delta":
            d1, memory["d1"] = memory.get("d1", d1), d1
        if bug == "first layer's derivative from the pre-activation":
            d1 = dh1 * d(s["a1"])
        layer("1", d1, X)
        if bug == "bias forgotten":
            g["b4"] = 0 * g["b4"]
        if bug == "bias averaged":
            g["b4"] /= B
        if bug == "bias of the first row alone":
            g["b4"] = d4[0].copy()
        if bug == "bias without its sum":
            g["b4"] = d4
        if bug == "a column not written":
            g["W3"][:, 2] = 0
        if bug == "transposed":
            g["W4"] = g["W4"].T.copy()
        if bug == "reshaped in the wrong order":
            g["W1"] = g["W1"].T.reshape(D, H).copy()
        if bug == "columns reversed":
            g["W5"] = g["W5"][:, ::-1].copy()
        if bug == "the last row left out":
            g["W2"] = s["h1"][:-1].T @ d2[:-1]
        if bug == "accumulated":
            for name in g:
                memory[name] = g[name] = g[name] + memory.get(name, 0)
        return {name: g[name] for name in p}

    return gradients


HIDDEN = "W1 b1 W2 b2"
ENCODER = f"{HIDDEN} Wm bm Wv bv"
SIGMA = f"{HIDDEN} Wv bv"
ALL = f"{ENCODER} W3 b3 W4 b4 W5 b5"
BUGS = {  # kind of the diagnosis of all together, words of it, the tensors that are wrong
    "1/B forgotten": ("factor", "4 times what it should be (B)", ALL),
    "averaged over D": ("factor", "1/9 of what it should be (1/D)", ALL),
    "wrong sign of the reconstruction": ("factor", "the negative", ALL),
    "pre- for post-activation": ("input", "before its activation", "W5"),
    "derivative of the decoder's activation missing": ("activation", "is missing", f"{ENCODER} W3 b3 W4 b4"),
    "derivative of another layer's activation": ("activation", "another layer's", f"{ENCODER} W3 b3 W4 b4"),
    "W for its transpose": ("activation", "W^T", f"{ENCODER} W3 b3"),
    "half missing in sigma's path": ("noise", "the path through sigma", SIGMA),
    "sigma's path forgotten": ("noise", "the path through sigma", SIGMA),
    "KL forgotten": ("term", "the term of the rate is missing", ENCODER),
    "wrong sign of the KL": ("term", "the term of the rate is the negative", ENCODER),
    "KL summed over the batch": ("term", "the term of the rate is 4 times what it should be (B)", ENCODER),
    "std for variance in the KL": ("noise", "the rate's derivative", SIGMA),
    "noise detached": ("term", "the term of the reconstruction is missing", ENCODER),
    "logvar taken for log sigma": ("factor", "Wv, bv: 2 times", SIGMA),
    "one of two paths to the hidden layer": ("activation", "a path left out", HIDDEN),
    "derivative of the encoder's activation missing": ("activation", "is missing", HIDDEN),
    "stale delta": ("stale", "previous call", "W1 b1"),
    "bias forgotten": ("forgotten", "b4: forgotten", "b4"),
    "bias averaged": ("factor", "1/4 of what it should be (1/B)", "b4"),
    "bias of the first row alone": ("bias", "summed over the rows wrongly", "b4"),
    "bias without its sum": ("shape", "the sum over the first axis is missing", "b4"),
    "a column not written": ("part-forgotten", "column 2", "W3"),
    "transposed": ("transposed", "W4: the transpose", "W4"),
    "reshaped in the wrong order": ("permuted", "its transpose was reshaped", "W1"),
    "columns reversed": ("permuted", "the last axis is reversed", "W5"),
    "accumulated": ("accumulated", "it is not reset", ALL),
    "noise redrawn": ("noise", "only the encoder is wrong, the decoder is right", SIGMA),
    "noise of another row": ("noise", "drawn anew, or another row's", SIGMA),
    "noise drawn anew in every call": ("noise", "the noise is redrawn between forward and backward", SIGMA),
}
WITH_TERMS = {  # what is said if the loss's terms are given
    "half missing in sigma's path": "the term of the reconstruction is 2 times",
    "sigma's path forgotten": "the term of the reconstruction is missing",
    "KL forgotten": "all of the encoder: the term of the rate is missing",
    "wrong sign of the KL": "all of the encoder: the term of the rate is the negative",
    "KL summed over the batch": "all of the encoder: the term of the rate is 4 times what it should be (B)",
    "noise detached": "all of the encoder: the term of the reconstruction is missing",
}
