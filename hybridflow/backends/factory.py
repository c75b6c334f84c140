"""Makes the backend of a resource, in this process or in one of its own, and keeps its targets.

A target's snapshot is worth keeping: making one of a fake device imports its whole package. The
cache is keyed by the resource's definition and the versions of the packages that made it.
"""

import contextlib
import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from hybridflow import environment, wire
from hybridflow.backends.base import Backend, BackendType
from hybridflow.backends.discreet import discreet
from hybridflow.backends.registry import backend_type
from hybridflow.errors import RequestError, SiteError
from hybridflow.records import Resource, TargetSnapshot

__all__ = ["make_backend", "open_backend", "target_snapshot"]

_PACKAGES = ("hybridflow", "qiskit", "qiskit-aer", "qiskit-ibm-runtime")
_KEPT_SECONDS = 60.0


def open_backend(resource: Resource, credentials: Mapping[str, str]) -> Backend:
    """Return the backend of a resource, not yet acquired.

    Parameters
    ----------
    resource
        The resource.
    credentials
        Its credentials, by key.

    Returns
    -------
    Backend
        The backend itself, or a :class:`~hybridflow.backends.process.BackendProcess` where its
        type says that it needs a process of its own, or the resource an interpreter.

    Raises
    ------
    SiteError
        If there is no such type of backend, or its options are wrong. A resource with an
        interpreter is not looked at before it is used: only there its type need be installed.
    """
    if resource.interpreter is not None or backend_type(resource.backend).own_process:
        from hybridflow.backends.process import BackendProcess

        return BackendProcess(resource, credentials)
    return make_backend(resource, credentials)


def make_backend(resource: Resource, credentials: Mapping[str, str]) -> Backend:
    """Return the backend of a resource, in this process whatever its type says.

    Raises
    ------
    SiteError
        If there is no such type of backend, or its options are wrong.
    """
    kind = backend_type(resource.backend)
    try:
        options = msgspec.convert(resource.options, kind.Options)
    except msgspec.ValidationError as error:
        raise SiteError(
            f"resource {resource.name!r}: the options of its backend {resource.backend!r} are "
            f"wrong: {error}"
        ) from error
    return kind(resource.name, options, credentials)


def target_snapshot(resource: Resource) -> TargetSnapshot:
    """Return a resource's target, without a slot: from the cache, or from its type of backend.

    Only the targets that a resource's definition decides are kept (``fixed_target``); a service is
    asked each time, with the credentials that stand in the environment (a laptop's; no worker has
    any). One that has to be asked in a process of its own is kept here for a minute.

    Raises
    ------
    SiteError
        If the resource is defined wrongly.
    MissingExtraError
        If a package that knows the target is not installed.
    """
    if resource.interpreter is not None or _is_vendors(backend_type(resource.backend)):
        return _elsewhere(wire.encode(resource), int(time.monotonic() / _KEPT_SECONDS))
    if not backend_type(resource.backend).fixed_target:
        keys = environment.credentials(os.environ, resource.name)
        return discreet(make_backend(resource, keys), keys).target()
    return _snapshot(wire.encode(resource))


def _is_vendors(kind: BackendType) -> bool:
    # Code that is not let into the broker is not let into the user's process, either.
    return kind.own_process and not kind.fixed_target


@functools.lru_cache(maxsize=32)
def _elsewhere(definition: bytes, _when: int) -> TargetSnapshot:
    resource = wire.decode(definition, Resource)
    keys = environment.credentials(os.environ, resource.name)
    backend = discreet(open_backend(resource, keys), keys)
    try:
        return backend.target()
    finally:
        backend.release()


@functools.lru_cache(maxsize=32)
def _snapshot(definition: bytes) -> TargetSnapshot:
    resource = wire.decode(definition, Resource)
    file = _folder() / f"{_digest(resource)}.msgpack"
    kept = _read(file)
    if kept is None:
        kept = make_backend(resource, {}).target()
        _write(file, wire.encode(kept))
    return kept


def _folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("hybridflow") / "targets"


def _digest(resource: Resource) -> str:
    # The name and the sharing of a slot do not change a target.
    definition = wire.encode(
        [resource.backend, sorted(resource.options.items()), list(_versions())]
    )
    return hashlib.blake2b(definition, digest_size=16).hexdigest()


def _versions() -> Iterator[str]:
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} -"


def _read(file: Path) -> TargetSnapshot | None:
    try:
        return wire.decode(file.read_bytes(), TargetSnapshot)
    except (OSError, RequestError):
        return None  # not there, or written by another version: it is made again


def _write(file: Path, data: bytes) -> None:
    # A cache that cannot be written (a full disk, a read-only home) must not stop anybody.
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        os.replace(name, file)
