"""Ids in ranges, moments and states, as they are typed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.cli.param_types import MAX_IDS, IdRanges, Moment, OneOf, expanded, joined
from balsam.domain.states import JobState

CONTEXT = click.Context(click.Command("x"))
PARAM = click.Option(["--x"])


def ids(*texts: str) -> tuple[int, ...]:
    return expanded(joined(CONTEXT, PARAM, tuple(IdRanges().convert(text, None, None) for text in texts)))


def test_ranges_in_the_order_in_which_they_were_given() -> None:
    assert ids("5-7,33", "6", " 1 , 2-2 ") == (5, 6, 7, 33, 1, 2)
    assert ids() == ()


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=50))
def test_single_ids_come_back_as_they_are(numbers: list[int]) -> None:
    assert ids(",".join(map(str, numbers))) == tuple(dict.fromkeys(numbers))


@given(st.integers(1, 10**12), st.integers(0, 99))
def test_a_range_has_both_ends(first: int, more: int) -> None:
    assert ids(f"{first}-{first + more}") == tuple(range(first, first + more + 1))


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1--2", "3-1", "0", "0-5", "1,,2", "1.5", "9" * 30, "1;2"])
def test_what_is_no_range_is_refused_with_an_example_or_a_reason(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"5-20,33|from the smaller"):
        ids(text)


def test_more_ids_than_a_request_takes_are_refused_at_once() -> None:
    assert len(ids(f"1-{MAX_IDS}")) == MAX_IDS
    for texts in ([f"1-{MAX_IDS + 1}"], ["1-999999999999"], [f"1-{MAX_IDS}", str(MAX_IDS + 1)]):
        with pytest.raises(click.BadParameter, match="--tag"):
            ids(*texts)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30min", 1800), ("30 m", 1800), ("2h", 7200), ("1.5d", 129_600), ("1w", 604_800)],
)
def test_a_time_ago(text: str, seconds: float) -> None:
    meant = Moment().convert(text, None, None)
    assert abs(datetime.now(UTC) - timedelta(seconds=seconds) - meant) < timedelta(seconds=10)


def test_iso_times_with_and_without_a_zone() -> None:
    assert Moment().convert("2026-11-26T05:00:00Z", None, None) == datetime(2026, 11, 26, 5, tzinfo=UTC)
    local = datetime(2026, 11, 26, 5, 0).astimezone()
    assert Moment().convert("2026-11-26T05:00", None, None) == local
    assert Moment().convert("2026-11-26", None, None).tzinfo is UTC


@pytest.mark.parametrize("text", ["", "yesterday", "2 fortnights", "-2h", "2026-13-01", "h", "1e99d", "9" * 40 + "w"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="30min"):
        Moment().convert(text, None, None)


def test_states_in_any_case() -> None:
    kind = OneOf(JobState)
    assert kind.convert("job_finished", None, None) is JobState.JOB_FINISHED
    assert kind.convert(" FAILED ", None, None) is JobState.FAILED
    with pytest.raises(click.BadParameter, match="none of: CREATED, AWAITING_PARENTS"):
        kind.convert("DONE", None, None)
