"""What a check says: as a table, as JSON, as a picture."""

import json
import math

import matplotlib.image
import numpy as np
import pytest

import npvae as nv
from npvae.reports import Report, _draw

PARAMS = {"W": np.arange(6.0).reshape(2, 3) + 1, "b": np.ones(3), "c": np.array(2.0)}


def report(wrong=True, loss=lambda p: (p["W"] ** 2).sum() + (p["b"] ** 3).sum() + p["c"] ** 2):
    return nv.check_function(
        loss, lambda p: {"W": (1 if wrong else 2) * p["W"] * 1.0, "b": 3 * p["b"] ** 2, "c": 2 * p["c"]}, PARAMS
    )


def test_the_table():
    lines = str(report()).splitlines()
    assert lines[0].split("  ")[0] == "tensor"
    for title in (
        "shape",
        "checked",
        "error: complex",
        "central",
        "Richardson",
        "where",
        "oracle",
        "verdict",
        "in words",
    ):
        assert title in lines[0]
    assert lines[1].split() == [
        "W",
        "2x3",
        "6",
        *["5.0e-01"] * 3,
        "[1,2]",
        "both",
        "WRONG",
        *["1/2", "of", "what", "it", "should", "be"],
    ]
    assert lines[2].split()[:3] == ["b", "3", "3"]
    assert lines[2].endswith("complex step  ok")
    assert lines[3].split()[:2] == ["c", "scalar"]
    assert lines[4:] == ["NOT OK: W: 1/2 of what it should be"]
    assert len({line.index("  W") if "WRONG" in line else 0 for line in lines}) <= 2
    assert str(report(wrong=False)).splitlines()[-1] == "ok: every gradient is right"
    found = report(wrong=False, loss=lambda p: float((p["W"] ** 2).sum() + (p["b"] ** 3).sum() + p["c"] ** 2))
    for check, line in zip(found.tensors, str(found).splitlines()[1:], strict=False):
        errors = ["-", f"{check.central_error:.1e}", f"{check.richardson_error:.1e}"]
        assert line.split()[3:6] == errors and len(set(errors)) == 3


def test_findings_stand_below_the_table():
    found = report(wrong=False, loss=lambda p: float((p["W"] ** 2).sum() + (p["b"] ** 3).sum() + p["c"] ** 2))
    assert str(found).splitlines()[4].startswith("note: the loss takes no complex numbers")
    rng = np.random.default_rng(0)
    found = report(wrong=False, loss=lambda p: rng.random())
    assert str(found).splitlines()[4].startswith("failed: the loss is not deterministic")
    assert str(found.findings[0]) == found.findings[0].text
    assert str(found.diagnosis) == found.diagnosis.text


def test_json_holds_everything():
    found = report()
    said = json.loads(found.to_json())
    assert said == found.to_dict()
    assert (said["ok"], said["max_error"]) == (False, 0.5)
    assert said["diagnosis"] == {"kind": "factor", "text": "W: 1/2 of what it should be", "score": pytest.approx(0)}
    first = said["tensors"][0]
    assert (first["name"], first["shape"], first["worst"], first["verdict"], first["ok"]) == (
        "W", [2, 3], [1, 2], "WRONG", False
    )  # fmt: skip
    assert first["diagnosis"]["kind"] == "factor" and said["tensors"][1]["diagnosis"] is None
    assert set(first) == {*nv.TensorCheck.__dataclass_fields__, "ok", "error"}


def test_json_of_what_is_not_finite():
    rng = np.random.default_rng(0)
    said = json.loads(report(loss=lambda p: rng.random()).to_json())
    assert said["max_error"] is None and said["tensors"][0]["central_error"] is None
    assert said["findings"][0]["kind"] == "loss-random" and said["findings"][0]["fatal"]


def test_a_nan_is_not_ok_and_is_the_largest_error():
    ok = report(wrong=False).tensors[0]
    bad = nv.TensorCheck(**{**vars(ok), "complex_error": math.nan, "verdict": "WRONG"})
    found = Report((ok, bad, ok), (), nv.Diagnosis("x", "x"), {})
    assert not found.ok and math.isnan(found.max_error)
    assert Report((ok,), (nv.Finding("x", "x", fatal=False),), nv.Diagnosis("x", "x"), {}).ok
    assert not Report((ok,), (nv.Finding("x", "x"),), nv.Diagnosis("x", "x"), {}).ok


def test_reports_compare_by_what_they_say():
    assert report() == report()
    assert report() != report(wrong=False)


def test_the_errors_are_relative_to_the_largest_expected_entry():
    found = report()
    assert np.allclose(found.errors["W"], -PARAMS["W"] / 12, atol=1e-12)
    assert np.max(np.abs(found.errors["W"])) == pytest.approx(found.tensors[0].error)


@pytest.mark.parametrize("name", PARAMS)
def test_the_heat_map(tmp_path, name):
    found = report()
    found.heatmap(name, tmp_path / "map.png")
    picture = matplotlib.image.imread(tmp_path / "map.png")
    assert picture.ndim == 3 and np.ptp(picture[..., :3]) > 0.5
    before = (tmp_path / "map.png").read_bytes()
    found.heatmap(name, str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_the_heat_map_shows_each_entry_and_what_was_not_checked():
    errors = np.array([[1.0, 1e-3, 0.0], [np.nan, -1.0, 1e-20]])
    (image,) = _draw("W", errors).axes[0].images
    shown = image.get_array()
    assert shown.tolist() == [[0.0, -3.0, -16.0], [None, 0.0, -16.0]]
    assert _draw("W", np.ones((2, 3, 4))).axes[0].images[0].get_array().shape == (6, 4)


def test_what_the_heat_map_refuses(tmp_path):
    found = report()
    with pytest.raises(nv.InputError, match="unknown tensor 'w': expected one of W, b, c"):
        found.heatmap("w", tmp_path / "map.png")
    with pytest.raises(nv.InputError, match=r"written as \.png"):
        found.heatmap("W", tmp_path / "map.pdf")
    with pytest.raises(FileNotFoundError):
        found.heatmap("W", tmp_path / "nowhere" / "map.png")
