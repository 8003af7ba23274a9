"""From the wakes of one commit to whoever listens: each hears each thing once, with the newest data."""

import logging
from collections.abc import Callable, Iterable
from itertools import chain

from balsam.server.store.protocol import Subscriber, Topic, Wake

log = logging.getLogger(__name__)


class Subscribers:
    """Who is called once per commit, in the writer's thread."""

    def __init__(self) -> None:
        self._all: list[Subscriber] = []

    def add(self, subscriber: Subscriber) -> Callable[[], None]:
        """Returns how to unsubscribe."""
        self._all.append(subscriber)

        def remove() -> None:
            if subscriber in self._all:
                self._all.remove(subscriber)

        return remove

    def publish(self, wakes: Iterable[Wake]) -> None:
        """Tell all of them, when there is anything to tell."""
        found = merged(wakes)
        for subscriber in list(self._all) if found else ():
            try:
                subscriber(found)
            except Exception:
                # The rows are durable; a subscriber that fails must not stop the writer.
                log.exception("a subscriber failed")


def merged(wakes: Iterable[Wake]) -> list[Wake]:
    """One Wake per (topic, key, event); lists of Jobs are joined, the newest entry of each Job wins."""
    several: dict[tuple[Topic, int, str], list[Wake]] = {}
    for wake in wakes:
        several.setdefault((wake.topic, wake.key, wake.event), []).append(wake)
    return [same[0] if len(same) == 1 else _joined(same) for same in several.values()]


def _joined(same: list[Wake]) -> Wake:
    last = same[-1]
    if last.event == "states":
        newest: dict[int, list[object]] = {}
        for entry in chain.from_iterable(wake.data["jobs"] for wake in same):
            newest.pop(entry[0], None)
            newest[entry[0]] = entry
        return Wake(last.topic, last.key, "states", {"jobs": list(newest.values())})
    if last.event == "cancel":
        ids = dict.fromkeys(chain.from_iterable(wake.data["job_ids"] for wake in same))
        return Wake(last.topic, last.key, "cancel", {"job_ids": list(ids)})
    return last
