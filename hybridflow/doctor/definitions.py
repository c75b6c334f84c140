"""Checks of the plugin's definitions of resources, where this user may read them at all."""

import json
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybridflow import environment
from hybridflow.doctor.finding import Finding, hint, ok, problem
from hybridflow.doctor.surroundings import Surroundings

__all__ = ["definitions"]

_KNOWN_KEYS = {"name", "type", "environment", "is_dynamic", "allocation"}
_MAX_LINES = 1000


def definitions(s: Surroundings) -> Iterator[Finding]:
    """Whether the plugin's file of definitions is private, and holds what the plugin reads."""
    if not s.slurm_answers:
        return
    stack = Path(s.settings.get("PlugStackConfig", ""))
    for file, is_ours in _files(stack, set()):
        yield from _check(file, is_ours)


def _files(stack: Path, seen: set[Path]) -> Iterator[tuple[Path, bool]]:
    # Whether a file is that of our plugin comes with it. A stack may include others, or itself.
    if stack in seen:
        return
    seen.add(stack)
    for words in _lines(stack):
        plugin = next((word for word in words[:2] if word.endswith(".so")), "")
        if words[0] == "include":
            for pattern in words[1:]:
                for file in sorted(Path("/").glob(pattern.lstrip("/"))):
                    yield from _files(file, seen)
        elif "hybridflow" in plugin:
            named = [word.partition("=")[2] for word in words if word.startswith("definitions=")]
            yield Path(named[0] if named else "/etc/hybridflow/qpus.json"), True
        elif "qrmi" in plugin:
            yield from ((Path(word), False) for word in words if word.endswith(".json"))


def _lines(file: Path) -> Iterator[list[str]]:
    try:
        lines = file.read_text(errors="replace").splitlines()[:_MAX_LINES]
    except OSError:
        return  # no plugin is named there, or it is not for this user to see
    for line in lines:
        if words := line.partition("#")[0].split():
            yield words


def _check(file: Path, is_ours: bool) -> Iterator[Finding]:
    where = str(file)
    try:
        mode = file.stat().st_mode
        data = file.read_bytes()
    except PermissionError:
        yield ok("the definitions of resources are not for everybody to read", where)
        return
    except OSError as error:
        yield problem(
            f"the definitions of resources cannot be read: {error.strerror}",
            where,
            "tell the administrator: the plugin acquires nothing without them",
        )
        return
    if stat.S_IMODE(mode) & 0o077:
        yield problem(
            f"others than its owner can read the definitions of resources (mode "
            f"{stat.S_IMODE(mode):04o}), and the keys in them",
            where,
            f"chown root {file}; chmod 0600 {file}; and have the keys replaced",
        )
    yield from _content(data, where, is_ours)


def _content(data: bytes, where: str, is_ours: bool) -> Iterator[Finding]:
    try:
        entries = json.loads(data)["resources"]
        names = [str(entry["name"]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        # Without the parser's words, which may quote a key.
        yield problem(
            "the definitions of resources are broken: the plugin acquires nothing",
            where,
            'write JSON: {"resources": [{"name": …, "type": …, "environment": {…}}]}',
        )
        return
    for name, count in Counter(names).items():
        if count > 1:
            yield problem(
                f"{name} is defined {count} times: the last one wins", where, "remove the others"
            )
    for entry in entries:
        yield from _entry(entry, where, is_ours)
    yield ok(f"{len(names)} resources are defined: {', '.join(names)}", where)


def _entry(entry: dict[str, Any], where: str, is_ours: bool) -> Iterator[Finding]:
    known = (*environment.VENDOR_TYPES, *(environment.LOCAL_TYPES if is_ours else ()))
    if entry.get("type") not in known:
        yield problem(
            f"{entry['name']} has the type {entry.get('type')!r}, which the plugin does not know: "
            "it refuses the whole file",
            where,
            f"correct it; there are: {', '.join(known)}",
        )
    unknown = sorted(entry.keys() - _KNOWN_KEYS)
    if unknown:
        yield hint(
            f"{entry['name']} has keys that no plugin reads: {', '.join(unknown)}",
            where,
            "correct them, or leave them as remarks",
        )
