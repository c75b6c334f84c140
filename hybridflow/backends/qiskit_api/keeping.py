"""Batches on disk, so that the results of a job can be read by another process than its own.

Counts do not say what they are of: which circuit belongs to which PUB, and which classical bit to
which register. So a batch is written down before its id is told, in the user's state folder, for
:data:`KEPT_DAYS`; it holds circuits, and no credential.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import msgspec

from hybridflow import wire
from hybridflow.errors import RequestError, ResourceError
from hybridflow.records import Batch

__all__ = ["keep", "kept", "prune", "retriever"]

KEPT_DAYS = 14
_log = logging.getLogger(__name__)


class _Kept(msgspec.Struct, frozen=True):
    # Another Qiskit may measure an estimator's observables in another order.
    qiskit: str
    batch: Batch


def keep(resource: str, job_id: str, batch: Batch) -> None:
    """Write a batch down; where that cannot be done, its job cannot be read after this process."""
    import qiskit

    data = zlib.compress(wire.encode(_Kept(str(qiskit.__version__), batch)), 1)
    file = _file(resource, job_id)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        os.replace(name, file)
    except OSError as error:
        _log.warning("job %s cannot be read by another process: %s: %s", job_id, file, error)


def kept(resource: str, job_id: str) -> Batch:
    """Return the batch of a job that was started by another process.

    Raises
    ------
    ResourceError
        If it is not known here.
    """
    import qiskit

    try:
        data = zlib.decompress(_file(resource, job_id).read_bytes())
        found = wire.decode(data, _Kept)
    except (OSError, zlib.error, RequestError) as error:
        raise ResourceError(
            f"{resource} cannot tell what job {job_id!r} is of: it was not started by this user "
            f"in the last {KEPT_DAYS} days ({error})",
            resource=resource,
            vendor_job_id=job_id,
        ) from error
    if found.qiskit != qiskit.__version__:
        raise ResourceError(
            f"job {job_id} of {resource} was started with Qiskit {found.qiskit}, and this is "
            f"{qiskit.__version__}: its results can only be read with the former",
            resource=resource,
            vendor_job_id=job_id,
        )
    return found.batch


def prune() -> None:
    """Remove what is too old."""
    oldest = time.time() - KEPT_DAYS * 86400
    with contextlib.suppress(OSError):  # no folder, or another process was quicker
        for file in _folder().iterdir():
            if file.stat().st_mtime < oldest:
                file.unlink(missing_ok=True)


def _folder() -> Path:
    import platformdirs

    return platformdirs.user_state_path("hybridflow") / "jobs"


def _file(resource: str, job_id: str) -> Path:
    name = hashlib.blake2b(wire.encode([resource, job_id]), digest_size=16).hexdigest()
    return _folder() / f"{name}.msgpack.z"


def retriever(device: Any) -> Any:
    """Return what gives a device's jobs by their ids; None if nothing does."""
    provider = getattr(device, "provider", None)
    for holder, name in ((device, "retrieve_job"), (provider, "retrieve_job"), (provider, "job")):
        found = getattr(holder, name, None)
        if callable(found):
            return found
    return None
