"""The zoo: every bug is one, every bug is killed, the right code is left alone, and most bugs are called by name."""

import json
import traceback
from pathlib import Path

import pytest

import npvae as nv
from npvae.arguments import GRADCHECK
from npvae.cli import main
from npvae.zoo import plain, report
from npvae.zoo.bug import PLAIN, Bug, as_module, plain_source
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


KL = "kl = 0.5 * np.sum(self.mu**2 + np.exp(self.logvar) - self.logvar - 1, axis=1)"
OTHER_RIGHT_CODE = {
    "KL by sampling": (
        (KL, "kl = np.mean(0.5 * np.sum(self.z**2 - self.eps**2 - self.logvar[:, None], axis=2), axis=1)"),
        ("if self.iwae:\n            dz +=", "if True:\n            dz +="),
        ("if self.iwae:\n            dlogvar -=", "if True:\n            dlogvar -="),
    ),
    "losses from logits": (
        ('self.y = sigmoid(self.g @ p["W5"] + p["b5"])', 'a = self.g @ p["W5"] + p["b5"]\n        self.y = sigmoid(a)'),
        ("t * np.log(self.y) + (1 - t) * np.log(1 - self.y)", "t * a - np.log(1 + np.exp(a))"),
    ),
    "the head is log sigma": (
        ("self.logvar = np.clip(self.raw, -LIMIT, LIMIT)", "self.logvar = 2 * np.clip(self.raw, -LIMIT, LIMIT)"),
        ("dlogvar *= np.abs", "dlogvar *= 2.0 * (np.abs"),
        ("(self.raw) < LIMIT", "(self.raw) < LIMIT)"),
    ),
    "another generator": (
        ("self.rng.standard_normal((B, K, self.mu.shape[1]))", "self.rng.normal(size=(B, K, self.mu.shape[1]))"),
    ),
    "no shuffling": (("self.rng.permutation(len(images))", "np.arange(len(images))"),),
}


@pytest.mark.parametrize("name", OTHER_RIGHT_CODE)
def test_other_right_code_is_left_alone(name):
    """A killer that knew how the code is written would accuse it."""
    bug = Bug(name, "", "", OTHER_RIGHT_CODE[name], "", "")
    module = as_module(bug.source(), "right")
    accused = [said for killer in KILLERS if not (said := report.ask(killer, module)).ok]
    assert not accused


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


def test_nothing_is_said_twice(survey):
    assert all(line.count("decoder is right") <= 1 for line in str(survey).splitlines()), survey


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


def test_the_numbers_in_the_words_are_right():
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    total = len(BUGS)
    assert f"puts {total} mistakes" in readme and f"{total} bugs for it" in readme
    assert f"{len(WRONG_GRADIENTS)} by their gradients" in readme
    assert f"{total} mistakes in a plain VAE" in GRADCHECK


# ── The exercise ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", range(1, len(BUGS) + 1))
def test_an_exercise_is_a_file_with_the_bug_and_does_not_tell(number):
    text = report.exercise(number)
    bug = BUGS[EXERCISES[number - 1]]
    header, _, source = text.partition("\n\n")
    assert f"{source}\n" == bug.source()
    assert all(line.startswith("#") for line in header.splitlines())
    assert bug.name not in text and bug.story not in text
    assert all(hasattr(as_module(text, "exercise"), name) for name in CHECKS)


def test_exercises_are_all_bugs_in_another_order():
    assert sorted(EXERCISES) == sorted(BUGS)
    neighbours = list(BUGS)
    apart = [abs(neighbours.index(a) - neighbours.index(b)) for a, b in zip(EXERCISES, EXERCISES[1:], strict=False)]
    assert sum(distance == 1 for distance in apart) < len(apart) / 5


@pytest.mark.parametrize("name", ["kl-sign", "kl-sign-in-backward", "weight-not-transposed"])
def test_a_solution_shows_lines_story_and_report(name):
    bug = BUGS[name]
    text = report.solution(EXERCISES.index(name) + 1)
    assert bug.name in text and bug.story in text
    for right, wrong in bug.patches:
        assert right in text and wrong in text
    assert ("WRONG" in text) == (bug.killer == "gradient")
    assert f"{bug.killer}: {report.case(name).found[0].text}" in text


# ── The command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def run(capsys, *arguments):
    code = main(["gradcheck", *arguments])
    return code, *capsys.readouterr()


def test_the_zoo_on_the_command_line(capsys, survey):
    assert run(capsys, "--zoo")[:2] == (0, f"{survey}\n")
    code, out, _ = run(capsys, "--zoo", "--json")
    assert (code, json.loads(out)) == (0, survey.to_dict())


def test_a_bug_that_survives_is_a_failure(capsys, monkeypatch, survey):
    case = survey.cases[0]
    monkeypatch.setattr(report, "case", lambda name: case._replace(testimonies=case.testimonies[1:]))
    code, out, _ = run(capsys, "--zoo")
    assert code == 1 and "SURVIVES" in out


def test_the_exercise_on_the_command_line(capsys, tmp_path):
    number = EXERCISES.index("kl-sign-in-backward") + 1
    code, out, _ = run(capsys, "--exercise", str(number))
    assert (code, out) == (0, f"{report.exercise(number)}\n")
    file = tmp_path / "exercise.py"
    file.write_text(out, "utf-8")
    code, out, _ = run(capsys, f"{file}:elbo")
    assert code == 1 and "the term of the rate is the negative of what it should be" in out
    assert run(capsys, f"{file}:iwae")[0] == 0
    code, out, _ = run(capsys, "--exercise", str(number), "--solution")
    assert (code, out) == (0, f"{report.solution(number)}\n")


@pytest.mark.parametrize("name", [*CHECKS])
def test_the_right_code_passes_on_the_command_line(capsys, name):
    code, out, _ = run(capsys, f"{PLAIN}:{name}")
    assert code == 0, out
    assert "every gradient is right" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zoo", "x.py:Check"], "bring their own code"),
        (["--exercise", "1", "--heatmap", "W1"], "bring their own code"),
        (["--zoo", "--exercise", "1"], "give one of them"),
        (["--zoo", "--solution"], "give one of them"),
        (["--solution"], "of which exercise"),
        (["--exercise", "1", "--json"], "give one of them"),
        (["--exercise", "0"], "at least 1, got 0"),
        (["--exercise", "99"], f"there are {len(BUGS)} exercises, numbered from 1; got 99"),
    ],
)
def test_what_makes_no_sense_is_refused(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize("number", [0, -1, len(BUGS) + 1, 1.5])
def test_there_are_no_other_exercises(number):
    with pytest.raises(nv.InputError):
        report.exercise(number)


def test_plain_says_nothing_about_bugs():
    """It is what the exercise shows."""
    text = plain_source().lower()
    assert not any(word in text for word in ("bug", "correct", "wrong", "mistake", "patch"))
    assert plain.__doc__.startswith("Somebody's")
