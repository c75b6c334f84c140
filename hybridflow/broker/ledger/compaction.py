"""Makes the files of brokers that have ended smaller: what has no consequence any more is left out.

That is requests that never went to the vendor, and steps that a later one has overtaken. Whoever
reads meanwhile sees a step twice, or none of it less: the new file is whole before the old ones go.
"""

import logging
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from hybridflow.broker.ledger import steps as s
from hybridflow.broker.ledger.folders import sync_folder
from hybridflow.broker.ledger.frames import frame
from hybridflow.broker.ledger.owner import Owner
from hybridflow.broker.ledger.reader import Source

__all__ = ["LEAST_BYTES", "compact"]

_log = logging.getLogger(__name__)

LEAST_BYTES = 2**20
"""Size of one broker's files from which on it is worth the trouble."""

_GAIN = 0.75


def compact(folder: Path, has_ended: Callable[[Owner], bool | None]) -> None:
    """Rewrite the files of those brokers of a ledger that have ended, where that gains much.

    A failure is said in the log: the files are then as they were.
    """
    for name, files in _by_owner(folder).items():
        try:
            if sum(file.stat().st_size for file in files) >= LEAST_BYTES:
                _compact(folder, name, files, has_ended)
        except OSError as error:
            _log.warning("the files of %s in %s stay as they are: %s", name, folder, error)


def _by_owner(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in folder.glob("*.*.log"):
        found.setdefault(file.name.rsplit(".", 2)[0], []).append(file)
    return found


def _compact(
    folder: Path, name: str, files: list[Path], has_ended: Callable[[Owner], bool | None]
) -> None:
    sources = [Source(file) for file in files]
    read = [(source, source.news()) for source in sources]
    steps = [step for _, part in sorted(read, key=lambda item: item[0].order) for step in part]
    opened = next((step for step in steps if isinstance(step, s.Opened)), None)
    damaged = any(source.damaged for source in sources)
    closed = any(source.closed for source in sources)
    if opened is None or damaged or not (closed or has_ended(opened.owner)):
        return
    data = b"".join(frame(s.encode(step)) for step in (opened, *_kept(steps), s.Closed()))
    if len(data) > _GAIN * sum(file.stat().st_size for file in files):
        return
    made = folder / f"{name}.0.log"
    _write(made, data)
    for file in files:
        if file != made:
            file.unlink(missing_ok=True)
    sync_folder(folder)


def _kept(steps: Iterable[s.Step]) -> list[s.Step]:
    steps = list(steps)
    sent = {request for step in steps if isinstance(step, s.Intended) for request in step.requests}
    claimed = {step.request for step in steps if isinstance(step, s.Claimed)}
    final = {step.tag for step in steps if isinstance(step, s.Stored | s.Voided)}

    def counts(step: s.Step) -> bool:
        match step:
            case s.Opened() | s.Closed():
                return False
            case s.Started(tag=tag) | s.Doubted(tag=tag):
                return tag not in final
            case s.Admitted() | s.Delivered() | s.Failed() | s.Cancelled():
                return step.request in sent or step.request in claimed
            case _:
                return True

    return [step for step in steps if counts(step)]


def _write(file: Path, data: bytes) -> None:
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)
