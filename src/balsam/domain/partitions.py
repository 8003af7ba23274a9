"""Partitions and filter tags as words: `KEY=VALUE`, and `MODE:NODES[:KEY=VALUE]...` for a slice of an allocation.

One place that reads and writes them, for `balsam queue submit`, the SDK, the batch script and the launcher's command
line; so what one part writes another reads as the same. What the words can't carry is refused by the service when it
is asked for, and by the Site again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from balsam.domain.states import JobMode

FORM = "MODE:NODES[:KEY=VALUE]..., as in mpi:2:kind=big"
_TAG_SEPARATOR = ":"


@dataclass(frozen=True, slots=True)
class PartitionRequest:
    """A slice of an allocation as it is asked for. `filter_tags` are its own, beside those of the BatchJob."""

    job_mode: JobMode
    num_nodes: int
    filter_tags: Mapping[str, str] = field(default_factory=dict)


def parse_tags(words: Iterable[str]) -> dict[str, str]:
    """Tags out of `KEY=VALUE` words. Raises ValueError, also for a key that comes twice with different values.

    >>> parse_tags(["kind=big", "formula=a=b"])
    {'kind': 'big', 'formula': 'a=b'}
    """
    tags: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ValueError(f"tag {word!r} is not KEY=VALUE")
        if tags.setdefault(key, value) != value:
            raise ValueError(f"tag {key!r} is given twice, as {tags[key]!r} and as {value!r}")
    return tags


def parse_partition(text: str) -> PartitionRequest:
    """Read what `write_partition` wrote, or what somebody typed. Raises ValueError.

    >>> parse_partition("serial:2:kind=small").num_nodes
    2
    """
    mode, _, rest = text.partition(_TAG_SEPARATOR)
    nodes, *tags = rest.split(_TAG_SEPARATOR)
    if mode not in list(JobMode) or not (nodes.isascii() and nodes.isdigit()) or int(nodes) < 1:
        raise ValueError(f"partition {text!r} is not {FORM}")
    try:
        return PartitionRequest(JobMode(mode), int(nodes), parse_tags(tags))
    except ValueError as error:
        raise ValueError(f"partition {text!r} is not {FORM}: {error}") from None


def write_partition(partition: PartitionRequest) -> str:
    """One word for the launcher's `-p`. Raises ValueError for tags that it can't carry.

    >>> write_partition(PartitionRequest(JobMode.MPI, 2, {"kind": "big"}))
    'mpi:2:kind=big'
    """
    for problem in partition_tag_problems(partition.filter_tags):
        raise ValueError(problem)
    tags = [f"{key}={value}" for key, value in partition.filter_tags.items()]
    return _TAG_SEPARATOR.join([partition.job_mode.value, str(partition.num_nodes), *tags])


def filter_tag_problems(tags: Mapping[str, str]) -> Iterator[str]:
    """Why a batch script can't tell these tags to its launcher, one sentence each."""
    for key in tags:
        if not key:
            yield "a filter tag has an empty name"
        elif "=" in key:
            yield f"filter tag {key!r} has '=' in its name, which separates name and value in a batch script"
        elif _TAG_SEPARATOR in key:
            yield f"filter tag {key!r} has ':' in its name, which separates the tags of a partition"
        elif key.startswith("-"):
            yield f"filter tag {key!r} begins with '-', which the launcher's command line takes for an option"


def partition_tag_problems(tags: Mapping[str, str]) -> Iterator[str]:
    """As `filter_tag_problems`, for the tags of a partition, which are parts of one word."""
    yield from filter_tag_problems(tags)
    for key, value in tags.items():
        if _TAG_SEPARATOR in value:
            yield (
                f"filter tag {key}={value!r} of a partition has ':', which separates its tags; "
                "use another value, or give the tag to the whole BatchJob"
            )
