"""How figures are written for people: the unit stands at the end of a figure's name.

``error_millihartree: 0.31`` becomes *error*, *0.310 mHa*, on the screen and on a report's page.
"""

import math

__all__ = ["label", "quantity", "seconds"]

_UNITS = {
    "millihartree": "mHa",
    "hartree": "Ha",
    "seconds": "s",
    "bytes": "B",
}
_MINUTE, _HOUR = 60, 3600


def label(name: str) -> str:
    """Return the name of a figure without its unit, in words."""
    stem, _, unit = name.rpartition("_")
    return (stem if stem and unit in _UNITS else name).replace("_", " ")


def quantity(name: str, value: float) -> str:
    """Return a figure's value with the unit that its name ends with.

    Energies in hartree have eight decimals, counts none and commas between thousands, all others
    three significant digits. The text is plain ASCII: people copy figures.
    """
    stem, _, ending = name.rpartition("_")
    unit = _UNITS.get(ending, "") if stem else ""
    if unit == "s" and math.isfinite(value):
        return seconds(value)
    return f"{_number(unit, value)} {unit}".rstrip()


def _number(unit: str, value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if unit == "Ha":
        return f"{value:.8f}"
    if abs(value) >= 1000 or (not unit and value == int(value)):
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def seconds(value: float) -> str:
    """Return a length of time as a person says it: ``12 ms``, ``3.4 s``, ``2 min 5 s``."""
    if 0 < abs(value) < 0.00995:
        return f"{value * 1000:.1f} ms"
    if abs(value) < 0.9995:
        return f"{value * 1000:.0f} ms"
    if abs(value) < _MINUTE - 0.05:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
