"""What JSON cannot say becomes null, however deep it lies, in everything that is written as JSON."""

import json
import math
from typing import NamedTuple

import numpy as np

from npvae import commands
from npvae.lessons import Findings, Number, Outcome
from npvae.records import plain


class Pair(NamedTuple):
    first: float
    second: object


def test_plain_at_every_depth():
    deep = {"a": [1, (math.nan, {"b": -math.inf})], "c": Pair(math.inf, Pair(2.5, None)), "d": np.float64("nan")}
    pair = {"first": None, "second": {"first": 2.5, "second": None}}
    expected = {"a": [1, [None, {"b": None}]], "c": pair, "d": None}
    assert plain(deep) == expected
    assert math.isnan(deep["a"][1][0]), "what was given is left alone"


def test_what_json_can_say_is_left_as_it_is():
    kept = {"text": "nan", "whole": 10**30, "truth": True, "none": None, "small": 5e-324, "zero": -0.0, "empty": {}}
    assert json.dumps(plain(kept)) == json.dumps(kept)


def test_the_command_line_writes_nested_numbers(capsys):
    commands.write_json({"loss": math.nan, "steps": [{"norm": math.inf, "shape": (3, 4)}]})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "steps": [{"norm": None, "shape": [3, 4]}]}


def test_a_lesson_writes_nan_bounds_and_seconds():
    numbers = (Number("a", math.nan, at_most=math.inf), Number("b", -math.inf, at_least=math.nan))
    record = Outcome("x", "X", "Claim.", True, math.nan, Findings(numbers, None, "nothing")).to_dict()
    said = json.loads(json.dumps(record, allow_nan=False))
    assert said["seconds"] is None and [one["value"] for one in said["numbers"]] == [None, None]
    assert [one["tolerance"] for one in said["numbers"]] == [{"at_least": None, "at_most": None}] * 2
