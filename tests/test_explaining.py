"""`npvae explain`: what is said of a pass is what the pass did, op by op and number by number."""

import ast
import dataclasses
import json
from html.parser import HTMLParser
from itertools import combinations, product
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch

import npvae as nv
from npvae import cli
from npvae.diagrams import arrows_of, boxed, lanes_of, short
from npvae.explaining import BACKWARD, FORWARD, LEGEND
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
    written = {one.name: one for step in explained.down for one in step.writes}
    parameters = {f"d {name}" for name, _ in leaves(ws.params)}
    if getattr(model, "p_x", None) == nv.GaussianOptimal():
        parameters.remove("d likelihood.logvar")  # which is stored for evaluation, and not learned
        assert written["likelihood.logvar"].gradient is None  # its path is in the derivative by the decoder's outputs
        del derivatives["likelihood.logvar"]
    assert set(acts) <= set(written)
    for name, view in acts.items():
        assert written[name].norm == pytest.approx(np.linalg.norm(view), rel=1e-12), name
    for name, derivative in derivatives.items():
        assert written[name].gradient == pytest.approx(np.linalg.norm(derivative), rel=1e-12), name
    given = {one.name: one for step in explained.up for one in step.writes}
    assert parameters <= set(given)
    for name in parameters:
        assert given[name].norm == pytest.approx(np.linalg.norm(gradients[name[2:]]), rel=1e-12), name
    read = {one.name: one for step in explained.down for one in step.reads}
    for name, view in leaves(ws.params):
        if f"d {name}" in parameters:
            assert read[name].norm == pytest.approx(np.linalg.norm(view), rel=1e-12), name
            assert read[name].gradient == pytest.approx(np.linalg.norm(gradients[name]), rel=1e-12), name
    for name, derivative in derivatives.items():  # what an op left, or what that became
        if f"d {name}" in given:
            one = given[f"d {name}"]
            ended = one.norm if one.final is None else one.final
            assert ended == pytest.approx(np.linalg.norm(derivative), rel=1e-12), name
    assert explained.theta == {name: view.size for name, view in leaves(ws.params)}
    assert explained.acts == {name: view.size for name, view in acts.items()}


LIKELIHOOD_OPS = {"gaussian-learned": "gaussian", **{n: n.replace("-", "_") for n in LIKELIHOODS if "learned" not in n}}


def expected(model):
    """The ops down and up, as vae.py and autoencoder.py have them."""
    if isinstance(model, nv.LinearAutoencoder):
        return ["tied", "squared_error"], ["squared_error", "tied"]
    layers = ["dense"] * (len(model.hidden) + 1)
    if isinstance(model, nv.Autoencoder):
        return [*layers, *layers, "squared_error"], ["squared_error", *layers, *layers]
    rate, bound = ("log_ratio", "iwae") if isinstance(model.bound, nv.IWAE) else ("gaussian_kl", "elbo")
    likelihood = LIKELIHOOD_OPS[model.p_x.name]
    down = [*layers, "reparameterize", *layers, likelihood, rate, bound]
    return down, [bound, rate, likelihood, *layers, "reparameterize", *layers]


@EVERY
def test_every_op_is_there_in_its_order(model):
    down, up = expected(model)
    assert [step.op for step in passed(model)[1].steps] == [
        *(f"{op}_forward" for op in down), *(f"{op}_backward" for op in up),
    ]  # fmt: skip


def test_norms_by_hand():
    ws = nv.Workspace(nv.LinearAutoencoder(3, 1), 2, dtype="float64", backend="reference")
    ws.params.W[:] = np.array([[0.5], [0.5], [0.0]])
    ws.forward(np.array([[1.0, 1.0, 2.0], [3.0, 1.0, 0.0]]))
    down, up = nv.explain(ws).down, nv.explain(ws).up
    # z = (1, 2); y = ((1/2, 1/2, 0), (1, 1, 0)); y - x = ((-1/2, -1/2, -2), (-2, 0, 0)); error = (9/2, 4).
    # dy = 2/B (y - x) = y - x; dz = dy W = (-1/2, -1); dW = dy^T z + x^T dz = (-4.5, -0.5, -2) + (-3.5, -1.5, -1).
    assert [one.norm for one in down[0].writes] == pytest.approx([5**0.5, 2.5**0.5], rel=1e-15)
    assert down[1].writes[0].norm == pytest.approx((4.5**2 + 4**2) ** 0.5, rel=1e-15)
    assert down[0].reads[1].norm == pytest.approx(0.5**0.5, rel=1e-15)
    assert up[0].writes[0].norm == pytest.approx(8.5**0.5, rel=1e-15)
    assert [one.norm for one in up[1].writes] == pytest.approx([1.25**0.5, 77**0.5], rel=1e-15)
    assert nv.explain(ws).loss == 4.25


def test_what_is_recorded_is_what_is_called(monkeypatch):
    """A model that does something else is explained by what it does, wherever its code is."""
    code = compile("def rate_forward(self, ops, eps, a):\n    ops.log_ratio_forward(a.stats, a.z, eps, out=a.rate)\n",
                   "<a notebook>", "exec")  # fmt: skip
    ours = {}
    exec(code, ours)
    monkeypatch.setattr(nv.ELBO, "rate_forward", ours["rate_forward"])
    explained = passed(MODELS["bernoulli elbo"])[1]
    rates = [step for step in explained.down if step.writes[0].name == "rate"]
    assert [(step.op, step.caller) for step in rates] == [("log_ratio_forward", "<a notebook>:2")]
    explained.figure().draw_without_rendering()  # its backward is still the closed form's


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


def test_a_derivative_that_is_a_sum_is_shown_as_one():
    """Of z: the decoder's share and the rate's; of stats: z's and the rate's."""
    ws, explained = passed(MODELS["gaussian iwae"])
    up = {one.name: one for one in (one for step in explained.up for one in step.writes)}
    assert {name for name, one in up.items() if one.final is not None} == {"d z", "d encoder.1"}
    assert {name for name in up if name.startswith("share")} == {"share of d z", "share of d encoder.1"}
    rate_on_z = ws.dacts.rate * ws.acts.z
    assert up["share of d z"].norm == pytest.approx(np.linalg.norm(rate_on_z), rel=1e-12)
    assert up["d z"].norm == pytest.approx(np.linalg.norm(ws.dacts.z - rate_on_z), rel=1e-9)
    assert up["d z"].final == pytest.approx(np.linalg.norm(ws.dacts.z), rel=1e-12)
    one = up["d z"]
    assert f"{one.norm:.4g} → {one.final:.4g}" in str(explained)
    closed = passed(MODELS["bernoulli elbo"])[1]  # this rate does not read z
    assert {one.name for step in closed.steps for one in step.writes if one.final is not None} == {"d encoder.1"}
    unused = [one for step in explained.steps for one in step.writes if one.name == "dropped"]
    assert [one.shape for one in unused] == [(1,)]  # the derivative by a sigma that is given


def test_operations_are_counted_as_by_hand():
    explained = passed(MODELS["bernoulli elbo"])[1]
    products = [step.flops for step in explained.steps if step.op.startswith("dense")]
    forward = [2 * B * size for size in (D * H, H * 2 * Z, Z * H, H * D)]
    backward = [2 * forward[3], 2 * forward[2], 2 * forward[1], forward[0]]  # nobody wants dx of the first layer
    assert products == [*forward, *backward]
    assert [s.flops for s in explained.steps if s.op.startswith("bernoulli")] == [B * D, B * D]
    tied = passed(MODELS["linear"])[1]
    assert [s.flops for s in tied.steps if s.op.startswith("tied")] == [4 * B * D * Z, 6 * B * D * Z]
    assert [step.parameters for step in explained.down if step.op == "dense_forward"] == [35, 24, 15, 36]
    learned, optimal = (
        [step.parameters for step in passed(MODELS[f"{name} elbo"])[1].steps if step.op.startswith("gaussian_o") or
         step.op in ("gaussian_forward", "gaussian_backward")]
        for name in ("gaussian-learned", "gaussian-optimal")
    )  # fmt: skip
    assert learned == [1, 1] and optimal == [0, 0]  # an optimal sigma is computed, though theta stores one beside it


def test_formulas_are_the_references_own():
    for step in passed(MODELS["gaussian iwae"])[1].steps:
        function = getattr(reference, step.op)
        text = step.formula.split("\n")[0]
        assert text.split(".")[0] in " ".join((function.__doc__ + Path(reference.__file__).read_text("utf-8")).split())
        assert len(step.formula) > 15


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_the_workspace_is_left_as_it_was(dtype):
    ws, explained = passed(MODELS["gaussian-optimal iwae"], dtype=dtype)

    def state():
        trees = (ws.acts, ws.dacts, tuple(ws.inputs[:3]))
        parts = (ws.theta, ws.dtheta, *(view for tree in trees for _, view in leaves(tree)))
        return [part.tobytes() for part in parts], str(ws.rng.bit_generator.state), ws.inputs.beta, vars(ws).keys()

    before, ops = state(), ws.ops
    nv.explain(ws)
    assert state() == before and ws.ops is ops
    x, target, eps, beta = ws.inputs
    assert explained.loss == np.real(ws.forward(x.real, target.real, eps.real.copy(), beta))


def test_a_forward_is_enough_and_its_own_inputs_are_read():
    """Fewer rows than the workspace has room for, a target, a noise and a beta."""
    model = MODELS["bernoulli elbo"]
    ws = nv.Workspace(model, B + 3, dtype="float64", backend="reference")
    x, target = np.random.default_rng(1).random((2, B, D))
    loss = ws.forward(x, target, np.full((B, 1, Z), 0.3), beta=0.25)
    explained = nv.explain(ws)
    assert explained.loss == loss and not hasattr(ws, "dtheta")
    reads = {one.name: one for step in explained.steps for one in step.reads}
    assert reads["x"].norm == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert reads["target"].norm == pytest.approx(np.linalg.norm(target), rel=1e-12)
    assert reads["eps"].norm == pytest.approx(0.3 * np.sqrt(B * Z), rel=1e-12)


def test_what_cannot_be_explained_is_refused():
    with pytest.raises(nv.InputError, match=r"call ws\.forward\(x\) first"):
        nv.explain(nv.Workspace(MODELS["deep"], B))
    with pytest.raises(nv.InputError, match="ws must be a Workspace"):
        nv.explain(MODELS["deep"])


class Page(HTMLParser):
    """Fails on a tag that is closed and was not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.text, self.tags = [], 0, [], set()
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("br", "meta"):
            self.open.append(tag)
        self.rows += tag == "tr"
        self.tags.add(tag)
        assert not {"src", "href"} & dict(attrs).keys(), "it needs nothing else"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@EVERY
def test_the_table_as_text_and_as_html(model):
    explained = passed(model)[1]
    page = Page(explained._repr_html_())
    assert page.rows == 3 + sum(len(rows) + 1 for _, rows, _ in explained.told())
    for text in (str(explained), "".join(page.text)):
        for step in explained.steps:
            assert step.op in text and f"{step.source}, called at {step.caller}" in text
            assert all(line in text for line in step.formula.split("\n"))
            assert text.count(step.formula.split("\n")[0]) == 1  # however many layers there are
        assert "forward" in text and f"{sum(explained.theta.values())} parameters" in text
        for one in (one for step in explained.steps for one in (*step.writes, *step.reads)):
            assert one.name in text
    assert max(map(len, str(explained).splitlines()[2:])) <= 120


@EVERY
def test_every_array_has_its_row_and_every_parameter_its_count(model):
    """Once where it is written, or, if no op writes it, where it is first read."""
    explained = passed(model)[1]
    rows = [row for _, rows, _ in explained.told() for row in rows]
    names = [row[1].strip() for row in rows]
    arrays = {one.name for step in explained.steps for one in (*step.reads, *step.writes)}
    assert sorted(names) == sorted(arrays)
    assert {"x", "target"} <= {row[1].strip() for row in rows if row[1].startswith("  ")}
    theta = dict(explained.theta)
    if getattr(model, "p_x", None) == nv.GaussianOptimal():
        del theta["likelihood.logvar"]
    assert {row[1].strip(): row[4] for row in rows if row[4]} == {name: f"{size}" for name, size in theta.items()}
    assert [row[0] for row in rows if row[0]] == [step.op for step in explained.steps]
    assert [row[3] for row in rows if row[3]] == [f"{step.flops:,}" for step in explained.steps]


def test_the_numbers_that_an_op_takes_are_told():
    ws = nv.Workspace(MODELS["bernoulli elbo"], B, dtype="float64", backend="reference")
    ws.forward(np.full((B, D), 0.5), beta=np.float32(0.25))
    explained = nv.explain(ws)
    acts = [step.given["act"] for step in explained.steps if step.op.startswith("dense")]
    assert acts == ["tanh", "identity"] * 2 + ["identity", "tanh"] * 2
    assert [step.given for step in explained.steps if step.op == "elbo_forward"] == [{"beta": 0.25, "free_bits": 0.1}]
    assert "beta 0.25, free_bits 0.1" in str(explained) and "act tanh" in str(explained)
    assert json.loads(json.dumps(explained.to_dict()))["steps"][7]["given"] == {"beta": 0.25, "free_bits": 0.1}


def test_the_title_says_what_was_passed():
    model = nv.VAE(D, (), Z)
    for count, samples, said in ((1, 1, ": 1 image, 1 sample each, "), (2, 3, ": 2 images, 3 samples each, ")):
        ws = nv.Workspace(model, count, samples, backend="reference")
        ws.forward(np.ones((count, D)))
        assert nv.explain(ws).title == f"{model!r}{said}reference, float32"
    assert ": 4 images, reference, float64" in passed(MODELS["deep"])[1].title  # which draws no samples


def test_html_is_escaped():
    explained = passed(MODELS["gaussian iwae"])[1]
    said = explained.steps[0]._replace(formula="a<script>b</script> & c", op="<b>op</b>")
    page = Page(dataclasses.replace(explained, title="<i>title</i>", steps=(said,))._repr_html_())
    assert {"a<script>b</script> & c", "<b>op</b>", "<i>title</i>"} <= {text.split("\n")[0] for text in page.text}
    assert not {"script", "b", "i"} & page.tags


def arrows(explained, stub=False):
    """Between which boxes the arrows stand, by op."""
    names = [one.name for one in boxed(explained)]
    found = {}
    for arrow in arrows_of(explained):
        if arrow.stub == stub:
            found.setdefault(arrow.step.op, set()).add((names[arrow.start], names[arrow.end]))
    return found


def test_arrows_of_the_picture():
    explained = passed(nv.VAE(D, (H,), Z, "tanh", "gaussian-optimal", nv.IWAE()))[1]
    layers = {("encoder.0", "encoder.1"), ("z", "decoder.0"), ("decoder.0", "decoder.1")}
    optimal = {("decoder.1", "likelihood.logvar"), ("target", "likelihood.logvar"), ("likelihood.logvar", "log_px")}
    assert arrows(explained) == {
        "dense_forward": {("x", "encoder.0"), *layers},
        "reparameterize_forward": {("encoder.1", "z")},
        "gaussian_optimal_forward": optimal,
        "log_ratio_forward": {("encoder.1", "rate"), ("z", "rate")},
        "iwae_forward": {("log_px", "log_w"), ("rate", "log_w"), ("log_w", "loss")},
        "iwae_backward": {("loss", "log_px"), ("loss", "rate"), ("loss", "log_w")},
        "log_ratio_backward": {("rate", "encoder.1"), ("rate", "z")},
        "gaussian_optimal_backward": {("log_px", "decoder.1")},
        "reparameterize_backward": {("z", "encoder.1")},
        "dense_backward": {(end, start) for start, end in layers},
    }
    assert arrows(explained, stub=True) == {"dense_backward": {("encoder.0", "x")}}
    tied = passed(MODELS["linear"])[1]
    assert arrows(tied) == {
        "tied_forward": {("x", "z"), ("z", "y")},
        "squared_error_forward": {("y", "error"), ("target", "error")},
        "squared_error_backward": {("error", "y")},
        "tied_backward": {("y", "z")},
    }


@EVERY
def test_only_the_first_layer_sends_nothing_on(model):
    explained = passed(model)[1]
    rows = [one.name for one in boxed(explained)]
    stubs = [arrow for arrow in arrows_of(explained) if arrow.stub]
    assert [(arrow.step, rows[arrow.end]) for arrow in stubs] == (
        [] if isinstance(model, nv.LinearAutoencoder) else [(explained.steps[-1], "x")]
    )


def test_images_have_boxes():
    """Two where what is asked for is not what is seen."""
    names = [one.name for one in boxed(passed(MODELS["deep"])[1])]
    assert names == ["target", "x", *(f"{half}.{i}" for half in ("encoder", "decoder") for i in range(3)), "error"]
    ws = nv.Workspace(MODELS["deep"], B)
    ws.forward(np.ones((B, D)))
    explained = nv.explain(ws)
    assert [one.name for one in boxed(explained)] == names[1:]
    assert arrows(explained)["squared_error_forward"] == {("decoder.2", "error"), ("x", "error")}


def test_lanes_do_not_meet():
    explained = passed(nv.VAE(D, (H, 4, 3), Z, "tanh", "gaussian", nv.IWAE()))[1]
    lanes = lanes_of(arrows_of(explained))
    assert len(lanes) >= 6
    for (one, lane), (other, another) in combinations(lanes.items(), 2):
        if lane == another and one.step.direction == other.step.direction:
            low, high = (f(g(arrow.start, arrow.end) for arrow in (one, other)) for f, g in ((max, min), (min, max)))
            assert low > high


@pytest.mark.parametrize("name", ["gaussian-pixel iwae", "bernoulli elbo", "deep", "linear"])
def test_the_picture(name):
    explained = passed(MODELS[name])[1]
    figure = explained.figure()
    figure.draw_without_rendering()
    passing, layouts = figure.axes
    words = [text.get_text() for text in passing.texts]
    for one in (one for step in explained.down for one in step.writes):
        (said,) = (word for word in words if word.startswith(f"{one.name}   "))
        assert f"norm {one.norm:.3g}" in said
        assert (one.gradient is None) or f"norm of gradient {one.gradient:.3g}" in said
    counts = sorted(word.split(", ")[-1] for word in words if "FLOPs" in word)
    assert counts == sorted(f"{short(step.flops)} FLOPs" for step in explained.steps)  # once each, whatever its arrows
    widths = {
        patch.get_arrowstyle().tail_width for patch in passing.patches
        if isinstance(patch, FancyArrowPatch) and hasattr(patch.get_arrowstyle(), "tail_width")
    }  # fmt: skip
    most = max(step.flops for step in explained.steps)
    assert widths <= {0.8 + 9 * np.sqrt(step.flops / most) for step in explained.steps} and max(widths) == 9.8
    for counts, bars in ((explained.theta, layouts.containers[: len(explained.theta)]),
                         (explained.acts, layouts.containers[len(explained.theta) :])):  # fmt: skip
        shares = [bar[0].get_width() for bar in bars]
        assert shares == pytest.approx([count / sum(counts.values()) for count in counts.values()], rel=1e-12)


def test_what_is_not_finite_is_shown():
    ws = nv.Workspace(MODELS["bernoulli elbo"], B, dtype="float64", backend="reference")
    x = np.zeros((B, D))
    x[0, 0] = np.nan
    ws.forward(x)
    explained = nv.explain(ws)
    assert "nan" in str(explained) and "→" not in str(explained).replace(LEGEND, "")
    explained.figure().draw_without_rendering()
    said = json.loads(json.dumps(explained.to_dict(), allow_nan=False))
    assert said["loss"] is None and said["steps"][0]["writes"][0]["norm"] is None


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
    assert cli.main(["explain", str(tmp_path / "run"), "--rescale"]) == 2
    assert "--rescale is of a new model" in capsys.readouterr().err


def test_files_on_the_command_line(capsys, tmp_path):
    picture, page = tmp_path / "new" / "pass.png", tmp_path / "other" / "pass.html"
    assert cli.main([*SMALL, "--out", str(picture)]) == 0
    assert min(matplotlib.image.imread(picture).shape[:2]) > 500
    assert cli.main([*SMALL, "--out", str(page)]) == 0
    assert Page(page.read_text("utf-8")).tags >= {"html", "head", "body", "table"}
    assert capsys.readouterr().out.split() == [str(picture), str(page)]
    assert cli.main([*SMALL, "--out", "pass.gif"]) == 2
    assert "must end in .png or .html" in capsys.readouterr().err
    assert cli.main([*SMALL, "--json", "--out", str(picture)]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert cli.main(["explain", "--batch", "100000"]) == 2
    assert "100000 were asked for" in capsys.readouterr().err
    assert cli.main([*SMALL, "--samples", "0"]) == 2
    assert "samples must be a whole number of at least 1, got 0" in capsys.readouterr().err
    assert cli.main(["explain", "--model", "linear", "--bound", "iwae"]) == 2
    assert "bound means nothing to the model 'linear'" in capsys.readouterr().err


def test_other_images_on_the_command_line(capsys, tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 9)).astype(np.float32))
    assert cli.main([*SMALL, "--data", str(tmp_path / "x.npy"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"][0]["reads"][0]["shape"] == [3, 9]
    assert cli.main([*SMALL[:-2], "--data", str(tmp_path / "x.npy"), "--json"]) == 0  # all four, where 64 are usual
    assert json.loads(capsys.readouterr().out)["steps"][0]["reads"][0]["shape"] == [4, 9]
    np.save(tmp_path / "y.npy", 2 * np.random.default_rng(0).random((40, 9)))
    assert cli.main([*SMALL, "--data", str(tmp_path / "y.npy")]) == 2
    assert "needs pixels in [0, 1]" in capsys.readouterr().err
    assert cli.main([*SMALL, "--data", str(tmp_path / "y.npy"), "--rescale"]) == 0


def test_a_run_is_explained_at_its_own_weight_of_the_rate(capsys, tmp_path):
    data = nv.datasets.load("mnist-small", rows=30)
    nv.train(nv.VAE(784, (5,), 2), data, epochs=1, batch=10, beta=0.5, samples=2, out=tmp_path / "run")
    assert cli.main(["explain", str(tmp_path / "run"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "64 images, 2 samples each" in said["title"]
    assert [step["given"]["beta"] for step in said["steps"] if step["op"].startswith("elbo")] == [0.5, 0.5]
    up = {one["name"]: one["norm"] for step in said["steps"] for one in step["writes"]}
    assert up["d rate"] == pytest.approx(0.5 / 64 * np.sqrt(64 * 2), rel=1e-12)  # beta / B, in B Z entries


def test_a_denoising_run_is_explained_as_it_was_trained(capsys, tmp_path):
    """It sees corrupted images, and is asked for clean ones."""
    data = nv.datasets.load("mnist-small", rows=30)
    model = nv.Autoencoder(784, (5,), 2)
    run = nv.train(model, data, epochs=1, batch=10, corruption="masking", out=tmp_path / "run")
    assert cli.main(["explain", str(tmp_path / "run"), "--batch", "4", "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    reads = {one["name"]: one["norm"] for step in steps for one in step["reads"]}
    clean = data.test.images[:4]
    assert reads["target"] == pytest.approx(np.linalg.norm(clean), rel=1e-6)
    assert reads["x"] == pytest.approx(np.linalg.norm(run.corrupt(clean)), rel=1e-6) != reads["target"]


def test_a_loss_that_overflows_on_the_command_line(capsys):
    with np.errstate(all="ignore"):
        options = ["--likelihood", "gaussian", "--sigma", "1e-200", "--backend", "reference", "--json"]
        assert cli.main([*SMALL, *options]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] is None
