"""What a run looked like: its timeline and figures, as one HTML file.

``events-*.jsonl`` → ``timeline.py`` (intervals) → ``thin.py`` (few enough) and ``lanes.py``
(their places) → ``figures.py`` and ``curves.py`` (Bokeh's plots) → ``page.py`` with ``page.html``
and ``page.css`` → ``report.html``.
"""

import importlib.util
import os
from collections import Counter
from pathlib import Path

from hybridflow.errors import InputError, MissingExtraError
from hybridflow.events import read_events
from hybridflow.report.result import FILE as RESULT
from hybridflow.report.result import read_result
from hybridflow.report.timeline import timeline

__all__ = ["write_report"]

FILE = "report.html"


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` into a run's folder: one page that loads nothing and can be mailed.

    A run that failed, or was killed, or is still going on has a report too: it says so.

    Parameters
    ----------
    folder
        The run's folder, with its events and, if the workflow wrote one, its ``result.json``.

    Returns
    -------
    Path
        The page, of less than 5 MB.

    Raises
    ------
    InputError
        If `folder` is no run's folder.
    MissingExtraError
        If Bokeh is not installed.
    """
    if importlib.util.find_spec("bokeh") is None:
        raise MissingExtraError(
            "a report needs Bokeh, which is not installed: pip install 'hybridflow[report]'"
        )
    from hybridflow.report.page import page

    place = Path(folder).absolute()
    if not place.is_dir():
        raise InputError(f"there is no folder {place}: name the folder of a run")
    damaged: Counter[str] = Counter()
    events = read_events(place, on_damage=lambda file, _: damaged.update([file.name]))
    result, faults = read_result(place)
    if not ((place / RESULT).exists() or any(place.glob("events-*.jsonl"))):
        raise InputError(f"{place} holds neither events nor a result: name the folder of a run")
    damage = [
        f"In {name}, {lines} line{'' if lines == 1 else 's'} cannot be read: left out here."
        for name, lines in damaged.items()
    ]
    html = page(place.name, timeline(events), result, [*damage, *faults])
    return _replace(place / FILE, html)


def _replace(file: Path, text: str) -> Path:
    # Whoever has the old page open, or copies it now, never sees half of the new one.
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return file
