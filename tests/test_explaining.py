"""`npvae explain`: what is said of a pass is what the pass did, op by op and number by number."""

import ast
import json
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

import npvae as nv
from npvae import cli
from npvae.explaining import BACKWARD, FORWARD
from npvae.flat import leaves
from npvae.likelihoods import LIKELIHOODS
from npvae.ops import BACKENDS, reference

B, D, H, Z = 4, 6, 5, 2
ROOT = Path(nv.__file__).parents[1]
BOUNDS = {"elbo": nv.ELBO(0.1), "iwae": nv.IWAE()}
MODELS = {
    **{
        f"{name} {bound}": nv.VAE(D, (H,), Z, "tanh", name, BOUNDS[bound])
        for name, bound in product(LIKELIHOODS, BOUNDS)
    },
    "deep": nv.Autoencoder(D, (H, 3), Z),
    "linear": nv.LinearAutoencoder(D, Z),
}
EVERY = pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))


def passed(model, backend="reference", dtype="float64"):
    """A workspace after a pass, and its explanation."""
    ws = nv.Workspace(model, B, 3 if getattr(model, "bound", None) == nv.IWAE() else 1, dtype, backend, seed=2)
    x, target = np.random.default_rng(0).random((2, B, D))
    ws.forward(x, target)
    ws.backward()
    return ws, nv.explain(ws)


@EVERY
@pytest.mark.parametrize("backend", BACKENDS)
def test_names_and_norms_are_those_of_the_workspace(model, backend):
    ws, explained = passed(model, backend)
    acts, derivatives, gradients = (dict(leaves(tree)) for tree in (ws.acts, ws.dacts, ws.grads))
    down, up = (steps for _, steps in explained.parts())
    written = {one.name: one for step in down for one in step.writes}
    assert set(acts) <= set(written)
    for name, view in acts.items():
        assert written[name].norm == pytest.approx(np.linalg.norm(view), rel=1e-12), name
        assert written[name].gradient == pytest.approx(np.linalg.norm(derivatives[name]), rel=1e-12), name
    parameters = {f"d {name}" for name, _ in leaves(ws.params)}
    if getattr(model, "p_x", None) == nv.GaussianOptimal():
        parameters.remove("d likelihood.logvar")  # which is stored for evaluation, and not learned
    given = {one.name: one for step in up for one in step.writes}
    assert parameters <= set(given)
    for name in parameters:
        assert given[name].norm == pytest.approx(np.linalg.norm(gradients[name[2:]]), rel=1e-12), name
    assert explained.theta == {name: view.size for name, view in leaves(ws.params)}
    assert explained.acts == {name: view.size for name, view in acts.items()}


@EVERY
def test_every_forward_has_its_backward_in_the_opposite_order(model):
    down, up = ([step.op.rsplit("_", 1)[0] for step in steps] for _, steps in passed(model)[1].parts())
    assert sorted(down) == sorted(up)
    first, last = (("dense", "dense"), ("elbo", "iwae", "squared_error"))
    assert down[0] in (*first, "tied") and down[-1] in last and up[0] == down[-1] and up[-1] == down[0]


@EVERY
def test_lines_of_source_are_where_they_are_said_to_be(model):
    for step in passed(model)[1].steps:
        path, line = step.source.split(":")
        assert (ROOT / path).read_text("utf-8").splitlines()[int(line) - 1].startswith(f"def {step.op}(")
        path, line = step.caller.split(":")
        calls = [
            node.func.attr
            for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.lineno <= int(line) <= node.end_lineno
        ]
        assert step.op in calls


def test_operations_are_counted_as_by_hand():
    explained = passed(MODELS["bernoulli elbo"])[1]
    products = [step.flops for step in explained.steps if step.op.startswith("dense")]
    forward = [2 * B * size for size in (D * H, H * 2 * Z, Z * H, H * D)]
    backward = [2 * forward[3], 2 * forward[2], 2 * forward[1], forward[0]]  # nobody wants dx of the first layer
    assert products == [*forward, *backward]
    assert [s.flops for s in explained.steps if s.op.startswith("bernoulli")] == [B * D, B * D]
    tied = passed(MODELS["linear"])[1]
    assert [s.flops for s in tied.steps if s.op.startswith("tied")] == [4 * B * D * Z, 6 * B * D * Z]
    assert [step.parameters for step in explained.parts()[0][1] if step.op == "dense_forward"] == [35, 24, 15, 36]


def test_formulas_are_the_references_own():
    for step in passed(MODELS["gaussian iwae"])[1].steps:
        function = getattr(reference, step.op)
        text = step.formula.split(" act: ")[0].split("\n")[0]
        assert text.split(".")[0] in " ".join((function.__doc__ + Path(reference.__file__).read_text("utf-8")).split())
        assert len(step.formula) > 15


def test_the_workspace_is_left_as_it_was():
    ws, _ = passed(MODELS["bernoulli iwae"])

    def state():
        parts = (ws.theta, ws.dtheta, *(v for _, v in leaves(ws.acts)), *(v for _, v in leaves(ws.dacts)))
        return [part.tobytes() for part in parts], str(ws.rng.bit_generator.state)

    before, ops = state(), ws.ops
    nv.explain(ws)
    assert state() == before and ws.ops is ops


def test_what_cannot_be_explained_is_refused():
    with pytest.raises(nv.InputError, match=r"call ws\.forward\(x\) first"):
        nv.explain(nv.Workspace(MODELS["deep"], B))
    with pytest.raises(nv.InputError, match="ws must be a Workspace"):
        nv.explain(MODELS["deep"])


class Page(HTMLParser):
    """Fails on a tag that is closed and was not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.text = [], 0, []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "meta"):
            self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@EVERY
def test_the_table_as_text_and_as_html(model):
    explained = passed(model)[1]
    page = Page(explained._repr_html_())
    assert page.rows == 3 + len(explained.rows())
    text = str(explained)
    for step in explained.steps:
        assert step.op in text and step.source in text and step.op in "".join(page.text)
        assert all(line in "".join(page.text) for line in step.formula.split("\n"))
    assert "forward" in text and f"{sum(explained.theta.values())} parameters" in text


@pytest.mark.parametrize("name", ["gaussian-pixel iwae", "bernoulli elbo", "deep", "linear"])
def test_the_picture(name):
    explained = passed(MODELS[name])[1]
    figure = explained.figure()
    words = {text.get_text() for axes in figure.axes for text in axes.texts}
    for one in (one for step in explained.parts()[0][1] for one in step.writes):
        assert any(word.startswith(f"{one.name}   ") for word in words)
    arrows = sorted(patch.get_linewidth() for patch in figure.axes[0].patches)
    assert arrows[-1] == pytest.approx(7.8) and arrows[0] < 7.8
    colours = {patch.get_edgecolor()[:3] for patch in figure.axes[0].patches}
    assert len(colours) == 2  # forward and backward


# ── The command line ─────────────────────────────────────────────────────────────────────────────────────────────


SMALL = ["explain", "--hidden", "5", "--latent", "2", "--batch", "3"]


def test_on_the_command_line(capsys):
    assert cli.main([*SMALL, "--bound", "iwae", "--samples", "4"]) == 0
    out = capsys.readouterr().out
    assert "3 images, 4 samples each" in out and "log_ratio_forward" in out and "npvae/ops/reference.py:" in out


def test_a_run_on_the_command_line(capsys, tmp_path):
    data = nv.datasets.load("mnist-small", rows=30)
    run = nv.train(nv.VAE(784, (5,), 2), data, epochs=1, batch=10, out=tmp_path / "run")
    assert cli.main(["explain", str(tmp_path / "run"), "--batch", "7", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {step["direction"] for step in said["steps"]} == {FORWARD, BACKWARD}
    assert said["steps"][0]["writes"][0]["shape"] == [7, 5] and "7 images" in said["title"]
    weights = said["steps"][0]["reads"][1]
    assert weights["name"] == "encoder.0.W"
    assert weights["norm"] == pytest.approx(np.linalg.norm(run.ws.params.encoder[0].W.astype(np.float64)), rel=1e-12)
    assert cli.main(["explain", str(tmp_path / "run"), "--latent", "3"]) == 2
    assert "--latent is of a new model" in capsys.readouterr().err


def test_files_on_the_command_line(capsys, tmp_path):
    picture, page = tmp_path / "pass.png", tmp_path / "pass.html"
    assert cli.main([*SMALL, "--out", str(picture)]) == 0
    assert min(matplotlib.image.imread(picture).shape[:2]) > 500
    assert cli.main([*SMALL, "--out", str(page)]) == 0
    Page(page.read_text("utf-8").replace("<!doctype html>", ""))
    assert capsys.readouterr().out.split() == [str(picture), str(page)]
    assert cli.main([*SMALL, "--out", "pass.gif"]) == 2
    assert "must end in .png or .html" in capsys.readouterr().err
