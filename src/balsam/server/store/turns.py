"""Turns: whose Job, or transfer, comes next where several people have some waiting at one Site.

Used by every store, for an acquire and for what is due to be transferred. Among Jobs of one level (the same priority)
each person has one Job in turn, whoever has how many; each person's own Jobs keep their order. Who begins is drawn by
lot, so that launchers that ask for one Job at a time do not always come to the same person.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple, TypeVar
from zlib import crc32

T = TypeVar("T")


class Candidate(NamedTuple):
    """A Job that could be granted. Lower levels come first.

    `is_tagged`, and the `length` of its parameters and data, are there where a store reads them along the way.
    """

    level: int
    job_id: int
    num_nodes: int
    node_packing_count: int
    wall_time_min: int
    is_tagged: bool = False
    length: int = 0


def lot(session_id: int, grant_seq: int) -> int:
    """A number that is the same when the same acquire is done again, in whichever store."""
    return crc32(f"{session_id} {grant_seq}".encode())


def one_of_each(walks: Iterable[Iterator[T]]) -> Iterator[T]:
    """What the walks give, one of each in turn.

    >>> "".join(one_of_each([iter("aaa"), iter("b"), iter("cc")]))
    'abcaca'
    """
    waiting = deque(walks)
    while waiting:
        walk = waiting.popleft()
        for found in walk:
            yield found
            waiting.append(walk)
            break


def in_turns(best: Mapping[int, int], lot: int, walk_of: Callable[[int], Iterator[Candidate]]) -> Iterator[Candidate]:
    """All Jobs in the order of an acquire. `best`: person -> a level that is not above that of their first Job;
    `walk_of` gives a person's Jobs in their order, and is called only when it may be that person's turn.

    >>> jobs = {1: [Candidate(0, n, 1, 1, 0) for n in (10, 11, 12)], 2: [Candidate(0, 20, 1, 1, 0)]}
    >>> [found.job_id for found in in_turns({1: 0, 2: 0}, 1, lambda person: iter(jobs[person]))]
    [20, 10, 11, 12]
    """
    people = sorted(best)
    walks: dict[int, Iterator[Candidate]] = {}
    # (level, Jobs that the person had of it, place in the turn, person, the Job; None: not yet looked for)
    heap: list[tuple[int, int, int, int, Candidate | None]] = [
        (best[person], 0, (index - lot) % len(people), person, None) for index, person in enumerate(people)
    ]
    heapify(heap)
    while heap:
        level, taken, place, person, candidate = heappop(heap)
        if candidate is None:
            walks[person] = walk_of(person)
        else:
            yield candidate
            taken += 1
        if (following := next(walks[person], None)) is not None:
            heappush(heap, (following.level, taken if following.level == level else 0, place, person, following))
