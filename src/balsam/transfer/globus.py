"""The back end of `globus:` locations: a batch is one task of Globus, between the Site's collection and another one.

The task goes on without the agent, so what must be known of it is written beside its files before it is submitted: the
submission id, by which Globus takes a task once however often it is submitted (S11). As with rsync, Globus sees a
directory of ours and never a workdir.
"""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from balsam.domain.transfers import TransferDirection
from balsam.transfer.base import Order, Outcome, PeerRefused
from balsam.transfer.descent import parts_of
from balsam.transfer.globus_login import LOGIN_AGAIN, GlobusMissing, transfer_client
from balsam.transfer.sources import NothingThere
from balsam.transfer.staging import Gathered, Shipment, check_unwritten, far_place
from balsam.transfer.threaded import Batch, Cancelled, ThreadedBackend

if TYPE_CHECKING:
    from globus_sdk import TransferClient, TransferData

JOURNAL = "task.json"
POLL_SEC = (1.0, 15.0)
DEADLINE_DAYS = 3
KEPT_DAYS = 7  # longer than any task lives: what nobody asked for since then is nobody's
_AUTH = (401, 403)


@dataclass(frozen=True, slots=True)
class Collections:
    """Both ends. `site_path` is where the Site's `spool` of this location is on the Site's own collection; `tokens` is
    the file of the Site's login."""

    ours: str
    site_path: str
    theirs: str
    base: str
    tokens: Path


class GlobusBackend(ThreadedBackend):
    """TransferBackend of one `globus:` location."""

    keeps_tasks = True

    def __init__(self, data: Path, spool: Path, collections: Collections) -> None:
        super().__init__()
        self._data = data
        self._spool = spool
        self._ends = collections
        self._woken = threading.Event()
        old = time.time() - KEPT_DAYS * 86_400
        for folder in spool.iterdir() if spool.is_dir() else ():
            if folder.stat().st_mtime < old:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        super().close()
        self._woken.set()

    def carry(self, batch: Batch) -> None:
        """From the files to their end. A task that an earlier agent submitted is gone on with."""
        name = hashlib.sha256(batch.task_id.encode()).hexdigest()[:32]  # the service may lie about what it was
        task = _Task(self._spool / name, batch)
        with _explained():
            client = transfer_client(self._ends.tokens)
            if not task.read():
                task.gather(self._data)
                if task.gathered or task.asked:
                    task.note(str(client.get_submission_id()["value"]))
            if task.submission_id:
                number = str(client.submit_transfer(self._document(task))["task_id"])
                ended = self._wait(client, task, number)
                self._tell(client, task, number, ended)
        task.end()

    def _document(self, task: "_Task") -> "TransferData":
        from globus_sdk import MISSING, TransferData

        is_out = task.direction is TransferDirection.stage_out
        ends = (self._ends.ours, self._ends.theirs) if is_out else (self._ends.theirs, self._ends.ours)
        document = TransferData(
            *ends,
            label=f"balsam {task.batch.task_id}",
            submission_id=task.submission_id,
            verify_checksum=True,
            encrypt_data=True,
            skip_source_errors=True,
            fail_on_quota_errors=True,
            notify_on_succeeded=False,
            notify_on_failed=False,
            notify_on_inactive=False,
            deadline=task.deadline,
        )
        for one in task.gathered:
            near = self._near(task, one.order, one.place)
            is_tree = (task.folder / str(one.order.item_id) / one.place).is_dir()
            document.add_item(near, self._far(one.place), recursive=is_tree)
        for order in task.asked:
            place = far_place(order)
            # Left out, Globus looks itself whether it is a directory.
            recursive = MISSING if order.recursive else False
            document.add_item(self._far(place), self._near(task, order, place), recursive=recursive)
        return document

    def _near(self, task: "_Task", order: Order, place: str) -> str:
        return f"{self._ends.site_path}/{task.folder.name}/{order.item_id}/{place}".rstrip("/")

    def _far(self, place: str) -> str:
        return f"{self._ends.base.rstrip('/')}/{place}"

    def _wait(self, client: "TransferClient", task: "_Task", number: str) -> dict[str, Any]:
        """Until the task is over. Raises Cancelled when the agent stops, PeerRefused when credentials expired."""
        pause_sec = POLL_SEC[0]
        while True:
            found = dict(client.get_task(number).data)
            if found.get("status") in ("SUCCEEDED", "FAILED"):
                return found
            if found.get("status") == "INACTIVE":
                client.cancel_task(number)
                raise PeerRefused(f"Globus holds the task {number}: credentials expired; {LOGIN_AGAIN}", is_final=False)
            if not any(order.item_id not in task.batch.cancelled for order in task.batch.orders):
                client.cancel_task(number)
                return {"status": "FAILED"}
            task.progress(int(found.get("bytes_transferred") or 0))
            self._woken.wait(pause_sec)
            if task.batch.stopping:
                raise Cancelled
            pause_sec = min(pause_sec * 1.5, POLL_SEC[1])

    def _tell(self, client: "TransferClient", task: "_Task", number: str, ended: dict[str, Any]) -> None:
        """One by one: what was skipped, or never came to be moved, fails its own order only."""
        why = _why(ended)
        moved = {str(one["destination_path"]) for one in client.task_successful_transfers(number)} if why else set()
        skipped = {str(one["source_path"]): str(one.get("error_code")) for one in client.task_skipped_errors(number)}
        for one in task.gathered:
            near = self._near(task, one.order, one.place)
            fault = _about(skipped, near) or ("" if _all_moved(one, self._far(one.place), moved) else why)
            task.settle(one.order, partial(self._sent, one, fault))
        for order in task.asked:
            fault = _about(skipped, self._far(far_place(order))) or why
            task.settle(order, partial(self._arrived, task, order, fault))

    def _sent(self, one: Gathered, fault: str) -> Outcome:
        if fault:
            raise PeerRefused(fault, is_final="NOT_FOUND" in fault or "PERMISSION" in fault)
        check_unwritten(self._data, one)
        return Outcome(one.order.item_id, skipped=one.skipped, size_bytes=one.size_bytes)

    def _arrived(self, task: "_Task", order: Order, fault: str) -> Outcome:
        try:
            if fault and order.recursive:
                raise PeerRefused(fault, is_final="NOT_FOUND" in fault or "PERMISSION" in fault)
            return Shipment(task.folder / str(order.item_id)).deliver(self._data, order)
        except NothingThere:
            raise PeerRefused(fault or f"there is no {far_place(order)}", is_final="FATAL" not in fault) from None


class _Task:
    """One batch and what is kept of it: a directory with its files and its journal."""

    def __init__(self, folder: Path, batch: Batch) -> None:
        self.folder = folder
        self.batch = batch
        self.direction = batch.orders[0].direction
        self.gathered: list[Gathered] = []
        self.asked: list[Order] = []
        self.submission_id = ""
        self.deadline = ""
        self._ends: list[Callable[[], None]] = []

    def read(self) -> bool:
        """What an earlier agent noted; False, and an empty directory, when it came to nothing."""
        try:
            found = json.loads((self.folder / JOURNAL).read_text(encoding="utf-8"))
        except FileNotFoundError:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, mode=0o700)
            return False
        self.submission_id, self.deadline = found["submission_id"], found["deadline"]
        for order in self.batch.orders:
            if order.item_id in found["asked"]:
                self.asked.append(order)
            elif kept := found["gathered"].get(str(order.item_id)):
                self.gathered.append(Gathered(order, **kept))
        return True

    def gather(self, data: Path) -> None:
        for order in self.batch.orders:
            try:
                folder = self.folder / str(order.item_id)
                folder.mkdir(mode=0o700)
                if self.direction is TransferDirection.stage_out:
                    self.gathered.append(Shipment(folder).gather(data, order))
                else:
                    parts_of(order.workdir, "workdir")
                    far_place(order)
                    self.asked.append(order)
            except Exception as error:
                self._fails(order, error)

    def note(self, submission_id: str) -> None:
        """Durable before the task is submitted (S11)."""
        self.submission_id = submission_id
        self.deadline = time.strftime("%Y-%m-%d %H:%M:%S+00:00", time.gmtime(time.time() + DEADLINE_DAYS * 86_400))
        gathered = {}
        for one in self.gathered:
            kept = {name: value for name, value in asdict(one).items() if name != "order"}
            gathered[one.order.item_id] = kept
        content = {"submission_id": submission_id, "deadline": self.deadline, "gathered": gathered}
        content["asked"] = [order.item_id for order in self.asked]
        temporary = self.folder / f".{JOURNAL}"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.folder / JOURNAL)
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(handle)
        os.close(handle)

    def progress(self, moved_bytes: int) -> None:
        """Globus counts for a task as a whole: each order gets its share."""
        sizes = {one.order.item_id: one.size_bytes for one in self.gathered} or {one.item_id: 1 for one in self.asked}
        total = sum(sizes.values())
        for item_id, size in sizes.items():
            self.batch.moved[item_id] = moved_bytes * size // total if total else 0

    def settle(self, order: Order, work: Callable[[], Outcome]) -> None:
        if not self.batch.is_wanted(order):
            return
        try:
            outcome = work()
        except Exception as error:
            self._fails(order, error)
        else:
            self._ends.append(lambda: self.batch.done(outcome))

    def end(self) -> None:
        """Told at once at the end, as a try that follows has the same task: then nothing of this one may be left."""
        if self.batch.stopping:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for tell in self._ends:
            tell()

    def _fails(self, order: Order, error: Exception) -> None:
        self._ends.append(lambda: self.batch.failed(order, error))


def _why(ended: dict[str, Any]) -> str:
    if ended.get("status") == "SUCCEEDED":
        return ""
    fatal = ended.get("fatal_error") or {}
    return f"Globus gave up: {fatal.get('code', 'FAILED')}: {fatal.get('description', 'no reason is told')} (FATAL)"


def _about(skipped: dict[str, str], place: str) -> str:
    found = next((path for path in skipped if path == place or path.startswith(f"{place}/")), "")
    return f"Globus skipped {found}: {skipped[found]}" if found else ""


def _all_moved(one: Gathered, place: str, moved: set[str]) -> bool:
    return bool(one.files) and one.files == sum(path == place or path.startswith(f"{place}/") for path in moved)


@contextmanager
def _explained() -> Iterator[None]:
    """What globus-sdk raises, in the words of transfers: credentials that expired are for a person to mend."""
    try:
        import globus_sdk
    except ImportError:
        raise GlobusMissing from None
    try:
        yield
    except globus_sdk.GlobusAPIError as error:
        is_login = error.http_status in _AUTH or isinstance(error, globus_sdk.AuthAPIError)
        hint = f"; {LOGIN_AGAIN}" if is_login else ""
        if error.info.consent_required:
            hint = f"; {LOGIN_AGAIN} with --endpoint for each mapped collection"
        text = f"Globus refused ({error.http_status}): {error.message or error.text}{hint}"
        raise PeerRefused(text, is_final=error.http_status == 404) from None
    except globus_sdk.GlobusError as error:
        raise PeerRefused(f"Globus can't be reached: {error}", is_final=False) from None


def parse_location(url: str) -> tuple[str, str]:
    """Collection and base path of `globus://UUID/path`. Raises ValueError."""
    parts = urlsplit(url)
    digits = parts.netloc.replace("-", "")
    if len(digits) != 32 or any(char not in "0123456789abcdefABCDEF" for char in digits) or parts.query:
        raise ValueError(f"{url!r} must have the form globus://UUID-OF-A-COLLECTION/path")
    return parts.netloc, unquote(parts.path) or "/"
