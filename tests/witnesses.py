"""The models once more, for software that differentiates by itself: HIPS autograd, JAX and PyTorch.

They are written from the definitions, not from npvae, which is not imported here, and in their plainest form: nothing
guards against overflow. PyTorch's are put together from its own distributions.

    python witnesses.py autograd|jax|torch QUESTIONS.npz ANSWERS.npz

A question is named "vae LIKELIHOOD BOUND ACTIVATION", "deep ACTIVATION" or "linear". Both files hold arrays as
"QUESTION/ARRAY": of a question the parameters and GIVEN, of its answer the gradients and "loss".
"""

import math
import sys

import numpy

GIVEN = ("x", "target", "eps", "beta", "free_bits", "sigma")
ACTIVATIONS = {
    "identity": lambda np, a: a,
    "relu": lambda np, a: np.where(a > 0, a, 0.0),
    "leaky-relu": lambda np, a: np.where(a > 0, a, 0.01 * a),
    "tanh": lambda np, a: np.tanh(a),
    "sigmoid": lambda np, a: 1 / (1 + np.exp(-a)),
    "softplus": lambda np, a: np.log(1 + np.exp(a)),
    "elu": lambda np, a: np.where(a > 0, a, np.exp(a) - 1),
}


def mlp(p, part, act, x):
    """The layers of the encoder or of the decoder: act between them, the last linear."""
    depth = sum(name.startswith(part) and name.endswith("W") for name in p)
    for i in range(depth):
        x = x @ p[f"{part}.{i}.W"] + p[f"{part}.{i}.b"]
        x = act(x) if i < depth - 1 else x
    return x


def squared_error(question, p, given, act):
    """The loss of an autoencoder."""
    x, target = given["x"], given["target"]
    y = x @ p["W"] @ p["W"].T if question == "linear" else mlp(p, "decoder", act, mlp(p, "encoder", act, x))
    return ((y - target) ** 2).sum() / len(x)


# ── In NumPy's functions, for autograd and JAX ───────────────────────────────────────────────────────────────────


def log_normal(np, x, mean, variance):
    return -0.5 * (math.log(2 * math.pi) + np.log(variance) + (x - mean) ** 2 / variance)


def log_density(np, likelihood, p, given, y):
    """log p(target|y), pixel by pixel."""
    target = given["target"][:, None]
    if likelihood == "bernoulli":
        white = 1 / (1 + np.exp(-y))
        return target * np.log(white) + (1 - target) * np.log(1 - white)
    if likelihood == "gaussian-pixel":
        D = target.shape[-1]
        return log_normal(np, target, y[..., :D], np.exp(y[..., D:]))
    if likelihood == "gaussian-learned":
        return log_normal(np, target, y, np.exp(p["likelihood.logvar"]))
    return log_normal(np, target, y, np.mean((target - y) ** 2) if "optimal" in likelihood else given["sigma"] ** 2)


def loss_in(np, question, p, given):
    kind, *details = question.split()
    act = (lambda a: ACTIVATIONS[details[-1]](np, a)) if details else None
    if kind != "vae":
        return squared_error(question, p, given, act)
    likelihood, bound, _ = details
    eps, beta = given["eps"], given["beta"]
    stats = mlp(p, "encoder", act, given["x"])[:, None]
    mu, variance = stats[..., : eps.shape[-1]], np.exp(stats[..., eps.shape[-1] :])
    z = mu + np.sqrt(variance) * eps
    log_px = np.sum(log_density(np, likelihood, p, given, mlp(p, "decoder", act, z)), axis=-1)
    if bound == "iwae":
        ratio = log_normal(np, z, mu, variance) - log_normal(np, z, 0.0, 1.0)
        return -np.mean(np.log(np.mean(np.exp(log_px - beta * np.sum(ratio, axis=-1)), axis=1)))
    kl = 0.5 * np.mean(mu**2 + variance - 1 - np.log(variance), axis=(0, 1))
    return beta * np.sum(np.maximum(kl, given["free_bits"])) - np.mean(log_px)


def autograd_answer(question, p, given):
    import autograd
    import autograd.numpy as np

    return autograd.value_and_grad(lambda p: loss_in(np, question, p, given))(p)


def jax_answer(question, p, given):
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax.jit(jax.value_and_grad(lambda p: loss_in(jax.numpy, question, p, given)))(p)


# ── In PyTorch's own ─────────────────────────────────────────────────────────────────────────────────────────────


def torch_loss(question, p, given):
    import torch
    import torch.nn.functional as F
    from torch.distributions import Bernoulli, Normal, kl_divergence

    kind, *details = question.split()
    named = {"identity": torch.nn.Identity(), "leaky-relu": F.leaky_relu}
    act = named.get(details[-1]) or getattr(F, details[-1]) if details else None
    if kind != "vae":
        return squared_error(question, p, given, act)
    likelihood, bound, _ = details
    target, eps, beta = given["target"][:, None], given["eps"], given["beta"]
    mu, logvar = mlp(p, "encoder", act, given["x"])[:, None].chunk(2, dim=-1)
    q, prior = Normal(mu, torch.exp(logvar / 2)), Normal(torch.zeros_like(mu), torch.ones_like(mu))
    z = q.mean + q.stddev * eps
    y = mlp(p, "decoder", act, z)
    if likelihood == "bernoulli":
        p_x = Bernoulli(logits=y, validate_args=False)  # a grey level is no draw of it
    elif likelihood == "gaussian-pixel":
        mean, own = y.chunk(2, dim=-1)
        p_x = Normal(mean, torch.exp(own / 2))
    elif likelihood == "gaussian-learned":
        p_x = Normal(y, torch.exp(p["likelihood.logvar"] / 2))
    else:
        p_x = Normal(y, F.mse_loss(y, target.expand_as(y)).sqrt() if "optimal" in likelihood else given["sigma"])
    log_px = p_x.log_prob(target.expand(*y.shape[:2], -1)).sum(dim=-1)
    if bound == "iwae":
        log_w = log_px - beta * (q.log_prob(z) - prior.log_prob(z)).sum(dim=-1)
        return -(torch.logsumexp(log_w, dim=1) - math.log(eps.shape[1])).mean()
    return beta * torch.maximum(kl_divergence(q, prior).mean(dim=(0, 1)), given["free_bits"]).sum() - log_px.mean()


def torch_answer(question, p, given):
    import torch

    p = {name: torch.from_numpy(value).requires_grad_() for name, value in p.items()}
    loss = torch_loss(question, p, {name: torch.from_numpy(value) for name, value in given.items()})
    gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(p, gradients, strict=True))


ANSWERS = {"autograd": autograd_answer, "jax": jax_answer, "torch": torch_answer}


def main(witness, questions, answers):
    stored, found = numpy.load(questions), {}
    for question in dict.fromkeys(name.split("/")[0] for name in stored):
        arrays = {name.split("/")[1]: stored[name] for name in stored if name.split("/")[0] == question}
        given = {name: arrays.pop(name) for name in GIVEN}
        loss, gradients = ANSWERS[witness](question, arrays, given)
        found |= {f"{question}/{name}": numpy.asarray(value) for name, value in ({"loss": loss} | gradients).items()}
    numpy.savez(answers, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
