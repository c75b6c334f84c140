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

__all__ = ["definitions", "names"]

_OURS = "hybridflow"
_DEFINITIONS = "/etc/hybridflow/qpus.json"
_NAMES = "/etc/slurm/qpus.names"

_KNOWN_KEYS = {"name", "type", "environment", "is_dynamic", "allocation"}
_MAX_LINES = 1000


def definitions(s: Surroundings) -> Iterator[Finding]:
    """Whether the plugin's file of definitions is private, and holds what the plugin reads."""
    for words in _plugins(s):
        if _OURS in words[1]:
            yield from _check(Path(_setting(words, "definitions", _DEFINITIONS)), is_ours=True)
        elif "qrmi" in words[1]:
            for file in filter(lambda word: word.endswith(".json"), words[2:]):
                yield from _check(Path(file), is_ours=False)


def names(s: Surroundings) -> Iterator[Finding]:
    """Whether our plugin's list of names, which users' commands read, has the site's resources."""
    for words in _plugins(s):
        if _OURS not in words[1]:
            continue
        where = _setting(words, "names", _NAMES)
        try:
            listed = [line.split()[0] for line in _text(where) if line.strip()]
        except OSError as error:
            yield problem(
                f"the list of QPUs cannot be read: {error.strerror}; no job can be submitted with "
                "--qpu",
                where,
                "have the administrator make it anew: slots.py names",
            )
            continue
        missing = [name for name in s.site.resources if name not in listed] if s.site else []
        if missing:
            yield hint(
                f"the list of QPUs does not have {', '.join(missing)}: --qpu refuses them",
                where,
                "have the administrator make it anew: slots.py names; or correct the names in the "
                "site file",
            )


def _setting(words: list[str], key: str, default: str) -> str:
    return next((w.partition("=")[2] for w in words if w.startswith(f"{key}=")), default)


def _plugins(s: Surroundings) -> Iterator[list[str]]:
    """Return ``required|optional``, the file of a plugin and its settings, for each one named."""
    if s.slurm_answers:
        yield from _stack(Path(s.settings.get("PlugStackConfig", "")), set())


def _stack(file: Path, seen: set[Path]) -> Iterator[list[str]]:
    # A stack may include others, or itself.
    if file in seen:
        return
    seen.add(file)
    for words in _lines(file):
        if words[0] != "include":
            yield words if len(words) > 1 else [*words, ""]
            continue
        for pattern in words[1:]:
            for included in sorted(Path("/").glob(pattern.lstrip("/"))):
                yield from _stack(included, seen)


def _text(file: str) -> list[str]:
    return Path(file).read_text(errors="replace").splitlines()[:_MAX_LINES]


def _lines(file: Path) -> Iterator[list[str]]:
    try:
        lines = _text(str(file))
    except OSError:
        return  # no plugin is named there, or it is not for this user to see
    for line in lines:
        if words := line.partition("#")[0].split():
            yield words


def _check(file: Path, *, is_ours: bool) -> Iterator[Finding]:
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
        found = [str(entry["name"]) for entry in entries]
    except (ValueError, KeyError, TypeError):
        # Without the parser's words, which may quote a key.
        yield problem(
            "the definitions of resources are broken: the plugin acquires nothing",
            where,
            'write JSON: {"resources": [{"name": …, "type": …, "environment": {…}}]}',
        )
        return
    for name, count in Counter(found).items():
        if count > 1:
            yield problem(
                f"{name} is defined {count} times: the last one wins", where, "remove the others"
            )
    for entry in entries:
        yield from _entry(entry, where, is_ours)
    yield ok(f"{len(found)} resources are defined: {', '.join(found)}", where)


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
