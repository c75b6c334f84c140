"""Checks of Slurm itself: its commands, its controller, the plugin, the slots that it grants."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from hybridflow.doctor.finding import Finding, hint, ok, problem
from hybridflow.doctor.surroundings import Surroundings

__all__ = ["cli_filter", "controller", "plugin", "slots"]

_AWAY = ("DOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "MAINT", "POWERED_DOWN")


def controller(s: Surroundings) -> Iterator[Finding]:
    """Whether Slurm's commands are here, and its controller answers."""
    if s.slurm_answers:
        version = s.settings.get("SLURM_VERSION", "")
        yield ok(f"Slurm {version} answers", s.settings.get("SLURM_CONF", ""))
    elif s.wants_slurm:
        yield problem(
            f"Slurm cannot be asked: {s.unreachable}",
            s.environ.get("SLURM_CONF") or "slurmctld",
            "put Slurm's commands into PATH; see to it that slurmctld runs, and that SLURM_CONF is "
            "that of this cluster",
        )
    else:
        yield ok("no Slurm here: resources are those of the site file")


def plugin(s: Surroundings) -> Iterator[Finding]:
    """Whether a plugin gives ``--qpu`` to Slurm's commands."""
    if not s.slurm_answers:
        return
    where = s.settings.get("PlugStackConfig", "plugstack.conf")
    if "--qpu=" in s.ask("srun", "--help"):
        yield ok("a plugin is loaded that knows --qpu", where)
    else:
        yield _by_need(s)(
            "no plugin of Slurm's knows --qpu: jobs cannot ask for a QPU",
            where,
            "have the administrator install hybridflow's plugin, and name it there: "
            "required spank_hybridflow.so",
        )


def cli_filter(s: Surroundings) -> Iterator[Finding]:
    """Whether ``--qpu`` has an effect on the scheduler."""
    if not s.slurm_answers:
        return
    loaded = s.settings.get("CliFilterPlugins", "(null)")
    script = Path(s.settings.get("SLURM_CONF", "slurm.conf")).with_name("cli_filter.lua")
    if "lua" not in loaded:
        text = f"no cli_filter/lua is loaded (CliFilterPlugins={loaded})"
    elif not script.exists():
        text = f"cli_filter/lua is loaded, but {script} is not there"
    elif "qpu" not in script.read_text(errors="replace"):
        text = f"{script} says nothing of QPUs"
    else:
        yield ok("the cli_filter speaks of QPUs: it asks the scheduler for a slot", str(script))
        return
    yield (hint if _asks_for_slots(s) else _by_need(s))(
        f"{text}: --qpu alone has no effect on the scheduler, and two jobs can get one QPU",
        s.settings.get("SLURM_CONF", "slurm.conf"),
        "have the administrator install hybridflow's cli_filter.lua; until then submit with "
        "--gres=qpu:NAME:1 beside --qpu=NAME, or with [slurm.slots.NAME] in the site file",
    )


def slots(s: Surroundings) -> Iterator[Finding]:
    """Whether Slurm has slots of each resource, and a node that can give them."""
    if not s.slurm_answers or s.site is None:
        return
    for name in s.site.resources:
        nodes = [node for node in s.nodes if _has_gres(node, name)]
        total = [one.get("Total", "0") for one in s.licenses if one.get("LicenseName") == name]
        away = [node["NodeName"] for node in nodes if _is_away(node)]
        if nodes and len(away) == len(nodes):
            yield problem(
                f"no node that has slots of {name} can be used: {', '.join(away)}",
                f"scontrol show node {away[0]}",
                "wait, or tell the administrator; jobs for it stay in the queue",
            )
        elif nodes:
            names = ", ".join(node["NodeName"] for node in nodes)
            yield ok(f"slots of {name} are on {names}", "GRES")
        elif total:
            yield ok(f"slots of {name}: {total[0]} licences", "licences")
        else:
            yield _by_need(s)(
                f"Slurm has no slot of {name}: neither a GRES qpu:{name} nor a licence {name}",
                f"[qpu.{name}]",
                f"have the administrator add Gres=qpu:{name}:1 to a node, or Licenses={name}:1; or "
                "correct the name",
            )


def _asks_for_slots(s: Surroundings) -> bool:
    # The site file itself says what to ask the scheduler for, beside --qpu.
    asked = s.site.slurm.slots if s.site is not None and s.site.slurm is not None else {}
    resources = s.site.resources if s.site is not None else {}
    return all(name in asked and (asked[name].gres or asked[name].licenses) for name in resources)


def _has_gres(node: dict[str, str], name: str) -> bool:
    return re.search(rf"\bqpu:{re.escape(name)}(?![\w.-])", node.get("Gres", "")) is not None


def _is_away(node: dict[str, str]) -> bool:
    return any(word in node.get("State", "") for word in _AWAY)


def _by_need(s: Surroundings) -> Callable[[str, str, str], Finding]:
    # A Slurm that the site file does not speak of may have nothing to do with QPUs.
    return problem if s.site is not None and s.site.slurm is not None else hint
