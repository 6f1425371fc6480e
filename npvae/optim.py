"""Optimisers: each turns `ws.dtheta` into a step of `ws.theta`, one loop over one vector in the workspace's backend.

    opt = Adam(ws, lr=1e-3)
    ws.forward(x); ws.backward(); opt.step()

`lr` is a number or a schedule, a plain function from the number of steps taken so far to the rate. `clip` shortens
a gradient whose norm is above it (Pascanu, Mikolov & Bengio 2013); `ws.dtheta` itself is left as backward wrote it.
`state` and `steps` are all that an optimiser remembers.
"""

import math
from collections.abc import Callable
from typing import Any

from npvae.errors import InputError, check_choice, check_real, check_whole
from npvae.flat import Array, leaves, zeros
from npvae.workspace import Workspace

Schedule = Callable[[int], float]


def constant(rate: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: rate


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """`rate`, multiplied by `factor` after every `every` steps.

    >>> [step_decay(1.0, every=2, factor=0.5)(step) for step in range(5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    check_whole("every", every)
    return lambda step: rate * factor ** (step // every)


def cosine(rate: float, steps: int, final: float = 0.0) -> Schedule:
    """Half a cosine from `rate` down to `final` in `steps` steps (Loshchilov & Hutter 2017, eq. 5), then `final`.

    >>> [round(cosine(1.0, steps=4)(step), 3) for step in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """
    check_whole("steps", steps)
    return lambda step: final + (rate - final) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2


def linear_warmup(schedule: Schedule, steps: int) -> Schedule:
    """`schedule`, its first `steps` rates growing linearly from rate/steps.

    >>> [linear_warmup(constant(1.0), steps=4)(step) for step in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return lambda step: schedule(step) * min((step + 1) / max(steps, 1), 1)


class SGD:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013); momentum 0 is plain descent."""

    def __init__(
        self, ws: Workspace, lr: float | Schedule = 1e-2, momentum: float = 0.9, clip: float | None = None
    ) -> None:
        self.ws, self.lr, self.clip, self.steps = ws, as_schedule(lr), check_clip(clip), 0
        self.momentum = check_real("momentum", momentum, 0.0, 1.0)
        self.state = {"velocity": zeros(ws.theta.size, ws.dtype)}

    def step(self) -> None:
        """velocity = momentum velocity + g;  theta -= lr velocity."""
        ws, rate, scale = self.ws, self.lr(self.steps), clip_scale(self.ws, self.clip)
        ws.ops.sgd_step(ws.theta, ws.dtheta, self.state["velocity"], rate, self.momentum, scale)
        self.steps += 1


class RMSProp:
    """Each entry's step divided by the root of its recent mean square (Tieleman & Hinton 2012, lecture 6.5)."""

    def __init__(
        self,
        ws: Workspace,
        lr: float | Schedule = 1e-3,
        decay: float = 0.99,
        epsilon: float = 1e-8,
        clip: float | None = None,
    ) -> None:
        self.ws, self.lr, self.clip, self.steps = ws, as_schedule(lr), check_clip(clip), 0
        self.decay, self.epsilon = check_real("decay", decay, 0.0, 1.0), check_real("epsilon", epsilon, 0.0)
        self.state = {"square": zeros(ws.theta.size, ws.dtype)}

    def step(self) -> None:
        """square = decay square + (1 - decay) g^2;  theta -= lr g / (sqrt(square) + epsilon)."""
        ws, rate, scale = self.ws, self.lr(self.steps), clip_scale(self.ws, self.clip)
        ws.ops.rmsprop_step(ws.theta, ws.dtheta, self.state["square"], rate, self.decay, self.epsilon, scale)
        self.steps += 1


class Adam:
    """Adaptive moments (Kingma & Ba 2015, algorithm 1)."""

    def __init__(
        self,
        ws: Workspace,
        lr: float | Schedule = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        clip: float | None = None,
    ) -> None:
        self.ws, self.lr, self.clip, self.steps = ws, as_schedule(lr), check_clip(clip), 0
        self.beta1, self.beta2 = check_real("beta1", beta1, 0.0, 1.0), check_real("beta2", beta2, 0.0, 1.0)
        self.epsilon = check_real("epsilon", epsilon, 0.0)
        self.state = {name: zeros(ws.theta.size, ws.dtype) for name in ("mean", "square")}

    def step(self) -> None:
        """theta -= lr m / (sqrt(v) + epsilon), with m and v the moments divided by 1 - beta^t."""
        ws, rate, scale = self.ws, self.lr(self.steps), clip_scale(self.ws, self.clip)
        self.steps += 1
        ws.ops.adam_step(
            ws.theta,
            ws.dtheta,
            self.state["mean"],
            self.state["square"],
            rate,
            self.beta1,
            self.beta2,
            self.epsilon,
            self.steps,
            scale,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2): matrices decay, biases do not."""

    def __init__(self, ws: Workspace, lr: float | Schedule = 1e-3, weight_decay: float = 0.01, **adam: Any) -> None:
        super().__init__(ws, lr, **adam)
        self.weight_decay = check_real("weight_decay", weight_decay, 0.0)
        self.matrices: list[Array] = [view for _, view in leaves(ws.params) if view.ndim == 2]

    def step(self) -> None:
        """W -= lr weight_decay W for every matrix, then Adam's step."""
        check_gradient(self.ws)  # before anything moves
        kept = self.ws.dtype.type(1 - self.lr(self.steps) * self.weight_decay)
        for W in self.matrices:
            W *= kept
        super().step()


Optimizer = SGD | RMSProp | Adam


def as_schedule(lr: float | Schedule) -> Schedule:
    """A schedule as it is; a number, which must be above 0, as the constant one."""
    return lr if callable(lr) else constant(check_real("lr", lr, 0.0, open_=True))


def check_clip(clip: float | None) -> float | None:
    """Return the largest gradient norm allowed, or None for no limit; InputError unless it is above 0."""
    return clip if clip is None else check_real("clip", clip, 0.0, open_=True)


def check_gradient(ws: Workspace) -> None:
    """Raise InputError before the first backward."""
    if not hasattr(ws, "dtheta"):
        raise InputError("an optimiser steps along ws.dtheta: call ws.forward and ws.backward first")


def clip_scale(ws: Workspace, clip: float | None) -> float:
    """The factor that brings |dtheta| down to `clip`: 1 where there is no limit or the gradient keeps it."""
    check_gradient(ws)
    if clip is None:
        return 1.0
    norm = ws.ops.global_norm(ws.dtheta)
    return 1.0 if norm <= clip else float(clip / norm)


def make_schedule(kind: str, rate: float, steps: int, warmup: int) -> Schedule:
    """The schedule called so for a training of `steps` steps, the first `warmup` of them a linear warm-up.

    "constant"; "step": a tenth of the rate after each third of the training; "cosine": down to 0 at the end.
    """
    check_real("lr", rate, 0.0, open_=True)
    check_whole("lr_warmup", warmup, least=0)
    schedules = {
        "constant": constant(rate),
        "step": step_decay(rate, every=math.ceil(steps / 3)),
        "cosine": cosine(rate, steps),
    }
    schedule = schedules[check_choice("schedule", kind, schedules)]
    return linear_warmup(schedule, warmup) if warmup else schedule
