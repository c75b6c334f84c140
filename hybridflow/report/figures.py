"""The timeline's picture: bands of phases over a lane for each QPU and each worker."""

from collections.abc import Iterable, Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, CustomJS, FixedTicker, PlainText, Range1d
from bokeh.plotting import figure

from hybridflow.labels import quantity, seconds
from hybridflow.report.lanes import Arrangement, Bar, Cell, Kind, Lane, rows_of
from hybridflow.report.redact import redacted, shortened
from hybridflow.report.style import BAND, FONT, INK, STYLES, TimeScale, add_tooltip, new_plot
from hybridflow.report.thin import fewer_phases
from hybridflow.report.timeline import Phase, Span, State, Task, Timeline, VendorJob, union_seconds

__all__ = ["timeline_figure"]

_PIXELS_A_LANE = 26
_TALLEST_PIXELS = 1100
_PHASE_ROW = 0.95
_GAP = 0.3
_PLACE_NAMES_SHOWN = 4
_FIT_NAMES = """
const {left, right, x, text, alpha} = source.data;
const {start, end} = plot.x_range;
for (let i = 0; i < x.length; i++) {
  const first = Math.max(left[i], start), last = Math.min(right[i], end);
  x[i] = (first + last) / 2;
  const pixels = (last - first) / (end - start) * plot.inner_width;
  alpha[i] = 7 * text[i].length + 6 < pixels ? 1 : 0;
}
source.change.emit();
"""
_CELL_STYLE = {Kind.QPU: "job", Kind.QUANTUM: "on QPU", Kind.CLASSICAL: "classical"}


def timeline_figure(run: Timeline, arrangement: Arrangement) -> figure:
    """Draw the lanes of a run, and its phases as bands above them."""
    scale = TimeScale(run.seconds)
    phases = fewer_phases(run.phases)
    rows = rows_of(phases)
    head = -_GAP - _PHASE_ROW * (max(rows) + 1) if rows else 0.0
    foot = arrangement.lanes[-1].bottom if arrangement.lanes else 0.0
    lanes = max(2.0, foot - head)
    plot = new_plot(
        movable=True,
        height=80 + min(_TALLEST_PIXELS, round(_PIXELS_A_LANE * lanes)),
        x_range=scale.range(),
        y_range=Range1d(start=foot + 0.1, end=head - 0.1),
        x_axis_label=f"{scale.unit} since the start",
    )
    _draw_phases(plot, phases, rows, scale)
    _draw_cells(plot, arrangement.cells, scale)
    _draw_bars(plot, arrangement.bars, scale)
    _name_rows(plot, arrangement.lanes, head)
    return plot


class _Boxes:
    """Columns of the boxes that are drawn in one style."""

    def __init__(self, scale: TimeScale) -> None:
        self._scale = scale
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("left", "right", "top", "bottom", "title", "text")
        }

    def add(
        self,
        times: tuple[float, float],
        place: tuple[float, float],
        title: str = "",
        text: str = "",
    ) -> None:
        """Add a box over `times` (seconds), from the top to the bottom of `place`."""
        row = (self._scale(times[0]), self._scale(times[1]), *place, title, text)
        for column, cell in zip(self._columns.values(), row, strict=True):
            column.append(cell)

    def __bool__(self) -> bool:
        return bool(self._columns["left"])

    def draw(self, plot: figure, style: str, **looks: Any) -> Any:
        """Draw them; the outline keeps what is shorter than a pixel visible."""
        fill, alpha, hatch = STYLES[style]
        return plot.quad(
            left="left",
            right="right",
            top="top",
            bottom="bottom",
            source=ColumnDataSource(self._columns),
            **{
                "fill_color": fill,
                "fill_alpha": alpha,
                "line_color": fill,
                "hatch_pattern": hatch,
                "hatch_color": INK,
                "hatch_alpha": 0.35,
                "hatch_scale": 8.0,
                "hatch_weight": 0.8,
                **looks,
            },
        )


class _Names:
    """Names that stand inside boxes: where a box, or what can be seen of it, is long enough."""

    def __init__(self, scale: TimeScale) -> None:
        self._scale = scale
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("left", "right", "x", "y", "text", "alpha")
        }

    def add(self, times: tuple[float, float], place: tuple[float, float], name: str) -> None:
        """Add a name to the box over `times` (seconds), from the top to the bottom of `place`."""
        left, right = (self._scale(time) for time in times)
        row = (left, right, (left + right) / 2, sum(place) / 2, name, 0.0)
        for column, cell in zip(self._columns.values(), row, strict=True):
            column.append(cell)

    def draw(self, plot: figure) -> None:
        """Write them, anew whenever the view changes."""
        source = ColumnDataSource(self._columns)
        plot.text(
            "x",
            "y",
            "text",
            source=source,
            text_alpha="alpha",
            text_align="center",
            text_baseline="middle",
            text_font=value(FONT),
            text_font_size="12px",
            text_color=INK,
        )
        fit = CustomJS(args={"source": source, "plot": plot}, code=_FIT_NAMES)
        plot.js_on_change("inner_width", fit)
        plot.x_range.js_on_change("start", fit)
        plot.x_range.js_on_change("end", fit)


def _draw_phases(
    plot: figure, phases: Sequence[Phase], rows: Sequence[int], scale: TimeScale
) -> None:
    boxes, names = _Boxes(scale), _Names(scale)
    for phase, row in zip(phases, rows, strict=True):
        bottom = -_GAP - row * _PHASE_ROW
        place = (bottom - _PHASE_ROW + 0.08, bottom)
        name = redacted(phase.name)
        boxes.add((phase.start, phase.end), place, name, f"phase\n{_when(phase)}")
        names.add((phase.start, phase.end), place, name)
    bands = boxes.draw(plot, "classical", fill_color=BAND, line_color="white", hatch_pattern=None)
    add_tooltip(plot, bands)
    names.draw(plot)


def _draw_cells(plot: figure, cells: Iterable[Cell], scale: TimeScale) -> None:
    by_kind: dict[Kind, list[Cell]] = {}
    for cell in cells:
        by_kind.setdefault(cell.lane.kind, []).append(cell)
    for kind, alike in by_kind.items():
        boxes = _Boxes(scale)
        for cell in alike:
            boxes.add(
                (cell.start, cell.end),
                (cell.lane.top + 0.08, cell.lane.bottom - 0.08),
                _places(cell.lane),
                f"{cell.busy:.0%} busy\n{cell.begun} begun\n"
                f"in {seconds(cell.end - cell.start)} from {seconds(cell.start)}",
            )
        busy = [0.15 + 0.85 * cell.busy for cell in alike]
        drawn = boxes.draw(
            plot, _CELL_STYLE[kind], fill_alpha="busy", line_color=None, hatch_pattern=None
        )
        drawn.data_source.data["busy"] = busy
        add_tooltip(plot, drawn)


def _draw_bars(plot: figure, bars: Iterable[Bar], scale: TimeScale) -> None:
    boxes = {style: _Boxes(scale) for style in STYLES}
    names = _Names(scale)
    for bar in bars:
        item = bar.item
        height = bar.bottom - bar.top
        place = (bar.top + 0.08 * height, bar.bottom - 0.08 * height)
        title, text = _job_text(item) if isinstance(item, VendorJob) else _task_text(item)
        boxes[_style(bar)].add((item.start, bar.until), place, title, text)
        if isinstance(item, Task) and item.state is State.ENDED:
            names.add((item.start, bar.until), place, title)
            for times in item.on_qpu:
                boxes["on QPU"].add(times, place)
    drawn = {style: box.draw(plot, style) for style, box in boxes.items() if box}
    # Parts of a quantum task lie above it and would hide its tooltip.
    add_tooltip(plot, *(quads for style, quads in drawn.items() if style != "on QPU"))
    names.draw(plot)


def _style(bar: Bar) -> str:
    if bar.item.state is not State.ENDED:
        return bar.item.state.value
    return {Kind.QPU: "job", Kind.QUANTUM: "quantum", Kind.CLASSICAL: "classical"}[bar.lane.kind]


def _when(span: Span) -> str:
    ending = "\nno end was recorded" if span.state is State.UNFINISHED else ""
    return f"took {seconds(span.seconds)}, began at {seconds(span.start)}{ending}"


def _failure(span: Span) -> str:
    return f"\nfailed: {shortened(redacted(span.error))}" if span.error else ""


def _task_text(task: Task) -> tuple[str, str]:
    on_qpu = union_seconds(task.on_qpu)
    lines = [f"{task.role} task", _when(task) + _failure(task)]
    if task.on_qpu:
        rest = max(0.0, task.seconds - on_qpu)
        lines.append(
            f"its vendor jobs ran for {seconds(on_qpu)}; other work and waiting: {seconds(rest)}"
        )
    lines.append(f"on {redacted(task.worker)}")
    return redacted(task.name), "\n".join(lines)


def _job_text(job: VendorJob) -> tuple[str, str]:
    lines = [
        f"vendor job on {redacted(job.resource)}",
        _when(job) + _failure(job),
        f"{quantity('requests', job.requests)} requests, {quantity('pubs', job.pubs)} PUBs",
    ]
    if job.state is not State.UNFINISHED:
        lines.append(
            f"{quantity('shots', job.shots)} shots, {seconds(job.qpu_seconds)} of QPU time, "
            f"{seconds(job.queue_seconds)} in the queue"
        )
    return redacted(job.id), "\n".join(lines)


def _places(lane: Lane) -> str:
    shown = ", ".join(redacted(place) for place in lane.places[:_PLACE_NAMES_SHOWN])
    hidden = len(lane.places) - _PLACE_NAMES_SHOWN
    return f"{lane.title}: {shown}" + (f" and {hidden} more" if hidden > 0 else "")


def _name_rows(plot: figure, lanes: Sequence[Lane], head: float) -> None:
    """Write the lanes' titles beside them, and rule a line between lanes."""
    middles = {(lane.top + lane.bottom) / 2: lane.title for lane in lanes}
    if head:
        middles[(head - _GAP) / 2] = "phases"
    axis = plot.yaxis
    axis.ticker = FixedTicker(ticks=sorted(middles))
    axis.major_label_overrides = {
        place: PlainText(text=shortened(redacted(title), 28)) for place, title in middles.items()
    }
    axis.axis_line_color = axis.major_tick_line_color = None
    plot.ygrid.ticker = FixedTicker(
        ticks=sorted({lane.top for lane in lanes} | {lane.bottom for lane in lanes})
    )
