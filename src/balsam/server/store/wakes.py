"""Merging the wakes of one commit: every subscriber hears each thing once, with the newest data."""

from collections.abc import Iterable

from balsam.server.store.protocol import Wake


def merged(wakes: Iterable[Wake]) -> list[Wake]:
    """One Wake per (topic, key, event); lists of Jobs are joined, the newest entry of each Job wins."""
    states: dict[int, dict[int, list[object]]] = {}
    cancels: dict[int, dict[int, None]] = {}
    others: dict[tuple[str, int, str], Wake] = {}
    for wake in wakes:
        if wake.topic == "jobs":
            newest = states.setdefault(wake.key, {})
            for entry in wake.data["jobs"]:
                newest.pop(entry[0], None)
                newest[entry[0]] = entry
        elif wake.event == "cancel":
            cancels.setdefault(wake.key, {}).update(dict.fromkeys(wake.data["job_ids"]))
        else:
            others[wake.topic, wake.key, wake.event] = wake
    result = [Wake("jobs", owner, "states", {"jobs": list(newest.values())}) for owner, newest in states.items()]
    result += [Wake("session", session, "cancel", {"job_ids": list(ids)}) for session, ids in cancels.items()]
    return result + list(others.values())
