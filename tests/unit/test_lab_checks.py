"""Verdicts and bounds of the lab's checks: nothing unknown passes, nothing missing passes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.lab.checks import (
    BROKEN,
    OK,
    Check,
    alike,
    at_least,
    at_most,
    bounded,
    close,
    count,
    each,
    fold,
    median,
    same,
)

TIMES = st.integers(0, 10**12)
MANY = st.lists(TIMES, min_size=1, max_size=9)
SLACKS = st.floats(1, 100)
WIDE = {"relative": 10.0, "absolute_ns": 1e13}
"""A bound that every known value keeps."""


@pytest.mark.parametrize("side", ["both", "at least", "at most"])
@pytest.mark.parametrize(
    ("truth", "measured"), [(None, 5), (5, None), (None, None), (math.nan, 5), (5, math.nan)]
)
def test_what_is_unknown_never_passes(truth: float | None, measured: float | None, side: str) -> None:
    check = Check("x", truth, measured, "ns", relative=100.0, absolute=1e9, side=side)  # type: ignore[arg-type]
    assert check.verdict() == check.verdict(1e9) == BROKEN


def test_an_unknown_word_never_passes() -> None:
    assert same("x", None, None).verdict() == same("x", "fin", None).verdict() == BROKEN
    assert same("x", None, "fin").verdict() == BROKEN


@given(TIMES, st.integers(0, 10**9), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_bound_itself_is_kept_and_one_more_is_not(truth: int, absolute: int, relative: float) -> None:
    truth -= truth % 2  # halves are whole, so that no rounding is in the way
    allowed = int(relative * truth) + absolute
    for error, verdict in ((allowed, OK), (-allowed, OK), (allowed + 1, BROKEN), (-allowed - 1, BROKEN)):
        check = close("x", truth, truth + error, relative=relative, absolute_ns=absolute)
        assert (check.error, check.verdict()) == (error, verdict)


@given(TIMES, st.integers(0, 10**9))
def test_one_sided_bounds_allow_any_error_on_the_other_side(bound: int, more: int) -> None:
    assert at_least("x", bound, bound + more).verdict() == at_most("x", bound, bound - more).verdict() == OK
    assert at_least("x", bound, bound - more - 1).verdict() == BROKEN
    assert at_most("x", bound, bound + more + 1).verdict() == BROKEN


@given(TIMES, st.integers(0, 10**9), st.floats(0, 1), SLACKS)
def test_slack_multiplies_the_absolute_part_only(
    truth: int, absolute: int, relative: float, slack: float
) -> None:
    check = close("x", truth, truth, relative=relative, absolute_ns=absolute)
    assert check.allowed(slack) == relative * truth + absolute * slack
    assert close("x", truth, truth, relative=relative).allowed(slack) == relative * truth


@given(st.integers(0, 1000), st.integers(0, 1000), SLACKS)
def test_slack_makes_no_other_count_right(truth: int, measured: int, slack: float) -> None:
    assert (same("x", truth, measured).verdict(slack) == OK) == (truth == measured)
    assert (at_least("x", truth, measured, "count").verdict(slack) == OK) == (measured >= truth)
    assert (at_most("x", truth, measured, "count").verdict(slack) == OK) == (measured <= truth)


@given(TIMES, TIMES, st.floats(1, 10), st.floats(1, 10))
def test_more_slack_breaks_nothing_that_was_kept(
    truth: int, measured: int, slack: float, more: float
) -> None:
    check = close("x", truth, measured, relative=0.1, absolute_ns=10**9)
    assert check.verdict(slack) == BROKEN or check.verdict(slack * more) == OK


@given(st.lists(st.tuples(TIMES, st.integers(-(10**9), 10**9)), min_size=1, max_size=9))
def test_the_median_error_of_several_speaks_for_all(pairs: list[tuple[int, int]]) -> None:
    check = each("x", [truth for truth, _ in pairs], [truth + error for truth, error in pairs])
    middle = sorted(error for _, error in pairs)[(len(pairs) - 1) // 2]
    assert (check.error, check.of) == (middle, len(pairs))
    assert check.verdict() == (BROKEN if middle else OK)


@given(MANY, st.data())
def test_a_minority_of_disturbed_values_does_not_break_several_and_a_majority_does(
    truths: list[int], data: st.DataObject
) -> None:
    few = (len(truths) - 1) // 2
    measured = list(truths)
    for which in data.draw(st.permutations(range(len(truths))))[:few]:
        measured[which] += 10**9
    assert each("x", truths, measured, absolute_ns=5).verdict() == OK
    most = [value + 10**9 if n <= len(truths) // 2 else value for n, value in enumerate(truths)]
    assert each("x", truths, most, absolute_ns=5).verdict() == BROKEN


@given(MANY, st.data())
def test_one_unknown_value_breaks_several(truths: list[int], data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(truths) - 1))
    holed = [None if n == which else value for n, value in enumerate(truths)]
    for check in (each("x", truths, holed, **WIDE), each("x", holed, truths, **WIDE)):
        assert check.verdict() == check.verdict(1e9) == BROKEN
        assert (check.truth, check.measured) == (len(truths), len(truths) - 1)
    assert alike("x", truths, holed).verdict() == alike("x", holed, truths).verdict() == BROKEN


@given(MANY, TIMES)
def test_one_value_more_or_fewer_breaks_several(truths: list[int], other: int) -> None:
    for check in (each("x", truths, [*truths, other], **WIDE), each("x", [*truths, other], truths, **WIDE)):
        assert check.verdict() == check.verdict(1e9) == BROKEN
    assert alike("x", truths, [*truths, other]).verdict() == BROKEN
    assert alike("x", [*truths, other], truths).verdict() == BROKEN


def test_no_value_at_all_breaks_several() -> None:
    for check in (each("x", [], [], **WIDE), alike("x", [], []), each("x", [], [5], **WIDE)):
        assert check.verdict() == BROKEN


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=9))
def test_words_are_alike_one_by_one(pairs: list[tuple[str, str]]) -> None:
    check = alike("x", [true for true, _ in pairs], [found for _, found in pairs])
    right = sum(true == found for true, found in pairs)
    assert (check.truth, check.measured) == (len(pairs), right)
    assert (check.verdict() == OK) == (right == len(pairs))


@given(st.lists(st.none() | TIMES, max_size=5))
def test_a_sum_or_a_median_with_an_unknown_part_is_unknown(values: list[int | None]) -> None:
    known = [value for value in values if value is not None]
    whole = bool(values) and len(known) == len(values)
    assert fold(sum, values) == (sum(known) if whole else None)
    assert (median(values) is None) != whole


def test_a_word_is_no_number_and_a_number_no_word() -> None:
    assert same("x", 3, "3").verdict() == same("x", "3", 3).verdict() == BROKEN
    assert close("x", 3, "3", relative=9.0).verdict() == BROKEN
    assert same("x", True, 1).error is None, "yes and no are no numbers"


@pytest.mark.parametrize(
    ("check", "slack", "bound"),
    [
        (close("x", 1, 1, relative=0.05, absolute_ns=100_000), 1, "5 % + 100 µs"),
        (close("x", 1, 1, relative=0.05, absolute_ns=100_000), 20, "5 % + 2.00 ms"),
        (close("x", 1, 1, relative=0.001), 20, "0.1 %"),
        (close("x", 1, 1), 20, "exactly"),
        (same("x", 1, 1), 20, "exactly"),
        (at_least("x", 1, 1), 20, "at least"),
        (at_most("x", 1, 1), 20, "at most"),
        (count("x", 10, 10, relative=0.1, absolute=2), 1, "10 % + 2"),
    ],
)
def test_a_bound_is_said_in_words(check: Check, slack: float, bound: str) -> None:
    assert check.bound(slack) == bound


@given(TIMES, TIMES, SLACKS)
def test_what_json_says_is_what_the_verdict_is_from(truth: int, measured: int, slack: float) -> None:
    check = close("x", truth, measured, relative=0.02, absolute_ns=10**6)
    row = check.as_json(slack)
    assert (abs(row["error"]) <= row["allowed"]) == (row["verdict"] == OK)
    assert row["error"] == row["measured"] - row["truth"]


def test_a_truth_within_bounds_is_what_was_measured_as_far_as_it_keeps_them() -> None:
    assert bounded([10, 10, 10], [20, 20, 20], [15, 5, 30]) == [15, 10, 20]
    assert bounded([10, 10], [20, 20], [15]) == [15, 10]
    assert bounded([10, None], [None, 20], [15, 15]) == [10, None]
    broken = each("a time", bounded([10], [20], [31]), [31], absolute_ns=10)
    assert (broken.truth, broken.verdict()) == (20, BROKEN)
