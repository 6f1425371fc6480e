"""Somebody's loss and its gradients, for the tests of the gradient check; and what its report finds, in a word each."""

import numpy as np

A = np.random.default_rng(0).standard_normal((5, 4))
PARAMS = {
    "w": np.random.default_rng(1).standard_normal((4, 3)),
    "b": np.random.default_rng(2).standard_normal(3),
}


def cubes(p):
    return ((A @ p["w"] + p["b"]) ** 3).sum()


def cubes_gradients(p):
    d = 3 * (A @ p["w"] + p["b"]) ** 2
    return {"w": A.T @ d, "b": d.sum(0)}


def scaled(gradients, factor, *names):
    return lambda p: {k: g * (factor if k in names else 1) for k, g in gradients(p).items()}


def kinds(report):
    return [finding.kind for finding in report.findings]
