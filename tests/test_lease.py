"""The driver's lease: held, watched from here and from elsewhere, lost in every way there is."""

import contextlib
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from family import eventually

from hybridflow.errors import InputError
from hybridflow.lease import Lease, Watch

LONG, SHORT = 60.0, 0.4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "driver.lease"


@contextlib.contextmanager
def watching(path: Path, lease_seconds: float = LONG) -> Iterator[Watch]:
    watch = Watch(path, lease_seconds=lease_seconds)
    try:
        yield watch
    finally:
        watch.close()


def content(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**content(path), **changes}))


@contextlib.contextmanager
def holder(path: Path, then: str = "time.sleep(600)") -> "Iterator[subprocess.Popen[bytes]]":
    program = (
        "import os, sys, time\nfrom hybridflow.lease import Lease\n"
        f"lease = Lease.hold(sys.argv[1])\nprint('held', flush=True)\n{then}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


def test_file_names_its_holder_and_is_private(path: Path) -> None:
    with Lease.hold(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert content(path)["pid"] == os.getpid()
        assert content(path)["host"]
    assert not path.exists()


def test_close_may_be_called_twice(path: Path) -> None:
    lease = Lease.hold(path)
    lease.close()
    path.touch()  # somebody else's by now
    lease.close()
    assert path.exists()


def test_each_driver_has_a_file_of_its_own(path: Path) -> None:
    with Lease.hold(path), pytest.raises(InputError, match="file of its own"):
        Lease.hold(path)


def test_folder_must_exist(path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Lease.hold(path / "deeper")


def test_counter_advances_in_place(path: Path) -> None:
    with Lease.hold(path, beat_seconds=0.01):
        first = path.stat().st_ino, content(path)["counter"]
        eventually(lambda: content(path)["counter"] > first[1] + 2)
        assert path.stat().st_ino == first[0]


def test_a_removed_lease_is_not_made_again(path: Path) -> None:
    with Lease.hold(path, beat_seconds=0.01) as lease:
        path.unlink()
        lease._thread.join(timeout=30)
        assert not lease._thread.is_alive()
        assert not path.exists()


def test_end_of_the_program_releases_the_lease(path: Path) -> None:
    with holder(path, then="") as process:
        assert process.wait(timeout=30) == 0
    assert not path.exists()


def test_a_forked_child_does_not_release_the_lease(path: Path) -> None:
    then = (
        "child = os.fork()\nif child == 0:\n    sys.exit(0)\n"
        "os.waitpid(child, 0)\nprint(os.path.exists(sys.argv[1]), flush=True)"
    )
    with holder(path, then) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"


def test_held_is_not_lost(path: Path) -> None:
    with Lease.hold(path), watching(path, SHORT) as watch:
        # On the same machine the process counts, not the counter (the driver may be stopped).
        assert watch.wait(2 * SHORT) is None


def test_released_is_lost(path: Path) -> None:
    with Lease.hold(path) as lease, watching(path) as watch:
        assert watch.lost() is None
        lease.close()
        assert "released" in str(watch.lost())


def test_death_is_seen_at_once_on_the_same_machine(path: Path) -> None:
    with holder(path) as process, watching(path) as watch:
        assert watch.lost() is None
        watch.interval_seconds = 30.0  # only the descriptor can wake the watcher in time
        process.kill()
        began = time.monotonic()
        reason = watch.wait(30)
        assert time.monotonic() - began < 5
        assert f"process {process.pid}" in str(reason)


def test_a_lease_that_a_dead_driver_left_is_lost(path: Path) -> None:
    with holder(path) as process:
        process.kill()
        process.wait()
    with watching(path) as watch:
        assert "is gone" in str(watch.lost())


def test_a_process_id_used_again_is_no_holder(path: Path) -> None:
    with Lease.hold(path, beat_seconds=LONG), watching(path) as watch:
        rewrite(path, start=content(path)["start"] - 1)
        assert "is gone" in str(watch.lost())


def test_elsewhere_the_counter_tells(path: Path) -> None:
    with Lease.hold(path, beat_seconds=LONG):
        rewrite(path, machine="another one", pid=1, host="far-away")
        with watching(path, SHORT) as watch:
            for counter in range(1, 7):
                rewrite(path, counter=counter)
                assert watch.wait(SHORT / 2) is None
            assert "no sign of life from far-away" in str(watch.wait(30))


def test_another_namespace_of_process_ids_is_elsewhere(path: Path) -> None:
    with Lease.hold(path, beat_seconds=LONG):
        rewrite(path, machine=content(path)["machine"] + "0")
        with watching(path, SHORT) as watch:
            assert watch.lost() is None
            assert watch.pidfd is None


@pytest.mark.parametrize("text", [b"", b'{"host": "a", "pi', b"[1]", b'{"host": 1}', b"\xff"])
def test_half_a_beat_is_no_news(path: Path, text: bytes) -> None:
    with Lease.hold(path, beat_seconds=LONG), watching(path, SHORT) as watch:
        whole = path.read_bytes()
        path.write_bytes(text)
        assert watch.lost() is None
        path.write_bytes(whole)
        assert watch.wait(2 * SHORT) is None


def test_a_lease_that_is_never_readable_is_lost_in_the_end(path: Path) -> None:
    path.mkdir()
    with watching(path, SHORT) as watch:
        assert watch.lost() is None
        assert "no sign of life from its holder" in str(watch.wait(30))
