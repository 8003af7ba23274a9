"""A line in which what waits is taken by turns: one thing of each account, whoever has how much waiting.

Used by the writer and the readers of a store (server/store), and by the broker for what streams are to be told. Things
of one account keep their order. Not for several threads at once.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Line(Generic[K, T]):
    """What waits, by whom it is for.

    >>> line = Line[str, int]()
    >>> for whose, number in (("ann", 1), ("ann", 2), ("ann", 3), ("bob", 4)):
    ...     line.add(whose, number)
    >>> [line.take() for _ in range(4)]
    [1, 4, 2, 3]
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[K, deque[T]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, whose: K, thing: T) -> None:
        self._waiting.setdefault(whose, deque()).append(thing)

    def take(self, passed_over: Collection[K] = ()) -> T | None:
        """The next one, but of these accounts; its own is the last in turn from now on. None when nothing waits."""
        for whose in self._waiting:
            if whose not in passed_over:
                break
        else:
            return None
        things = self._waiting.pop(whose)
        thing = things.popleft()
        if things:
            self._waiting[whose] = things
        return thing

    def put_back(self, whose: K, thing: T) -> None:
        """What was taken and could not be done yet is the next one."""
        self._waiting.setdefault(whose, deque()).appendleft(thing)
        self._waiting.move_to_end(whose, last=False)
