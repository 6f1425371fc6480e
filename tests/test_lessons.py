"""Every lesson, quick: its claim holds, number by number; and what is printed, kept and refused."""

import json
import math
from functools import cache

import matplotlib.image
import numpy as np
import pytest

import npvae as nv
from npvae import cli, lessons
from npvae.errors import InputError
from npvae.lessons import Findings, Number, Outcome

ALL = pytest.mark.parametrize("name", lessons.NAMES)


@cache
def outcome(name):
    """The outcome of a quick run: once, however many tests look at it."""
    return lessons.run(name, quick=True)


def failing(name):
    """The names of the numbers that are out of bounds in a quick run that does not hold, the library being broken."""
    found = lessons.run(name, quick=True)
    assert not found.holds, found
    assert found.numbers, found.findings.alt
    return {number.name for number in found.numbers if number.holds is False}


@ALL
def test_the_claim_holds(name):
    found = outcome(name)
    wrong = [number for number in found.numbers if number.holds is False]
    assert found.holds, f"{wrong}\n{found}"


@ALL
def test_numbers_have_names_and_finite_values(name):
    numbers = outcome(name).numbers
    assert len({number.name for number in numbers}) == len(numbers)
    assert all(number.name and math.isfinite(number.value) for number in numbers)


@ALL
def test_what_is_kept(name, tmp_path):
    picture, record = outcome(name).save(tmp_path / "made")
    pixels = matplotlib.image.imread(picture)
    assert min(pixels.shape[:2]) >= 200 and np.ptp(pixels) > 0.5
    kept = json.loads(record.read_text("utf-8"))
    assert kept == outcome(name).to_dict() and kept["holds"] is True
    assert {"name", "value", "tolerance", "verdict"} <= kept["numbers"][0].keys()
    assert len(outcome(name).findings.alt) > 40


@ALL
def test_a_lesson_is_a_claim_a_derivation_and_its_code(name):
    title, claim, derivation = lessons.describe(name)
    assert 5 < len(title) < 90 and 30 < len(claim) < 600 and "$$" in derivation
    assert "$" not in title + claim and "\n" not in claim
    shown = lessons.module(name).SHOWN
    assert shown and all(function.__module__ == f"npvae.lessons.{name}" for function in shown)


def test_lessons_are_listed_in_the_order_of_the_lecture(capsys):
    assert cli.main(["lesson"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(lessons.NAMES)


def made(*numbers):
    figure = nv.plots.new_figure(3, 3)
    return Outcome("loss", "Title", "Claim.", True, 1.0, Findings(numbers, figure, "nothing"))


@pytest.mark.parametrize(
    "numbers, holds",
    [
        ([Number("a", 1.0, at_most=1.0)], True),
        ([Number("a", 1.0, at_least=1.0, at_most=1.0)], True),
        ([Number("a", 1.1, at_most=1.0)], False),
        ([Number("a", 0.9, at_least=1.0)], False),
        ([Number("a", float("nan"), at_most=1.0)], False),
        ([Number("a", float("nan"), at_least=1.0)], False),
        ([Number("a", 1.0, at_most=1.0), Number("b", 2.0, at_most=1.0)], False),
        ([Number("a", 1.0, at_most=1.0), Number("b", 2.0)], True),
        ([Number("a", 1.0)], False),  # nothing was held to anything
        ([], False),
    ],
)
def test_a_claim_holds_if_every_number_does(numbers, holds):
    assert made(*numbers).holds is holds


def test_the_table():
    text = str(made(Number("error", 0.25, at_most=0.5, unit="nats"), Number("share", 2.0, at_most=1.0), Number("x", 3)))
    assert text.splitlines()[3:] == [
        "       measured   tolerance",
        "error  0.25 nats  at most 0.5  holds",
        "share  2          at most 1    FAILS",
        "x      3                       reported",
        "",
        "The claim DOES NOT HOLD.",
    ]


def test_what_breaks_off_does_not_hold(capsys, tmp_path, monkeypatch):
    """As a decomposition of NaN does, or a training whose loss becomes infinite: no number, and the reason."""

    def stopped(quick):
        raise np.linalg.LinAlgError("SVD did not converge: $ is no formula")

    monkeypatch.setattr(lessons.module("pca"), "lesson", stopped)
    assert cli.main(["lesson", "pca", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "Nothing was measured. LinAlgError: SVD did not converge" in said and "DOES NOT HOLD" in said
    record = json.loads((tmp_path / "pca.json").read_text("utf-8"))
    assert record["holds"] is False and record["numbers"] == [] and "LinAlgError" in record["alt"]
    assert f"(test_lessons.py:{stopped.__code__.co_firstlineno + 1})" in record["alt"]
    assert matplotlib.image.imread(tmp_path / "pca.png").min() < 0.5


@pytest.mark.parametrize(
    "bounds, words",
    [
        ({}, ""),
        ({"at_most": 1e-8}, "at most 1e-08"),
        ({"at_least": 0.0}, "at least 0"),
        ({"at_least": 2.587, "at_most": 3.5541}, "2.587 to 3.554"),
        ({"at_least": 3, "at_most": 3}, "exactly 3"),
    ],
)
def test_a_tolerance_in_words(bounds, words):
    assert Number("a", 1.0, **bounds).tolerance == words


def test_json_has_no_nan():
    record = made(Number("a", float("nan"), at_most=1.0)).to_dict()
    assert record["numbers"][0]["value"] is None and record["numbers"][0]["verdict"] == "FAILS"
    json.dumps(record, allow_nan=False)


@pytest.fixture
def pretend(monkeypatch):
    """Lessons that take no time; `pretend.failing` do not hold."""

    def run(name, quick=False, out=None):
        value = 2.0 if name in run.failing else 0.0
        found = made(Number("error", value, at_most=1.0))
        found = Outcome(name, found.title, found.claim, quick, 0.1, found.findings)
        if out is not None:
            found.save(nv.lessons.Path(out))
        return found

    run.failing = ()
    monkeypatch.setattr(lessons, "run", run)
    return run


def test_a_lesson_on_the_command_line(capsys, tmp_path, pretend):
    assert cli.main(["lesson", "pca", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(f"The claim holds.\n{tmp_path}: pca.png, pca.json\n")
    assert {path.name for path in tmp_path.iterdir()} == {"pca.png", "pca.json"}


def test_a_claim_that_does_not_hold_exits_with_1(capsys, tmp_path, pretend):
    pretend.failing = ("pca",)
    assert cli.main(["lesson", "pca", "--out", str(tmp_path)]) == 1
    assert "The claim DOES NOT HOLD." in capsys.readouterr().out


def test_all_lessons_on_the_command_line(capsys, tmp_path, pretend):
    pretend.failing = ("deep",)
    assert cli.main(["lesson", "all", "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == list(lessons.NAMES)
    assert "DOES NOT HOLD" in lines[lessons.NAMES.index("deep")] and lines[-1] == str(tmp_path / "index.html")


@pytest.mark.parametrize("name", ["pca", "all"])
def test_json_on_the_command_line(capsys, tmp_path, pretend, name):
    assert cli.main(["lesson", name, "--quick", "--json", "--out", str(tmp_path)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["holds"] is True and (
        name == "pca" or [one["lesson"] for one in said["lessons"]] == list(lessons.NAMES)
    )


def test_an_unknown_lesson_is_refused(capsys):
    assert cli.main(["lesson", "pac"]) == 2
    said = capsys.readouterr().err
    assert "unknown lesson 'pac'" in said and "all" in said
    with pytest.raises(InputError, match="Did you mean 'elbo'"):
        lessons.run("elbow")


def test_what_is_no_folder_is_refused_before_a_lesson_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "run", None)
    (tmp_path / "file").write_text("")
    assert cli.main(["lesson", "pca", "--out", str(tmp_path / "file")]) == 2
    assert "--out must be a folder" in capsys.readouterr().err


def test_the_list_as_json(capsys):
    assert cli.main(["lesson", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["lessons"]
    assert [one["lesson"] for one in listed] == list(lessons.NAMES)
    assert all(one["title"] and one["claim"] for one in listed)
