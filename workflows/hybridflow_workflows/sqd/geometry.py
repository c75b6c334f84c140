"""Where the atoms are: molecules known by name, and xyz files. Lengths in angstrom."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hybridflow.errors import InputError

__all__ = ["MOLECULES", "Atom", "named_geometry", "read_xyz"]

Atom = tuple[str, tuple[float, float, float]]
"""An element's symbol and its position in angstrom."""


@dataclass(frozen=True)
class _Shape:
    # A family of geometries: how the atoms stand for a bond length and, if it bends, an angle.
    bond: float
    build: Callable[[float, float], tuple[Atom, ...]]
    angle: float | None = None


def _chain(*symbols: str) -> Callable[[float, float], tuple[Atom, ...]]:
    def build(bond: float, _angle: float) -> tuple[Atom, ...]:
        return tuple((symbol, (0.0, 0.0, k * bond)) for k, symbol in enumerate(symbols))

    return build


def _water(bond: float, angle: float) -> tuple[Atom, ...]:
    bend = math.radians(angle)
    return (
        ("O", (0.0, 0.0, 0.0)),
        ("H", (bond, 0.0, 0.0)),
        ("H", (bond * math.cos(bend), bond * math.sin(bend), 0.0)),
    )


MOLECULES = {
    "beh2": _Shape(1.33, _chain("H", "Be", "H")),
    "h2": _Shape(0.74, _chain("H", "H")),
    "h2o": _Shape(2.0, _water, angle=104.52),
    "h4": _Shape(1.0, _chain("H", "H", "H", "H")),
    "lih": _Shape(1.6, _chain("Li", "H")),
    "n2": _Shape(1.1, _chain("N", "N")),
}


def named_geometry(
    name: str, bond: float | None = None, angle: float | None = None
) -> tuple[Atom, ...]:
    """Return the atoms of a molecule that is known by name.

    Parameters
    ----------
    name
        One of :data:`MOLECULES`, in any case.
    bond
        Length of its bonds in angstrom; the molecule's default if not given.
    angle
        Angle between its bonds in degrees; the molecule's default if not given.

    Raises
    ------
    InputError
        If the molecule is unknown, or does not bend.
    """
    shape = MOLECULES.get(name.lower())
    if shape is None:
        raise InputError(
            f"unknown molecule {name!r}; known are: {', '.join(MOLECULES)}. "
            "Give any other as an xyz file (--geometry my.xyz)"
        )
    if angle is not None and shape.angle is None:
        raise InputError(f"molecule {name!r} is linear: it has no angle to set; leave --angle out")
    return shape.build(bond or shape.bond, angle or shape.angle or 0.0)


def read_xyz(path: str | Path) -> tuple[Atom, ...]:
    """Return the atoms of an xyz file: their number, a comment, then a line ``O 0.0 0.0 0.0`` each.

    Raises
    ------
    InputError
        If the file cannot be read or is not in this form; names the file and the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text file"
        raise InputError(f"the geometry file {path} cannot be read: {reason}") from error
    try:
        expected = int(lines[0])
    except (IndexError, ValueError):
        raise InputError(
            f"{path}, line 1: an xyz file starts with its number of atoms, then a comment line"
        ) from None
    atoms = tuple(
        _atom(line, f"{path}, line {number}")
        for number, line in enumerate(lines[2:], start=3)
        if line.strip()
    )
    if len(atoms) != expected or not atoms:
        raise InputError(f"{path}: line 1 announces {expected} atoms, but there are {len(atoms)}")
    _refuse_clash(atoms, path)
    return atoms


def _atom(line: str, where: str) -> Atom:
    symbol, *numbers = line.split()
    try:
        x, y, z = (float(number) for number in numbers)
    except ValueError:
        x = y = z = math.nan
    if not re.fullmatch("[A-Za-z]{1,2}", symbol) or not math.isfinite(x + y + z):
        raise InputError(
            f"{where}: {line.strip()!r} is no atom; expected an element and three coordinates "
            "in angstrom, like: O 0.0 0.0 0.0"
        )
    return symbol.capitalize(), (x, y, z)


def _refuse_clash(atoms: tuple[Atom, ...], path: str | Path) -> None:
    for i, (_, here) in enumerate(atoms):
        for j, (_, there) in enumerate(atoms[:i]):
            if math.dist(here, there) < 0.1:
                raise InputError(f"{path}: atoms {j + 1} and {i + 1} stand in the same place")
