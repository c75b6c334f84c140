"""The site file: which resources there are, and which workers. Read, checked, explained when wrong.

A site file is TOML; ``configs/laptop.toml`` documents every key. Without one, :func:`load_site`
returns the built-in laptop site: one ideal Aer simulator and a classical worker a core.
"""

import math
import os
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from hybridflow import environment
from hybridflow.backends.interpreter import located
from hybridflow.backends.registry import backend_names, backend_type
from hybridflow.component import Component, check_line, check_walltime, check_word
from hybridflow.errors import SiteError
from hybridflow.records import OnUncertain, Record, Resource
from hybridflow.route import Route

__all__ = ["Blocks", "Classical", "Site", "SlotRequest", "Slurm", "load_site"]

_T = TypeVar("_T", bound=msgspec.Struct)


class Classical(Record, frozen=True, kw_only=True):
    """The classical workers (``[classical]``).

    Attributes
    ----------
    workers
        Worker processes; 0: one a core of this machine.
    threads
        Threads that numerical libraries may use in each worker.
    """

    workers: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.workers < 0 or self.threads < 1:
            raise ValueError("`workers` must be at least 0 and `threads` at least 1")

    @property
    def worker_count(self) -> int:
        """Number of worker processes, with 0 resolved."""
        return self.workers or len(os.sched_getaffinity(0))


class SlotRequest(Record, frozen=True, kw_only=True):
    """How a job asks Slurm for a slot of a resource (``[slurm.slots.NAME]``).

    Attributes
    ----------
    qpu
        Whether by the plugin's option ``--qpu=NAME``.
    gres, licenses
        What to ask for beside it, or instead of it, in Slurm's words: ``"qpu:NAME:1"``. Needed
        where no ``cli_filter`` of the site adds it to ``--qpu``.
    """

    qpu: bool = True
    gres: str | None = None
    licenses: str | None = None

    def __post_init__(self) -> None:
        check_word("gres", self.gres)
        check_word("licenses", self.licenses)
        if not (self.qpu or self.gres or self.licenses):
            raise ValueError("without `qpu`, one of `gres` and `licenses` must be given")


class Blocks(Record, frozen=True, kw_only=True):
    """How a workflow that runs outside a Slurm job gets its workers (``[slurm.blocks]``).

    A block is a job of workers, or a component of one.

    Attributes
    ----------
    kind
        ``"elastic"``: quantum and classical workers are jobs of their own, which come and go as
        they are needed. ``"coscheduled"``: they are the two components of one job, which holds its
        slot to the end.
    idle
        Elastic: seconds without a waiting or running quantum task after which a QPU block is given
        back, so that another job gets the slot.
    quantum, classical
        Elastic: least and most blocks of each kind.
    address
        Address of the workflow's machine by which the nodes can reach it; found if not given.
    """

    kind: Literal["elastic", "coscheduled"]
    idle: float = 30.0
    quantum: tuple[int, int] = (0, 1)
    classical: tuple[int, int] = (0, 1)
    address: str | None = None

    def __post_init__(self) -> None:
        check_word("address", self.address)
        if not self.idle >= 0:
            raise ValueError("`idle` must be a number of seconds, at least 0")
        for name, (least, most) in (("quantum", self.quantum), ("classical", self.classical)):
            if not 0 <= least <= most or most < 1:
                raise ValueError(f"`{name}` must be the least and the most blocks, such as [0, 1]")
            if self.kind == "coscheduled" and most > 1:
                raise ValueError(f"`{name}`: co-scheduled blocks are one of each kind, in one job")


class Slurm(Record, frozen=True, kw_only=True):
    """What jobs of a site ask Slurm for (``[slurm]``).

    Attributes
    ----------
    account, qos, walltime
        Of both components, where their own tables do not say.
    modules, setup
        Environment modules to load, and lines of shell to run, before a job's command.
    quantum
        The component that holds the QPU slot (``[slurm.quantum]``): one node.
    classical
        The component of the classical workers (``[slurm.classical]``).
    slots
        How slots are asked for, by name of the resource.
    blocks
        Where workers come from outside a job; None: from this machine.
    """

    account: str | None = None
    qos: str | None = None
    walltime: str | None = None
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    quantum: Component = Component()
    classical: Component = Component()
    slots: dict[str, SlotRequest] = msgspec.field(default_factory=dict)
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        for name, value in (("account", self.account), ("qos", self.qos)):
            check_word(name, value)
        check_walltime(self.walltime)
        for module in self.modules:
            check_word("modules", module)
        for line in self.setup:
            check_line("setup", line)
        if self.quantum.nodes != 1:
            raise ValueError("`quantum.nodes` must be 1: a slot is on one node")

    def for_quantum(self, *resources: str) -> Component:
        """Return the component that holds a slot of each of these resources."""
        slots = {name: self.slots.get(name, SlotRequest()) for name in resources}
        return msgspec.structs.replace(
            self._with_defaults(self.quantum),
            qpu=(*self.quantum.qpu, *(name for name, slot in slots.items() if slot.qpu)),
            gres=(*self.quantum.gres, *(slot.gres for slot in slots.values() if slot.gres)),
            licenses=(
                *self.quantum.licenses,
                *(slot.licenses for slot in slots.values() if slot.licenses),
            ),
        )

    def for_classical(self, nodes: int | None = None) -> Component:
        """Return the component of the classical workers, with a number of nodes."""
        chosen = self._with_defaults(self.classical)
        return msgspec.structs.replace(chosen, nodes=nodes or chosen.nodes)

    def _with_defaults(self, component: Component) -> Component:
        return msgspec.structs.replace(
            component,
            account=component.account or self.account,
            qos=component.qos or self.qos,
            walltime=component.walltime or self.walltime,
        )


class Site(Record, frozen=True, kw_only=True):
    """A site file, checked.

    Attributes
    ----------
    name
        Name of the site, for people.
    path
        Absolute path of the file; None for the built-in site.
    default
        Name of the resource, or of the route, that is used when none is named.
    resources
        All resources by name.
    routes
        All routes by name.
    classical
        The classical workers.
    slurm
        What jobs ask Slurm for; None if the file does not say.
    """

    name: str
    path: str | None
    default: str
    resources: dict[str, Resource]
    classical: Classical
    slurm: Slurm | None = None
    routes: dict[str, Route] = msgspec.field(default_factory=dict)

    def resource(self, name: str | None = None) -> Resource:
        """Return a resource by name, or the default one.

        Raises
        ------
        SiteError
            If the site has no such resource, or if the name is that of a route.
        """
        wanted = name or self.default
        if wanted in self.routes:
            raise SiteError(
                f"{wanted!r} is a route of site {self.name!r} ({self.path or 'built in'}): here "
                f"one of its resources must be named: {', '.join(self.routes[wanted].resources)}"
            )
        if wanted not in self.resources:
            routes = f"; its routes: {', '.join(self.routes)}" if self.routes else ""
            raise SiteError(
                f"site {self.name!r} ({self.path or 'built in'}) has no resource {wanted!r}; "
                f"it has: {', '.join(self.resources)}{routes}"
            )
        return self.resources[wanted]

    def route(self, name: str | None = None) -> Route | None:
        """Return a route by name, or the default one; None if there is no route of that name."""
        return self.routes.get(name or self.default)

    def tasks_per_slot(self, name: str | None = None) -> int:
        """Return how many quantum tasks may use a resource, or all of a route, at a time.

        Raises
        ------
        SiteError
            If the site has neither.
        """
        route = self.route(name)
        names = [name] if route is None else route.any_of
        return sum(self.resource(each).tasks_per_slot for each in names)


class _Qpu(msgspec.Struct, frozen=True):
    # The keys that every [qpu.NAME] table may have; all others are the backend's own.
    backend: str
    tasks_per_slot: int = 16
    max_in_flight: int = 1
    batch_seconds: float = 60.0
    budget_seconds: float | None = None
    on_uncertain: OnUncertain = "ask"
    interpreter: str | None = None

    def __post_init__(self) -> None:
        if self.interpreter == "":
            raise ValueError("`interpreter` is a path, and must not be empty")
        if self.tasks_per_slot < 1 or self.max_in_flight < 1:
            raise ValueError("`tasks_per_slot` and `max_in_flight` must be at least 1")
        if not 0 < self.batch_seconds < math.inf:
            raise ValueError(f"`batch_seconds` must be more than 0, not {self.batch_seconds}")
        if self.budget_seconds is not None and not 0 <= self.budget_seconds < math.inf:
            raise ValueError(f"`budget_seconds` must be at least 0, not {self.budget_seconds}")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    qpu: dict[str, dict[str, Any]]
    route: dict[str, dict[str, Any]] = {}
    name: str | None = None
    default: str | None = None
    classical: Classical = Classical()
    slurm: Slurm | None = None


def load_site(path: str | os.PathLike[str] | None = None) -> Site:
    """Read and check a site file.

    Parameters
    ----------
    path
        The file; without it, what ``HYBRIDFLOW_SITE`` names; without that, the built-in site.

    Raises
    ------
    SiteError
        If the file cannot be read or says something wrong; names the file, the key and what is
        allowed.
    """
    chosen = path or os.environ.get(environment.SITE)
    if not chosen:
        return Site(
            name="laptop (built in)",
            path=None,
            default="aer",
            resources={"aer": Resource(name="aer", backend="aer")},
            classical=Classical(),
        )
    file = Path(chosen).absolute()
    raw = _parse(file)
    checked = _convert(raw, _File, file, ())
    if not checked.qpu:
        raise SiteError(f"{file}: there is no resource; add a table like [qpu.aer]")
    resources = {name: _resource(name, table, file) for name, table in checked.qpu.items()}
    routes = {name: _route(name, table, resources, file) for name, table in checked.route.items()}
    default = checked.default or next(iter(resources))
    if default not in resources | routes:
        raise SiteError(
            f"{file}: key `default` names {default!r}; allowed are: "
            f"{', '.join([*resources, *routes])}"
        )
    _check_slots(checked.slurm, resources, file)
    return Site(
        name=checked.name or file.stem,
        path=str(file),
        default=default,
        resources=resources,
        classical=checked.classical,
        slurm=checked.slurm,
        routes=routes,
    )


def _route(name: str, table: dict[str, Any], resources: dict[str, Resource], file: Path) -> Route:
    _check_name("route", name, file)
    route = _convert({"name": name, **table}, Route, file, ("route", name))
    place = f"{file}: [route.{name}]"
    if route.name != name:
        raise SiteError(f"{place}: unknown key `name`: the route's name stands in its heading")
    if name in resources:
        raise SiteError(f"{place}: there is a resource of that name, too: rename one of them")
    if not route.any_of:
        raise SiteError(f"{place}: `any_of` must name at least one resource")
    if route.max_wait is not None and route.fall_back is None:
        raise SiteError(f"{place}: with `max_wait`, `fall_back` must say where to go instead")
    for each in route.resources:
        if each not in resources:
            raise SiteError(
                f"{place} names {each!r}, which is no resource (nor can a route lead to a route); "
                f"allowed are: {', '.join(resources)}"
            )
    return route


def _check_name(kind: str, name: str, file: Path) -> None:
    if not name.replace("_", "").replace("-", "").replace(".", "").isalnum():
        raise SiteError(f"{file}: [{kind}.{name}]: a name has letters, digits, and `_-.` only")


def _check_slots(slurm: Slurm | None, resources: dict[str, Resource], file: Path) -> None:
    for name in slurm.slots if slurm else ():
        if name not in resources:
            raise SiteError(
                f"{file}: [slurm.slots.{name}]: there is no resource {name!r}; allowed are: "
                f"{', '.join(resources)}"
            )


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SiteError(f"the site file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteError(f"{file} is not valid TOML: {error}") from error


def _resource(name: str, table: dict[str, Any], file: Path) -> Resource:
    place = ("qpu", name)
    _check_name("qpu", name, file)
    common_keys = set(_Qpu.__struct_fields__)
    common = _convert({k: v for k, v in table.items() if k in common_keys}, _Qpu, file, place)
    own = {key: value for key, value in table.items() if key not in common_keys}
    options = _options(common, own, file, place)
    fields = msgspec.structs.asdict(common)
    if common.interpreter is not None:
        fields["interpreter"] = str(located(common.interpreter, file.parent))
    return Resource(name=name, options=options, **fields)


def _options(
    common: _Qpu, own: dict[str, Any], file: Path, place: tuple[str, ...]
) -> dict[str, Any]:
    if common.interpreter is not None and common.backend not in backend_names():
        # Only that interpreter knows it: it says what is wrong when the backend is opened. Not now:
        # a site file is read often, and where other resources of it are used.
        return own
    try:
        kind = backend_type(common.backend)
    except SiteError as error:
        raise SiteError(f"{file}: key `{'.'.join(place)}.backend`: {error}") from error
    _refuse_unknown(own, kind.Options, file, place, extra=set(_Qpu.__struct_fields__))
    checked: dict[str, Any] = msgspec.to_builtins(_convert(own, kind.Options, file, place))
    return checked


def _refuse_unknown(
    table: dict[str, Any],
    kind: type[msgspec.Struct],
    file: Path,
    place: tuple[str, ...],
    extra: set[str] | None = None,
) -> None:
    allowed = set(kind.__struct_fields__) | (extra or set())
    for key in table:
        if key not in allowed:
            raise SiteError(
                f"{file}: unknown key `{'.'.join((*place, key))}`; "
                f"allowed here: {', '.join(sorted(allowed))}"
            )


def _convert(table: dict[str, Any], kind: type[_T], file: Path, place: tuple[str, ...]) -> _T:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        # msgspec ends its message with "- at `$.a.b`"; a top-level fault has no such end.
        text, _, inner = str(error).partition(" - at `$")
        inner = inner.strip("`").replace("[...]", "[NAME]")  # which one, msgspec does not say
        path = [*filter(None, inner.split("."))]
        key = ".".join((*place, *path))
        where = f"key `{key}`: " if key else ""
        raise SiteError(f"{file}: {where}{_in_toml(text)}{_allowed(text, kind, path)}") from error


def _in_toml(text: str) -> str:
    """Return msgspec's text in the words of a TOML file."""
    return text.replace("Object contains unknown field", "unknown key").replace("object", "table")


def _allowed(text: str, kind: type[msgspec.Struct], path: list[str]) -> str:
    if "unknown field" in text:
        allowed = _kind_at(kind, path).__struct_fields__
        return f" (allowed here: {', '.join(sorted(allowed))})"
    if "enum value" in text and path:
        values = _literals(get_type_hints(_kind_at(kind, path[:-1]))[path[-1]])
        return f" (allowed are: {', '.join(map(repr, values))})"
    return ""


def _kind_at(kind: type[msgspec.Struct], path: list[str]) -> type[msgspec.Struct]:
    # The type of a table inside another one.
    for key in path:
        name = key.partition("[")[0]
        hints = [hint for hint in _parts(get_type_hints(kind)[name]) if isinstance(hint, type)]
        kind = next(hint for hint in hints if issubclass(hint, msgspec.Struct))
    return kind


def _parts(hint: Any) -> list[Any]:
    return [hint, *(part for inner in get_args(hint) for part in _parts(inner))]


def _literals(hint: Any) -> list[Any]:
    # The values of a Literal, also of one that may be None.
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return list(parts)
    return [value for part in parts for value in _literals(part)]
