"""The zoo: every bug is one, every bug is killed, the right code is left alone, and most bugs are called by name."""

import json
import traceback

import pytest

import npvae as nv
from npvae.zoo import plain, report
from npvae.zoo.bug import Bug, as_module, plain_source
from npvae.zoo.report import BUGS, CHECKS, EXERCISES, KILLERS
from npvae.zoo.wrong_gradients import WRONG_GRADIENTS
from npvae.zoo.wrong_losses import WRONG_LOSSES


@pytest.fixture(scope="module")
def survey():
    return report.survey()


@pytest.mark.parametrize("name", BUGS)
def test_killed(name):
    """By the killer that is declared, whatever others find it too."""
    case = report.case(name)
    assert case.killed, "\n".join(str(said) for said in case.testimonies)


@pytest.mark.parametrize("killer", KILLERS)
def test_the_right_code_is_left_alone(killer):
    said = report.ask(killer, as_module(plain_source(), "plain"))
    assert said.ok and said.kind == "", said.text


@pytest.mark.parametrize("bug", WRONG_LOSSES, ids=lambda bug: bug.name)
def test_no_derivative_sees_a_wrong_loss(bug):
    """Which is why there are witnesses: forward and backward agree."""
    said = report.ask("gradient", as_module(bug.source(), bug.name))
    assert said.ok, said.text


def test_two_thirds_are_called_by_name(survey):
    """Of the others it is said where they are, and a few things that they may be."""
    said = [case.named for case in survey.cases]
    assert said.count("yes") >= 2 / 3 * len(said), survey
    assert "no" not in said, survey


def test_the_zoo_is_a_zoo():
    assert len(BUGS) == len(WRONG_GRADIENTS) + len(WRONG_LOSSES) >= 30, "two bugs have one name"
    assert {bug.killer for bug in BUGS.values()} | {"evidence"} == set(KILLERS)  # which kills eight that others do too
    assert len({bug.source() for bug in BUGS.values()}) == len(BUGS)
    for bug in BUGS.values():
        assert bug.source() != plain_source()
        assert bug.story.endswith(".") and not bug.symptom.endswith(".") and bug.symptom[0].islower()
        assert bug.name not in bug.source()


def test_a_patch_has_to_fit_once():
    for right in ("np.tanh", "not there"):
        with pytest.raises(AssertionError, match="times, not once"):
            Bug("b", "", "", ((right, "x"),), "rate", "").source()


def test_a_module_is_fresh_and_shows_its_lines():
    first, second = (as_module("x = []\n\n\ndef f():\n    raise ValueError(x)\n", "wrong") for _ in range(2))
    assert first.x is not second.x
    with pytest.raises(ValueError) as raised:
        first.f()
    assert 'File "wrong.py", line 5, in f\n    raise ValueError(x)' in "".join(traceback.format_exception(raised.value))


def test_code_that_raises_is_found_out():
    said = report.ask("rate", as_module("VAE = None", "broken"))
    assert (said.ok, said.kind) == (False, "raises")
    assert said.text.startswith("raises TypeError")


# ── The report ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_table(survey):
    lines = str(survey).splitlines()
    assert survey.ok
    assert len(lines) == len(BUGS) + 3
    assert [line.split()[0] for line in lines[1:-2]] == list(BUGS)
    assert lines[-2] == "correct code: nothing found, as it should be"
    assert lines[-1].startswith(f"{len(BUGS)} of {len(BUGS)} bugs killed, {len(WRONG_GRADIENTS)} by the gradient check")


def test_the_table_says_what_survives_and_who_is_accused(survey):
    case = survey.cases[0]
    nothing = tuple(said._replace(ok=True) for said in case.testimonies)
    wrong = report.Survey((report.ask("rate", as_module("", "empty")),), (case._replace(testimonies=nothing),))
    assert not wrong.ok
    assert "SURVIVES" in str(wrong)
    assert "correct code accused by rate: raises AttributeError" in str(wrong)
    assert "0 of 1 bugs killed" in wrong.totals()
    assert wrong.cases[0].named == "no" and wrong.cases[0].diagnosis == ""


def test_the_json(survey):
    values = json.loads(json.dumps(survey.to_dict()))
    assert values["ok"] is True
    assert values["bugs"] == values["killed"] == len(BUGS) == len(values["cases"])
    for how, key in (("yes", "named"), ("narrowed", "narrowed")):
        assert values[key] == [case["named"] for case in values["cases"]].count(how) > 0
    assert all(case["found"] for case in values["cases"])
    assert [said["killer"] for said in values["correct"]] == list(KILLERS)


# ── The exercise ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", range(1, len(BUGS) + 1))
def test_an_exercise_is_a_file_with_the_bug_and_does_not_tell(number):
    text = report.exercise(number)
    bug = BUGS[EXERCISES[number - 1]]
    header, _, source = text.partition("\n\n")
    assert source == bug.source()
    assert all(line.startswith("#") for line in header.splitlines())
    assert bug.name not in text and bug.story not in text
    assert all(hasattr(as_module(text, "exercise"), name) for name in CHECKS)


def test_exercises_are_all_bugs_in_another_order():
    assert sorted(EXERCISES) == sorted(BUGS)
    neighbours = list(BUGS)
    apart = [abs(neighbours.index(a) - neighbours.index(b)) for a, b in zip(EXERCISES, EXERCISES[1:], strict=False)]
    assert sum(distance == 1 for distance in apart) < len(apart) / 5


@pytest.mark.parametrize("name", ["kl-sign", "kl-sign-in-backward"])
def test_a_solution_shows_lines_story_and_report(name):
    bug = BUGS[name]
    text = report.solution(EXERCISES.index(name) + 1)
    assert bug.name in text and bug.story in text
    for right, wrong in bug.patches:
        assert right in text and wrong in text
    assert "-            d" in text and "+            d" in text
    assert ("WRONG" in text) == (bug.killer == "gradient")
    assert f"{bug.killer}: {report.case(name).found[0].text}" in text


@pytest.mark.parametrize("number", [0, -1, len(BUGS) + 1, 1.5])
def test_there_are_no_other_exercises(number):
    with pytest.raises(nv.InputError):
        report.exercise(number)


def test_plain_says_nothing_about_bugs():
    """It is what the exercise shows."""
    text = plain_source().lower()
    assert not any(word in text for word in ("bug", "correct", "wrong", "mistake", "patch"))
    assert plain.__doc__.startswith("Somebody's")
