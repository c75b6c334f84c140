"""Finds the slot: the one this process is in, or the one that it may enter through the door.

A process is *in* a slot when ``HYBRIDFLOW_BROKER`` names the slot's folder, made by the door:
a socket for each resource, and ``slots.json``, which says what they are. Which slot may be entered
depends on where it is asked: outside Slurm any resource of the site file, inside a Slurm job only
those that the plugin has acquired for it, or, where the site file says that no plugin grants them,
those that the job's allocation holds.

With the name of a route (``route.py``) all of its resources that are there are meant: the door
opens a slot and a broker for each, and who asks chooses among them for each request.
"""

import functools
import os
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path

import msgspec

from hybridflow import environment
from hybridflow.broker.base import Connection
from hybridflow.broker.place import socket_path
from hybridflow.errors import NoSlotError
from hybridflow.granted import granted, granted_of
from hybridflow.grants import Grant
from hybridflow.records import Record
from hybridflow.route import Route
from hybridflow.site import Site, load_site

__all__ = [
    "Origin",
    "Slot",
    "close_all",
    "connect",
    "current_slot",
    "default_site",
    "find_slot",
    "find_slots",
    "is_here",
    "route_here",
    "use_site",
    "write_slots",
]


class Origin(StrEnum):
    """Who granted a slot."""

    SITE = "site"
    SLURM = "slurm"


class Slot(Record, frozen=True, kw_only=True):
    """The right to use a resource.

    Attributes
    ----------
    resource
        Name of the resource.
    backend
        Type of its backend.
    origin
        Who granted it: Slurm, or (outside Slurm) the site file.
    folder
        Folder of the broker's sockets; None before the door was passed.
    type
        The resource's type as Slurm's plugin says it; empty where it does not.
    slots
        Slots of the resource that the Slurm job holds.
    token
        Whether Slurm's plugin has acquired the resource with a token, which is used and not
        released. Its value is a credential: only the broker has it.
    deadline
        Unix time at which the Slurm job ends at the latest; None before the door was passed, and
        where there is no limit.
    route
        The route by which it was entered, with slots of the route's other resources beside it; None
        if it was asked for by the resource's name.
    """

    resource: str
    backend: str
    origin: Origin
    folder: str | None = None
    type: str = ""
    slots: int = 1
    token: bool = False
    deadline: float | None = None
    route: Route | None = None


# --- the slot that this process is in ------------------------------------------------------------


def current_slot(environ: Mapping[str, str] = os.environ) -> Slot | None:
    """Return the slot that this process is in; None if it is in none.

    Where the door was passed by a route there are several: this is the first.

    Raises
    ------
    NoSlotError
        If ``HYBRIDFLOW_BROKER`` names a folder that is no slot's.
    """
    folder = environ.get(environment.BROKER)
    return _slots_in(Path(folder))[0] if folder else None


def is_here(resource: str | None) -> bool:
    """Whether this process is in a slot of a resource; None: in any."""
    folder = os.environ.get(environment.BROKER)
    if not folder:
        return False
    return any(resource in (None, slot.resource) for slot in _slots_in(Path(folder)))


def route_here(name: str | None = None) -> Route | None:
    """Return the route that a name stands for in this process; None if it stands for a resource.

    In a slot, what is left of the route: the resources that can be had there.

    Parameters
    ----------
    name
        The name; without it, the slot's own route or resource, or the site's default.

    Raises
    ------
    NoSlotError
        If this is a slot, and none of the route's resources can be had in it.
    """
    folder = os.environ.get(environment.BROKER)
    if folder:
        return _route_in(folder, name)
    if environment.in_slurm_job(os.environ) or environment.in_engine_worker(os.environ):
        return None  # whoever connects is told that there is no slot
    return default_site().route(name)


@functools.lru_cache(maxsize=16)
def _route_in(folder: str, name: str | None) -> Route | None:
    # Asked for in each call of a primitive, and written once in a folder's life.
    if not _index(Path(folder)).exists():
        return None
    slots = _slots_in(Path(folder))
    names = frozenset(slot.resource for slot in slots)
    route = slots[0].route
    if name is not None and (route is None or route.name != name):
        route = None if name in names else default_site().route(name)
    if route is None:
        return None
    left = route.within(names)
    if not left.resources:
        raise NoSlotError(_not_here(slots, route.name), resource=route.name)
    return left


def write_slots(slots: Sequence[Slot], folder: Path) -> None:
    """Write down what a broker's folder is for; the door does this, and nobody else."""
    descriptor = os.open(_index(folder), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(slots))


def _slots_in(folder: Path) -> list[Slot]:
    try:
        slots = msgspec.json.decode(_index(folder).read_bytes(), type=list[Slot])
        return [msgspec.structs.replace(slot, folder=str(folder)) for slot in slots]
    except (OSError, msgspec.DecodeError) as error:
        raise NoSlotError(
            f"{environment.BROKER} names {folder}, which is no slot's folder (any more): {error}; "
            "start the program with `hybridflow slot run -- COMMAND`"
        ) from error


def _index(folder: Path) -> Path:
    return folder / "slots.json"


# --- the slot that may be entered ----------------------------------------------------------------


def find_slot(
    site: Site, resource: str | None = None, environ: Mapping[str, str] = os.environ
) -> Slot:
    """Return the slot that a command started here may use.

    Inside a slot that is this same slot; inside a Slurm job a resource that the plugin acquired, or
    that the job's allocation holds where the site file says ``qpu = false``; elsewhere a resource
    of the site.

    Parameters
    ----------
    site
        Where resources are defined.
    resource
        Name of the resource; without it, the only one there is, or the site's default.
    environ
        The variables to look at.

    Raises
    ------
    NoSlotError
        If there is no slot of such a resource here; says how to get one.
    SiteError
        If the site does not define the resource, or defines it as something else than Slurm does.
    SlurmError
        If Slurm had to be asked what the job holds, and did not say.
    """
    folder = environ.get(environment.BROKER)
    if folder:
        return _inside(Path(folder), resource)
    if not environment.in_slurm_job(environ):
        return _of_site(site, site.resource(resource).name)
    return _of_slurm(site, granted(site, resource, environ))


def find_slots(
    site: Site, name: str | None = None, environ: Mapping[str, str] = os.environ
) -> list[Slot]:
    """Return the slots that a command started here may use: a resource's, or all of a route.

    Inside a Slurm job, of the route's resources those that the job was granted. The one to fall
    back to needs no grant where it is a simulator that runs on this very machine.

    Parameters
    ----------
    site, environ
        As for :func:`find_slot`.
    name
        Name of the route or the resource.

    Raises
    ------
    NoSlotError, SiteError, SlurmError
        As :func:`find_slot`; of a route, if none of its resources can be had.
    """
    folder = environ.get(environment.BROKER)
    if folder:
        slot = _inside(Path(folder), name)
        entered = slot.route is not None and name in (None, slot.route.name)
        return _slots_in(Path(folder)) if entered else [slot]
    route = site.route(name)
    if route is None:
        return [find_slot(site, name, environ)]
    if not environment.in_slurm_job(environ):
        found = [_of_site(site, each) for each in route.resources]
    else:
        found = [_of_slurm(site, grant) for grant in granted_of(site, route, environ)]
        names = [slot.resource for slot in found]
        spare = route.fall_back
        if spare and spare not in names and site.resource(spare).backend in _SIMULATORS:
            found.append(_of_site(site, spare))
    return [msgspec.structs.replace(slot, route=route) for slot in found]


_SIMULATORS = ("aer", "fake")
"""Backends that need nothing of the site's: what they run on is the node that the job has."""


def _of_site(site: Site, name: str) -> Slot:
    return Slot(resource=name, backend=site.resource(name).backend, origin=Origin.SITE)


def _of_slurm(site: Site, grant: Grant) -> Slot:
    return Slot(
        resource=grant.name,
        backend=site.resource(grant.name).backend,
        origin=Origin.SLURM,
        type=grant.type,
        slots=grant.slots,
        token=grant.token,
    )


def _inside(folder: Path, name: str | None) -> Slot:
    slots = _slots_in(folder)
    for slot in slots:
        if name in (None, slot.resource) or (slot.route and slot.route.name == name):
            return slot
    raise NoSlotError(_not_here(slots, name), resource=name)


def _not_here(slots: Sequence[Slot], name: str | None) -> str:
    return (
        f"this process is inside the slot of {', '.join(repr(slot.resource) for slot in slots)}, "
        f"where {name!r} cannot be had: start `hybridflow slot run --resource {name}` outside it"
    )


# --- the way to the broker -----------------------------------------------------------------------

_embedded: dict[bytes, Connection] = {}
_site_here: ContextVar[Site | None] = ContextVar("hybridflow_site", default=None)
_lock = threading.Lock()


def use_site(site: Site) -> None:
    """Make `site` the default one of this thread, in place of ``HYBRIDFLOW_SITE``."""
    _site_here.set(site)


def default_site() -> Site:
    """Return the site that resources are looked up in where none is named."""
    return _site_here.get() or load_site()


def connect(resource: str | None = None) -> Connection:
    """Return the broker of the slot that this process is in.

    In a plain program outside Slurm and outside any engine's worker there need be no slot: the
    broker then lives in this process (one for each resource, closed when the process ends).

    Parameters
    ----------
    resource
        Name of the resource; without it, the slot's own, or the site's default.

    Raises
    ------
    NoSlotError
        If there is no slot here and a broker inside this process would be a silent simulation.
    SiteError
        If the site does not define the resource.
    AcquireError
        If the resource could not be acquired.
    """
    folder = os.environ.get(environment.BROKER)
    if folder:
        from hybridflow.broker import client

        return client.connect(_socket_in(folder, resource))
    if environment.in_slurm_job(os.environ) or environment.in_engine_worker(os.environ):
        raise NoSlotError(
            "there is no QPU slot in this process, and simulating in its place would be a lie: "
            "run quantum tasks on the engine's QPU workers (mark them with "
            "`hybridflow.quantum_task`), and programs with `hybridflow slot run -- COMMAND`",
            resource=resource,
        )
    return _embed(default_site(), resource)


def _socket_in(folder: str, resource: str | None) -> Path:
    try:
        return _known_socket(folder, resource)
    except NoSlotError:
        # A folder that no door has written to (a test's, say) has nothing to check against.
        if Path(folder).is_dir() and not _index(Path(folder)).exists():
            return socket_path(folder, resource or default_site().default)
        raise


@functools.lru_cache(maxsize=16)
def _known_socket(folder: str, resource: str | None) -> Path:
    # Asked for in each call of a primitive, and written once in a folder's life.
    return socket_path(folder, _inside(Path(folder), resource).resource)


def _embed(site: Site, name: str | None) -> Connection:
    resource = site.resource(name)
    # Two sites may give one name to different resources; a broker belongs to one run.
    run = os.environ.get(environment.RUN), environment.session(os.environ)
    key = msgspec.json.encode([resource, run])
    from hybridflow.broker.embedded import EmbeddedBroker

    with _lock:
        if key not in _embedded:
            credentials = environment.credentials(os.environ, resource.name)
            _embedded[key] = EmbeddedBroker(resource, credentials)
        return _embedded[key]


def close_all() -> None:
    """Close the brokers inside this process; the next :func:`connect` makes a new one."""
    while _embedded:
        _embedded.popitem()[1].close()


def _renew_lock() -> None:
    # Another thread may have held it when this process was forked. The brokers look after
    # themselves: in a forked child they acquire anew.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)
