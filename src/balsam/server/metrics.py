"""What the service tells Prometheus: how long requests and transactions took, leases, and numbers from the store.

Made by `create_app`, fed by the dispatcher, by calls and by the sweep, shown by `routes.meta.metrics`. With several
processes (shared_counts.py) each writes its counts into a file of its own and whoever is asked adds them up. Nothing
here names a person, a Site, a Job or anything that users wrote.
"""

import os
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from balsam import __version__
from balsam.domain.lease import SessionPurpose
from balsam.domain.states import DONE_STATES, JobState
from balsam.server.shared_counts import SHARED
from balsam.server.usecases.figures import Figures

# In this format the moment at which a series began is a series of its own; nothing asks for it.
disable_created_metrics()
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of one service, or of one of its processes."""

    def __init__(self, streams: Callable[[], int]) -> None:
        self._streams = streams
        self._own = CollectorRegistry()
        self._requests = Histogram(
            "balsam_request_seconds",
            "Time to answer a request; streams are left out.",
            ("method", "route", "status"),
            registry=self._own,
            buckets=_SECONDS,
        )
        self._transactions = Histogram(
            "balsam_transaction_seconds",
            "Time of a transaction with its wait and its commit.",
            ("kind",),
            registry=self._own,
            buckets=_SECONDS,
        )
        self._renewals = Counter(
            "balsam_lease_renewals", "Renewals of leases that were granted.", ("holder",), registry=self._own
        )
        self._lost = Counter("balsam_leases_lost", "Sessions ended because nobody renewed them.", registry=self._own)
        self._children: dict[tuple[str, str, int], Histogram] = {}
        self._reads, self._writes = (self._transactions.labels(kind) for kind in ("read", "write"))
        self._by_holder = {holder: self._renewals.labels(holder) for holder in ("session", "agent")}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered. `route` is the pattern of its path, never the path."""
        key = (method, route, status)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._requests.labels(method, route, str(status))
        child.observe(seconds)

    def read(self, seconds: float) -> None:
        self._reads.observe(seconds)

    def write(self, seconds: float) -> None:
        self._writes.observe(seconds)

    def renewed(self, holder: str) -> None:
        """A lease was renewed: of a `session` or of a Site's `agent`."""
        self._by_holder[holder].inc()

    def lost(self, count: int) -> None:
        """The sweep ended Sessions."""
        self._lost.inc(count)

    def text(self, figures: Figures) -> bytes:
        """Everything, in Prometheus' text format."""
        counted = self._own
        if SHARED in os.environ:
            counted = CollectorRegistry()
            MultiProcessCollector(counted)
        now = CollectorRegistry()
        now.register(_Now(figures, self._streams()))
        return generate_latest(counted) + generate_latest(now)


class _Now(Collector):
    """What is true at the moment: nothing of it is kept between two questions."""

    def __init__(self, figures: Figures, streams: int) -> None:
        self._figures = figures
        self._streams = streams

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("balsam_service_info", "1, with the version.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        yield GaugeMetricFamily("balsam_open_streams", "Open streams of the process that answers.", self._streams)
        yield from self._jobs()
        yield from self._transfers()
        yield from self._leases()

    def _jobs(self) -> Iterator[Metric]:
        figures, census = self._figures, self._figures.census
        jobs = GaugeMetricFamily("balsam_jobs", "Jobs by state.", labels=("state",))
        ages = GaugeMetricFamily(
            "balsam_oldest_job_age_seconds",
            "Since the submission of the oldest Job that stands in the state; 0 without any.",
            labels=("state",),
        )
        for state in JobState:
            jobs.add_metric((state.value,), census.jobs.get(state, 0))
            if state not in DONE_STATES:
                ages.add_metric((state.value,), figures.age_sec(census.oldest.get(state, figures.at)))
        yield jobs
        yield ages

    def _transfers(self) -> Iterator[Metric]:
        backlog = self._figures.census.backlog
        labels = ("direction", "state")
        count = GaugeMetricFamily("balsam_transfer_backlog", "TransferItems that are due.", labels=labels)
        ages = GaugeMetricFamily("balsam_oldest_transfer_age_seconds", "Age of the oldest of them.", labels=labels)
        for direction in ("in", "out"):
            for state in ("pending", "active", "inactive"):
                found = backlog.get((direction, state))
                count.add_metric((direction, state), 0 if found is None else found.count)
                ages.add_metric((direction, state), 0 if found is None else self._figures.age_sec(found.oldest_at))
        yield count
        yield ages

    def _leases(self) -> Iterator[Metric]:
        figures = self._figures
        sessions = GaugeMetricFamily("balsam_sessions", "Open Sessions.", labels=("purpose",))
        silence = GaugeMetricFamily(
            "balsam_session_silence_seconds", "Since the renewal that is longest ago.", labels=("purpose",)
        )
        for purpose in SessionPurpose:
            sessions.add_metric((purpose.value,), figures.sessions.get(purpose.value, 0))
            silence.add_metric((purpose.value,), figures.silence_sec.get(purpose.value, 0.0))
        yield sessions
        yield silence
        sites = GaugeMetricFamily("balsam_sites", "Sites by whether their agent is heard of.", labels=("agent",))
        for online, word in ((True, "online"), (False, "offline")):
            sites.add_metric((word,), figures.sites.get(online, 0))
        yield sites
