"""What is written as a partition's word is read as the same, and what would not be is refused first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam.domain.partitions import (
    PartitionRequest,
    filter_tag_problems,
    parse_partition,
    parse_tags,
    partition_tag_problems,
    write_partition,
)
from balsam.domain.states import JobMode

TAGS = st.dictionaries(st.text(alphabet="ab=:-.é ", max_size=4), st.text(alphabet="ab=:-.é ", max_size=4), max_size=3)


@given(st.sampled_from(JobMode), st.integers(1, 10_000), TAGS)
def test_a_partition_is_refused_or_comes_back_as_it_was(mode: JobMode, nodes: int, tags: dict[str, str]) -> None:
    asked = PartitionRequest(mode, nodes, tags)
    if list(partition_tag_problems(tags)):
        with pytest.raises(ValueError, match="filter tag"):
            write_partition(asked)
    else:
        assert parse_partition(write_partition(asked)) == asked


@given(TAGS)
def test_tags_are_refused_or_come_back_as_they_were(tags: dict[str, str]) -> None:
    if not list(filter_tag_problems(tags)):
        assert parse_tags(f"{key}={value}" for key, value in tags.items()) == tags


@pytest.mark.parametrize(
    "text", ["", "mpi", "mpi:", "mpi:0", "mpi:-1", "gpu:1", "mpi:²", "mpi:1:", "mpi:1:a", "mpi:1:=a"]
)
def test_what_is_no_partition(text: str) -> None:
    with pytest.raises(ValueError, match="is not MODE:NODES"):
        parse_partition(text)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"a=b": "c"}, "'=' in its name"),
        ({"a:b": "c"}, "':' in its name"),
        ({"-a": "c"}, "begins with '-'"),
        ({"": "c"}, "empty name"),
        ({"a": "b:c"}, "give the tag to the whole BatchJob"),
    ],
)
def test_the_refusal_says_which_tag_and_why(tags: dict[str, str], words: str) -> None:
    assert [words in problem for problem in partition_tag_problems(tags)] == [True]


def test_a_tag_of_the_whole_batch_job_may_have_a_colon_in_its_value() -> None:
    assert list(filter_tag_problems({"a": "b:c=d"})) == []
    assert parse_tags(["a=b:c=d"]) == {"a": "b:c=d"}


def test_a_tag_given_twice() -> None:
    assert parse_tags(["a=b", "a=b"]) == {"a": "b"}
    with pytest.raises(ValueError, match="given twice"):
        parse_tags(["a=b", "a=c"])
