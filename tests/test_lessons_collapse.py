"""The lesson on collapse with the library broken on purpose: its claim does not hold then."""

from test_lessons import failing

from npvae import cli, lessons
from npvae.ops import default_backend, load_backend, reference


def test_a_rate_that_pulls_on_the_variances_half_as_much(monkeypatch, capsys, tmp_path):
    """Other latents are live then than those whose eigenvalue is above beta sigma^2."""
    for backend in {default_backend(), "reference"}:
        ops = load_backend(backend)

        def wrong(drate, stats, out=None, right=ops.gaussian_kl_backward):
            dstats = right(drate, stats, out=out)
            half = stats.shape[-1] // 2
            dstats[..., half:] *= 0.5
            return dstats

        monkeypatch.setattr(ops, "gaussian_kl_backward", wrong)
    assert cli.main(["lesson", "collapse", "--quick", "--out", str(tmp_path)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAILS")]
    assert any(line.startswith("linear: rate of a latent, furthest from") for line in lines)


def test_a_rate_in_place_of_the_information(monkeypatch):
    """E_x KL(q(z|x) || p(z)) has no bound; the information of n images is at most log n."""

    def rate(stats, eps):
        return float(reference.gaussian_kl_forward(stats).sum(axis=(1, 2)).mean())

    monkeypatch.setattr(lessons.module("collapse"), "mutual_information", rate)
    assert "I(X;Z), largest of all" in failing("collapse")
