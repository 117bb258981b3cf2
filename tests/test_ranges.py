import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dreamstill.errors import InputError
from dreamstill.ranges import (
    Batch,
    Below1,
    Count,
    Positive,
    Range,
    Share,
    Small,
    Weight,
    as_words,
    check_ranges,
    in_words,
    marked,
)


@dataclass
class Settings:
    alpha: Weight | Literal["auto"] = 1.0
    tau: Positive = 4.0
    share: Share = 0.5
    replay: Below1 = 0.0
    mu: float = 0.0
    clip: Positive | None = None
    batch_size: Annotated[Count, Batch(), Small(16)] = 256
    flip: bool = False


@pytest.mark.parametrize(
    ("name", "value", "range"),
    [
        ("alpha", -1.0, "at least 0"),
        ("tau", 0.0, "above 0"),
        ("share", 1.5, "at least 0 and at most 1"),
        ("replay", 1.0, "at least 0 and below 1"),
        ("clip", 0.0, "above 0"),
        ("batch_size", 0, "at least 1"),
        ("mu", math.nan, "a number"),
        ("alpha", math.nan, "at least 0"),
    ],
)
def test_a_number_out_of_its_range_is_named_with_the_range(name, value, range):
    with pytest.raises(InputError, match=f"{name} is {value}: it must be {range}"):
        check_ranges(Settings(**{name: value}))


def test_defaults_words_truths_and_nothing_pass():
    check_ranges(Settings())
    check_ranges(Settings(alpha="auto", mu=-3.0, clip=None, flip=True, share=1.0))


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.floats())
def test_an_open_end_does_not_belong_to_a_range_and_a_closed_one_does(low, high, value):
    closed, opened = Range(low, high), Range(low, high, True, True)
    assert (value in closed) == (math.isfinite(value) and low <= value <= high)
    assert (value in opened) == (math.isfinite(value) and low < value < high)


def test_a_range_is_said_in_words():
    found = in_words(Settings)
    assert found["alpha"] == "at least 0 or auto"
    assert found["clip"] == "above 0 or null"
    assert found["replay"] == "at least 0 and below 1"
    assert (found["mu"], found["flip"]) == ("a number", "true, false")


def test_marks_are_found_by_field():
    assert marked(Settings, Batch) == {"batch_size": Batch()}
    assert marked(Settings, Small) == {"batch_size": Small(16)}


class Base:
    other: "NoSuchName"  # noqa: F821  a class beneath may annotate what only a type checker imports


@dataclass
class Derived(Base):
    tau: Positive = 4.0


def test_only_the_types_of_fields_are_looked_at():
    check_ranges(Derived())
    with pytest.raises(InputError, match="tau is -1"):
        check_ranges(Derived(tau=-1))


@dataclass
class Worded:
    switch: Literal["auto", "on", "off"] = "auto"
    answer: Literal["yes", "no"] | None = None
    flag: bool | Literal["on"] = False
    kind: Literal["a", "b"] = "a"


def test_what_yaml_reads_as_a_truth_value_is_the_word_that_the_choices_have():
    read = yaml.safe_load("{switch: on, answer: no, flag: on, kind: yes, other: off}")
    restored = as_words(Worded, read)
    assert restored == {"switch": "on", "answer": "no", "flag": True, "kind": True, "other": False}
    assert as_words(Worded, {"switch": False, "answer": True}) == {"switch": "off", "answer": "yes"}
    assert as_words(Worded, {"switch": "auto", "answer": None}) == {"switch": "auto", "answer": None}
