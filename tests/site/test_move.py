"""Moving a Site: what is refused, what is taken back, and what finds its way afterwards."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from balsam.client.errors import Conflict, ValidationFailed
from balsam.site import move as module
from balsam.site.directory import SiteDirectory, SiteError
from balsam.site.former_paths import FILE as FORMER_PATHS
from balsam.site.former_paths import former_paths, note_former_path, remove_former_paths
from balsam.site.ledger import Ledger
from balsam.site.leftovers import end_leftovers
from balsam.site.lock import read_status
from balsam.site.move import move_site, rename_site
from balsam.site.service import ServiceAway, ServiceLink
from tests.services import RunningService
from tests.site.conftest import ask_for_allocation, end_allocations, running_agent, starts, wait_for
from tests.site.test_reload import is_up, until

pytestmark = pytest.mark.slow


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "new"
    yield path
    if (path / ".balsam-site").exists():
        end_allocations(SiteDirectory(path))


@pytest.fixture
def far() -> Iterator[Path]:
    """A directory on another file system."""
    path = Path("/dev/shm") / f"balsam-test-{uuid.uuid4().hex}"
    path.mkdir()
    if path.stat().st_dev == Path("/tmp").stat().st_dev:
        pytest.skip("/dev/shm and /tmp are one file system here")
    yield path
    shutil.rmtree(path)


def contents(root: Path) -> dict[str, str]:
    """Every name below a directory, with what tells it from others; logs and what agents say of themselves aside."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and not name.startswith(("log/", "agent.")):
            found[name] = path.read_text()
        elif path.is_dir():
            found[name] = "/"
    return found


def path_at_service(real: RunningService) -> str:
    with real.client() as client:
        return str(client.get("/api/sites/1").json()["path"])


def test_agent_and_allocation_go_on_and_the_old_name_goes_with_the_last(
    place: SiteDirectory, real: RunningService, new: Path
) -> None:
    with running_agent(place) as agent, real.client() as client:
        first = ask_for_allocation(client)
        wait_for(client, first, "running")
        moved = move_site(place.root, new)
        assert (moved.path, moved.link, moved.trouble) == (new, True, "")
        assert moved.agent is not None and moved.agent.pid == agent.pid
        assert place.root.is_symlink() and former_paths(SiteDirectory(new)) == {str(place.root): [first]}
        assert path_at_service(real) == str(new)
        assert Path(f"/proc/{agent.pid}/cwd").resolve() == new
        second = ask_for_allocation(client)
        wait_for(client, second, "running")
        assert client.get(f"/api/batch-jobs/{first}").json()["state"] == "running"
        client.patch(f"/api/batch-jobs/{first}", json={"state": "pending_deletion"})
        wait_for(client, first, "finished")
        until(lambda: not place.root.is_symlink(), "the old name is still there")
        until(lambda: former_paths(SiteDirectory(new)) == {}, "the old name is still written down")
        client.patch(f"/api/batch-jobs/{second}", json={"state": "pending_deletion"})
        wait_for(client, second, "finished")
    assert starts(SiteDirectory(new)) == 2


def test_under_an_agent_without_allocations_the_old_name_goes_at_once(
    place: SiteDirectory, real: RunningService, new: Path
) -> None:
    with running_agent(place):
        until(lambda: is_up(place), "the agent did not come up")
        assert move_site(place.root, new).agent is not None
        until(lambda: not place.root.is_symlink(), "the old name is still there")
        again = new.with_name("again")
        moved = move_site(new, again)
        assert moved.trouble == "" and path_at_service(real) == str(again)
        back = move_site(again, place.root)
        assert back.path == place.root and path_at_service(real) == str(place.root)
        until(lambda: not again.is_symlink(), "the last old name is still there")


def test_a_former_name_that_is_needed_is_no_place_to_move_to(
    place: SiteDirectory, real: RunningService, new: Path
) -> None:
    with running_agent(place), real.client() as client:
        number = ask_for_allocation(client)
        wait_for(client, number, "running")
        move_site(place.root, new)
        with pytest.raises(SiteError, match="former name of this Site"):
            move_site(new, place.root)
        with pytest.raises(SiteError, match="exists already"):
            move_site(place.root, new.parent)
        move_site(new, new.with_name("third"))
        assert place.root.resolve() == new.resolve() == new.with_name("third")
        client.patch(f"/api/batch-jobs/{number}", json={"state": "pending_deletion"})
        wait_for(client, number, "finished")
        until(lambda: not new.is_symlink() and not place.root.is_symlink(), "old names are still there")


@pytest.mark.parametrize("running", [True, False])
def test_a_service_that_goes_away_in_the_middle_takes_the_move_back(
    place: SiteDirectory, real: RunningService, new: Path, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    def lost(self: ServiceLink, patch: object) -> None:
        assert SiteDirectory(new).marker.exists(), "the service is told after the move"
        raise ServiceAway("cut off")

    with running_agent(place) if running else nullcontext() as agent:
        until(lambda: agent is None or is_up(place), "the agent did not come up")
        before = contents(place.root)
        monkeypatch.setattr(ServiceLink, "update_site", lost)
        with pytest.raises(SiteError, match="stays where it is, as the service was not told: cut off"):
            move_site(place.root, new)
        after = {name: text for name, text in contents(place.root).items() if name not in (FORMER_PATHS,)}
        assert {name: text for name, text in after.items() if name != "qsubmit/allocation-prefix"} == before
        assert not place.root.is_symlink() and not os.path.lexists(new) and former_paths(place) == {}
        assert agent is None or is_up(place)


def test_a_file_system_that_can_not_exchange_names(
    place: SiteDirectory, real: RunningService, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def can_not(first: Path, second: Path) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(module, "_exchange", can_not)
    with running_agent(place), real.client() as client:
        number = ask_for_allocation(client)
        wait_for(client, number, "running")
        with pytest.raises(SiteError, match="can't exchange two names in one step"):
            move_site(place.root, new)
        assert not os.path.lexists(new) and former_paths(place) == {}
        moved = move_site(place.root, new, force=True)
        assert moved.link and moved.trouble == "" and place.root.resolve() == new
        client.patch(f"/api/batch-jobs/{number}", json={"state": "pending_deletion"})
        wait_for(client, number, "finished")
        until(lambda: not place.root.is_symlink(), "the old name is still there")


def test_an_interrupted_move_is_completed_by_the_same_command(
    place: SiteDirectory, real: RunningService, new: Path
) -> None:
    with running_agent(place), real.client() as client:
        number = ask_for_allocation(client)
        wait_for(client, number, "running")
        note_former_path(place, place.root, [number])
        new.symlink_to(new)
        module._exchange(place.root, new)  # and killed here
        assert path_at_service(real) == str(place.root)
        moved = move_site(place.root, new)
        assert (moved.path, moved.link, moved.trouble) == (new, True, "")
        assert path_at_service(real) == str(new)


def test_an_agent_that_has_not_followed_yet_keeps_the_name_it_uses(
    place: SiteDirectory, real: RunningService, new: Path
) -> None:
    note_former_path(place, place.root, [])
    new.symlink_to(new)
    module._exchange(place.root, new)
    remove_former_paths(place, ())  # by its old name
    assert place.root.is_symlink() and former_paths(place) == {str(place.root): []}
    remove_former_paths(SiteDirectory(new), ())
    assert not os.path.lexists(place.root) and former_paths(SiteDirectory(new)) == {}


def test_an_agent_that_does_not_answer_works_on_through_the_link(
    place: SiteDirectory, real: RunningService, new: Path
) -> None:
    import signal

    with running_agent(place) as agent:
        until(lambda: is_up(place), "the agent did not come up")
        agent.send_signal(signal.SIGSTOP)
        try:
            moved = move_site(place.root, new, timeout_sec=0.3)
            assert moved.link and "did not answer" in moved.trouble and path_at_service(real) == str(new)
        finally:
            agent.send_signal(signal.SIGCONT)
        until(lambda: not place.root.is_symlink(), "the agent did not follow")
        status = read_status(SiteDirectory(new))
        assert status is not None and status.pid == agent.pid


def test_allocations_of_before_the_move_are_ended_after_it(
    place: SiteDirectory, real: RunningService, new: Path
) -> None:
    with running_agent(place), real.client() as client:
        number = ask_for_allocation(client)
        wait_for(client, number, "running")
        before = Ledger(place.qsubmit, 1).allocation_prefix
        move_site(place.root, new)
        assert Ledger(SiteDirectory(new).qsubmit, 1).allocation_prefix == before
    found: list[int] = []
    end_leftovers(new, found.append)
    assert found == [1]


def test_to_another_file_system(place: SiteDirectory, real: RunningService, far: Path) -> None:
    target = far / "site"
    (place.data / "link").symlink_to("nowhere")
    with running_agent(place), real.client() as client:
        until(lambda: is_up(place), "the agent did not come up")
        with pytest.raises(SiteError, match="stop the agent"):
            move_site(place.root, target)
        number = ask_for_allocation(client)
        wait_for(client, number, "running")
        with pytest.raises(SiteError, match=rf"BatchJobs {number}.*balsam queue rm {number}"):
            move_site(place.root, target)
        client.patch(f"/api/batch-jobs/{number}", json={"state": "pending_deletion"})
        wait_for(client, number, "finished")
    before = contents(place.root)
    moved = move_site(place.root, target)
    assert (moved.path, moved.link, moved.agent) == (target, False, None)
    assert not place.root.exists() and path_at_service(real) == str(target)
    kept = Ledger(SiteDirectory(target).qsubmit, 1).allocation_prefix
    assert contents(target) == {**before, "qsubmit/allocation-prefix": kept}
    assert os.readlink(target / "data" / "link") == "nowhere"
    assert (target / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in far.iterdir()] == ["site"]
    with running_agent(SiteDirectory(target)):
        until(lambda: is_up(SiteDirectory(target)), "the agent did not come up in the new place")


def test_a_copy_that_fails_leaves_nothing(
    place: SiteDirectory, real: RunningService, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(place.root)

    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", target)

    monkeypatch.setattr(shutil, "copy2", full)
    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, full, False, False))
    with pytest.raises(SiteError, match="stays where it is"):
        move_site(place.root, far / "site")
    assert list(far.iterdir()) == [] and place.marker.exists()
    assert {name: text for name, text in contents(place.root).items() if name != "qsubmit/allocation-prefix"} == before


def test_only_links_of_our_own_are_removed(place: SiteDirectory, tmp_path: Path) -> None:
    ours, foreign, directory = tmp_path / "ours", tmp_path / "foreign", tmp_path / "directory"
    ours.symlink_to(place.root)
    foreign.symlink_to(tmp_path)
    directory.mkdir()
    for path in (ours, foreign, directory, tmp_path / "gone"):
        note_former_path(place, path, [7])
    remove_former_paths(place, {7})
    assert ours.is_symlink() and len(former_paths(place)) == 4
    remove_former_paths(place, {8})
    assert not os.path.lexists(ours) and foreign.is_symlink() and directory.is_dir()
    assert former_paths(place) == {}


@pytest.mark.parametrize("text", ["[]", "{", '{"/x": 5}', "\xff"])
def test_former_names_that_can_not_be_understood_stop_nothing(place: SiteDirectory, text: str) -> None:
    (place.root / FORMER_PATHS).write_text(text, encoding="latin-1")
    assert former_paths(place) == {}
    remove_former_paths(place, ())


def test_a_name_that_is_taken_or_none_changes_nothing(place: SiteDirectory, real: RunningService) -> None:
    with real.client() as client:
        client.post("/api/sites", json={"name": "taken", "path": "/x"})
    with pytest.raises(Conflict, match="named 'taken'"):
        rename_site(place.root, "taken")
    with pytest.raises(ValidationFailed):
        rename_site(place.root, "")
    assert place.identity().name == "a place"


def test_a_name_that_can_not_be_written_down_is_taken_back(
    place: SiteDirectory, real: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: dict[str, object]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(SiteError, match=r"keeps its name 'a place'.*No space left"):
        rename_site(place.root, "other")
    with real.client() as client:
        assert client.get("/api/sites/1").json()["name"] == "a place"
    assert json.loads(place.marker.read_text())["name"] == "a place"
