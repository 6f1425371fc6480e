"""Lessons for tests of the page, which take no time: docstrings like those of real ones, and functions to show."""

import numpy as np


def kl(mu, logvar):
    """KL(N(μ, diag exp logvar) ‖ N(0, I)) per latent, in nats."""
    return 0.5 * (np.exp(logvar) + mu**2 - 1 - logvar)  # <= 0 nowhere & = 0 at the prior alone


def sampled(mu, logvar, rng, n=1_000):
    """The same by sampling."""
    for _ in range(1):
        z = mu + np.exp(logvar / 2) * rng.standard_normal((n, *np.shape(mu)))
    log_q = -0.5 * (np.log(2 * np.pi) + logvar + (z - mu) ** 2 / np.exp(logvar))
    log_p = -0.5 * (np.log(2 * np.pi) + z**2)
    return (log_q - log_p).mean(axis=0), f"{{µ}} {n} samples {'of' if n > 1 else ''} <z> \\ \n"


class Loss:
    r"""The loss has a closed form, and its weights mean a variance.

    −ELBO = ½(σ² + μ² − 1 − log σ²) summed over latents, plus the reconstruction term; ‖X − X̂‖² + KL is a Gaussian
    likelihood with σ² = ½ up to a constant, if one sums & does not average: 3 < 4 > 2.

    Let $q(z|x) = N(\mu, \operatorname{diag} \sigma^2)$ and $p(z) = N(0, I)$ (Kingma and Welling
    2014, appendix B). Each of the $Z$ latents, $z_j = \mu_j + \sigma_j\epsilon_j$, adds its own divergence, and its
    expectation splits into two: with $\epsilon \sim N(0, 1)$,
    $$
    \begin{aligned}
    \mathrm{KL}(q \| p) &= E_q\left[\log \frac{q(z)}{p(z)}\right]
      = \int q(z) \log q(z)\,dz - \int q(z) \log p(z)\,dz \\
    &= -\frac{1}{2}\log 2\pi\sigma^2 - \frac{1}{2}
      + \frac{1}{2}\log 2\pi + \frac{1}{2}\left(\mu^2 + \sigma^2\right) \\
    &= \frac{1}{2}\left(\sigma^2 + \mu^2 - 1 - \log\sigma^2\right).
    \end{aligned}
    $$
    It is zero *only* for $\mu = 0$, $\sigma = 1$. A Gaussian $p(x|z) = N(\hat{x}, s^2 I)$ in $D$ dimensions has

    $$
    -\log p(x|z) = \frac{1}{2s^2} \sum_{i=1}^{D} \left(x_i - \hat{x}_i\right)^2 + \frac{D}{2}\log 2\pi s^2,
    \quad \frac{\partial}{\partial s^2}\left[-\log p\right] = -\frac{\lVert x - \hat{x}\rVert^2}{2s^4} + \frac{D}{2s^2}
    $$

    so that a squared error with weight one is $s^2 = \frac{1}{2}$. A mean over the pixels is a $\beta$ of $D$, as a
    long formula says,
    $\frac{1}{D}\|x - \hat{x}\|^2 + \mathrm{KL} = \frac{1}{D}\left(\|x - \hat{x}\|^2 + D\,\mathrm{KL}\right)$,
    which `kl` and `sampled` show (each with $\eta = 10^{-3}$).
    """

    SHOWN = (kl, sampled)


def power(W, x, steps=10):
    """Oja's iteration for the first k directions of x (n, D), from W (D, k)."""
    for _ in range(steps):
        W, _ = np.linalg.qr(x.T @ (x @ W))
    return W


class PCA:
    r"""A linear autoencoder is PCA.

    A tied linear layer that minimises ‖X − X W Wᵀ‖² spans the first k principal directions (Baldi and Hornik 1989).

    Let $\Sigma = \frac{1}{n}X^\top X = U\Lambda U^\top$ with $\lambda_1 \ge \lambda_2 \ge \cdots \ge \lambda_D$. For a
    $W$ of full rank, $P = WW^\top$, and

    $$
    \min_{W \in R^{D \times k}} \; \frac{1}{n}\left\|X - XWW^\top\right\|^2
      = \tr \Sigma - \max_{W^\top W = I} \tr W^\top \Sigma W = \sum_{j=k+1}^{D} \lambda_j
    $$

    by the theorem of Eckart and Young (1936): $\perp$ is what $I - P$ keeps. The spectrum of $P$ is

    $$
    \lambda_i(P) = \begin{cases} 1 & \text{if } i \le k, \\ 0 & \text{otherwise}; \end{cases} \quad
    \det(P - \lambda I) = (1 - \lambda)^k (-\lambda)^{D-k}
    $$

    and its gradient $\nabla_W \ell = -2\left(\Sigma(I - P) + (I - P)\Sigma\right)W$ vanishes there, up to a rotation
    $W \mapsto WR$, $R^\top R = I$.
    """

    SHOWN = (power,)


class Sigmoid:
    r"""Derivatives of what is bent.

    σ′ = σ(1 − σ), tanh′ = 1 − tanh², and softplus′ = σ: each derivative is written from the output.

    From $\sigma(a) = \frac{1}{1 + \exp(-a)}$ it follows that $\sigma'(a) = \sigma(a)(1 - \sigma(a)) \le \frac14$, and

    $$
    \tanh'(a) = 1 - \tanh^2 a, \quad \bar{y} = \sqrt{\frac{1}{n}\sum_i y_i^2}, \quad
    \vec{v} \odot \tilde{v} \approx \arg\max_{w} \left| \prod_{t=1}^{T} f_t(w) \right|
    \Rightarrow \{a \in R : a > 0\}
    $$

    for all $a$: $\forall a, b\; \ldots\ 2\log a \pm 3\cdot b!/c \ne x_{i_j}^{2^n} \propto \infty$.
    """

    SHOWN = (kl,)
