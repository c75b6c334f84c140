"""Pictures of a workflow's figures: what it reported round by round, and its control."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from statistics import fmean
from typing import Any, Literal

from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    FixedTicker,
    NumeralTickFormatter,
    PlainText,
    Range1d,
)
from bokeh.models.annotations import Span as Line
from bokeh.plotting import figure

from hybridflow.events import Iteration
from hybridflow.labels import label, quantity
from hybridflow.report.redact import redacted, shortened
from hybridflow.report.result import Control
from hybridflow.report.style import BLUE, FONT, GREY, INK, STYLES, add_tooltip, new_plot, padded
from hybridflow.report.thin import fewer_rounds

__all__ = ["CHEMICAL_ACCURACY", "control_figure", "counts", "error_figure", "size_figure"]

CHEMICAL_ACCURACY = 1.6
"""Error in millihartree below which an energy is good enough for chemistry."""

_ERROR = "error_millihartree"
_LOOKS = (
    ("circle", BLUE, "solid"),
    ("square", STYLES["failed"].fill, "dashed"),
    ("triangle", STYLES["job"].fill, "dotted"),
    ("diamond", STYLES["unfinished"].fill, "dotdash"),
)
_HEIGHT = 300
_SMALLEST = 1e-6
_WIDE = 30.0
_FEW_DECADES = 3


def error_figure(iterations: Sequence[Iteration]) -> figure | None:
    """Draw the size of the error against the exact energy, on a logarithmic axis.

    Returns None if no round told an error.
    """
    if not any(_ERROR in iteration.values for iteration in iterations):
        return None
    plot = _rounds(iterations, [_ERROR], "error (mHa)", log=True, include=CHEMICAL_ACCURACY)
    _mark_chemical_accuracy(plot, "width")
    return plot


def size_figure(iterations: Sequence[Iteration]) -> figure | None:
    """Draw what was counted in each round: the figures whose names have no unit.

    Returns None if nothing was counted, or only negative numbers.
    """
    names = counts(iterations)
    told = [each.values[name] for each in iterations for name in names if name in each.values]
    if not told or min(told) < 0:
        return None
    wide = min(told) > 0 and max(told) > _WIDE * min(told)
    return _rounds(iterations, names, ", ".join(label(name) for name in names), log=wide)


def counts(iterations: Sequence[Iteration]) -> list[str]:
    """Return the names of the figures without a unit; a picture has room for the first four."""
    names = dict.fromkeys(name for each in iterations for name in each.values)
    return [name for name in names if label(name) == name.replace("_", " ")][: len(_LOOKS)]


def control_figure(control: Control) -> figure | None:
    """Draw the errors of both samplers: a bar for their mean and a dot for each seed.

    Returns None if one of them has no error.
    """
    rows = {
        "ansatz": control.ansatz_error_millihartree,
        "uniform": control.uniform_error_millihartree,
    }
    if not all(rows.values()):
        return None
    told = [error for errors in rows.values() for error in errors]
    plot = new_plot(
        height=_HEIGHT,
        x_range=Range1d(start=min(0.0, *told), end=1.08 * max(*told, CHEMICAL_ACCURACY)),
        y_range=list(reversed(rows)),
        x_axis_label="error (mHa)",
    )
    _draw_means(plot, rows)
    _draw_seeds(plot, rows, control.seeds)
    _mark_chemical_accuracy(plot, "height")
    plot.ygrid.grid_line_color = None
    return plot


def _rounds(
    iterations: Sequence[Iteration],
    names: Sequence[str],
    title: str,
    *,
    log: bool,
    include: float | None = None,
) -> figure:
    """Draw figures over the number of the round, one line a figure."""
    iterations = fewer_rounds(iterations, names)
    told = [abs(each.values[name]) for each in iterations for name in names if name in each.values]
    low, high = min([*told, include or told[0]]), max([*told, include or told[0]])
    bottom, top = (
        (max(low, _SMALLEST) / 1.6, max(high, _SMALLEST) * 1.6) if log else (0.0, 1.1 * high or 1.0)
    )
    numbers = [each.number for each in iterations]
    plot = new_plot(
        height=_HEIGHT,
        x_range=padded(min(numbers), max(numbers), 0.06),
        y_range=Range1d(start=bottom, end=top),
        y_axis_type="log" if log else "linear",
        x_axis_label="iteration",
        y_axis_label=PlainText(text=shortened(redacted(title), 50)),
    )
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    if log:
        ticks = _log_ticks(bottom, top)
        plot.yaxis.ticker = plot.ygrid.ticker = FixedTicker(ticks=ticks)
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[000000]")
    for name, look in zip(names, _LOOKS, strict=False):
        _draw_rounds(plot, iterations, name, look, legend=len(names) > 1)
    for legend in plot.legend:
        # The style sheet does not reach a legend's ink: a grey that is read on any paper.
        legend.update(orientation="horizontal", background_fill_color=None, border_line_color=None)
        legend.update(label_text_color=GREY, label_text_font=FONT, label_text_font_size="13px")
        plot.add_layout(legend, "above")
    return plot


def _log_ticks(low: float, high: float) -> list[float]:
    """Return the decades of a range; of a short one also twice and five times each."""
    decades = range(floor(log10(low)), ceil(log10(high)))
    steps = (1, 2, 5) if len(decades) <= _FEW_DECADES else (1,)
    ticks = (step * 10.0**decade for decade in decades for step in steps)
    return [tick for tick in ticks if low <= tick <= high]


def _draw_rounds(
    plot: figure,
    iterations: Sequence[Iteration],
    name: str,
    look: tuple[str, str, str],
    *,
    legend: bool,
) -> None:
    marker, colour, dash = look
    columns: dict[str, list[Any]] = {"x": [], "y": [], "title": [], "text": []}
    before = None
    for each in iterations:
        if name not in each.values:
            continue
        if before is not None and each.number <= before:
            # Rounds are counted anew (a resumed run, another series): no line leads back.
            _append(columns, float("nan"), float("nan"), "", "")
        before = each.number
        value = each.values[name]
        figures = "\n".join(f"{label(key)}: {quantity(key, v)}" for key, v in each.values.items())
        _append(
            columns,
            each.number,
            max(abs(value), _SMALLEST),
            f"iteration {each.number}",
            redacted(figures),
        )
    source = ColumnDataSource(columns)
    known: dict[str, Any] = {"legend_label": redacted(label(name))} if legend else {}
    plot.line("x", "y", source=source, line_color=colour, line_width=2, line_dash=dash, **known)
    dots = plot.scatter("x", "y", source=source, marker=marker, size=9, color=colour, **known)
    add_tooltip(plot, dots)


def _append(columns: Mapping[str, list[Any]], *row: Any) -> None:
    for column, value in zip(columns.values(), row, strict=True):
        column.append(value)


def _draw_means(plot: figure, rows: Mapping[str, Sequence[float]]) -> None:
    told = {name: fmean(errors) for name, errors in rows.items() if errors}
    source = ColumnDataSource(
        {
            "y": list(told),
            "mean": list(told.values()),
            "title": list(told),
            "text": [f"mean {quantity(_ERROR, mean)}" for mean in told.values()],
            "fill": [BLUE, GREY][: len(told)],
        }
    )
    bars = plot.hbar(y="y", right="mean", height=0.5, source=source, color="fill")
    add_tooltip(plot, bars)


def _draw_seeds(plot: figure, rows: Mapping[str, Sequence[float]], seeds: Sequence[int]) -> None:
    columns: dict[str, list[Any]] = {"x": [], "y": [], "title": [], "text": []}
    for name, errors in rows.items():
        for place, error in enumerate(errors):
            seed = f"seed {seeds[place]}" if place < len(seeds) else f"run {place + 1}"
            _append(columns, error, name, name, f"{seed}: {quantity(_ERROR, error)}")
    source = ColumnDataSource(columns)
    dots = plot.scatter("x", "y", source=source, size=9, color=INK, line_color="white")
    add_tooltip(plot, dots)


def _mark_chemical_accuracy(plot: figure, dimension: Literal["width", "height"]) -> None:
    plot.add_layout(
        Line(
            location=CHEMICAL_ACCURACY,
            dimension=dimension,
            line_color=GREY,
            line_dash="dashed",
            line_width=1.5,
        )
    )
