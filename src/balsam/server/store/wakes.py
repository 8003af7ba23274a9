"""From the wakes of one commit to whoever listens: each hears each thing once, with the newest data."""

import logging
from collections.abc import Callable, Iterable

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
    states: dict[tuple[Topic, int], dict[int, list[object]]] = {}
    cancels: dict[tuple[Topic, int], dict[int, None]] = {}
    others: dict[tuple[str, int, str], Wake] = {}
    for wake in wakes:
        if wake.event == "states":
            newest = states.setdefault((wake.topic, wake.key), {})
            for entry in wake.data["jobs"]:
                newest.pop(entry[0], None)
                newest[entry[0]] = entry
        elif wake.event == "cancel":
            cancels.setdefault((wake.topic, wake.key), {}).update(dict.fromkeys(wake.data["job_ids"]))
        else:
            others[wake.topic, wake.key, wake.event] = wake
    result = [Wake(topic, key, "states", {"jobs": list(newest.values())}) for (topic, key), newest in states.items()]
    result += [Wake(topic, key, "cancel", {"job_ids": list(ids)}) for (topic, key), ids in cancels.items()]
    return result + list(others.values())
