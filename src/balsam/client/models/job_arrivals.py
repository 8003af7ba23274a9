"""Results of Jobs that go to `client:`: whether they are at this machine, and fetching them elsewhere."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from balsam.client.errors import BalsamError
from balsam.domain.states import DONE_STATES, JobState
from balsam.domain.transfers import CLIENT

if TYPE_CHECKING:
    from balsam.client.arrivals import Arrived
    from balsam.client.client import Client
    from balsam.client.collector import Fetch
    from balsam.client.completions import Inbox


class JobArrivals:
    """The part of `Job` that has its files come home."""

    _fetch: "Fetch | None" = None

    if TYPE_CHECKING:
        _row: dict[str, Any] | None

        @classmethod
        def _client(cls) -> Client: ...
        def _saved_id(self) -> int: ...
        def _known_done(self) -> bool: ...
        def done(self) -> bool: ...

    def arrived(self) -> bool:
        """Whether the Job is done and its results that go to `client:` are here, as far as is known now.

        They are fetched in the background; this waits for nothing. Raises TransferFailed when one can't be put where it
        belongs.

        >>> job.arrived()
        True
        """
        if not self.done() or not self._is_home(None):
            return False
        self._check_arrived()
        return True

    def fetch(self, to: str | os.PathLike[str], *, progress: bool | None = None) -> "list[Arrived]":
        """Fetch what the Job has sent to `client:` and nobody has collected yet into the directory `to`.

        For a machine other than the one that submitted, or when a result can't be put where it was to go: each is put
        below `to` at the path of the Job's workdir. Returns what arrived and, with its `error`, what did not.
        `progress`: draw a progress bar; by default in a notebook or at a prompt.

        >>> [one.path for one in job.fetch("results")]  # this Job sends nothing
        []
        """
        from balsam.client.arrivals import fetch_to
        from balsam.transfer.base import PeerAway

        try:
            return fetch_to(self._client(), [self._saved_id()], Path(to), progress)
        except PeerAway as error:
            raise error.__cause__ or BalsamError(str(error)) from None

    def _is_home(self, inbox: "Inbox | None") -> bool:
        """Of a Job that is done: whether nothing of it is on its way. Otherwise its id is put into `inbox` then."""
        return not self._uses_client() or self._client().collector.is_home(self, inbox)

    def _uses_client(self) -> bool:
        return any(text.startswith(f"{CLIENT}:") for text in (self._row or {}).get("transfers", {}).values())

    def _leave_home(self, inbox: "Inbox") -> None:
        if self._fetch is not None and not self._fetch.settled:
            self._client().collector.leave(self._fetch, inbox)

    def _what_is_late(self) -> str:
        """What `_is_settled` waits for, and where the reason is found."""
        if self._known_done():
            return "is done, and what it sends to client: is on its way here"
        return f"is {(self._row or {}).get('state')}, its explain() says why"

    def _is_settled(self) -> bool:
        """Done, and nothing on its way; asks for nothing."""
        return self._known_done() and (not self._uses_client() or (self._fetch is not None and self._fetch.settled))

    def _check_arrived(self) -> None:
        """Raises what became of a result, once: the next one who waits has it tried again."""
        fetch = self._fetch
        if fetch is not None and fetch.error is not None:
            self._fetch = None
            raise fetch.error

    def _expect_again(self, state: JobState) -> None:
        """The Job runs again: what arrived was of an earlier attempt."""
        if state not in DONE_STATES and self._fetch is not None and self._fetch.settled:
            self._fetch = None
