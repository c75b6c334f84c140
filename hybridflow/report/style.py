"""How a report's pictures look: one palette, one kind of plot, one kind of tooltip.

Colours are Okabe and Ito's (told apart with any kind of colour vision), and what has a colour has a
place, a pattern or a shape of its own too. The ink of axes is left to the page's style sheet, which
sets Bokeh's CSS variables: pages are read in the light, in the dark and on paper.

Texts from outside must be :class:`~bokeh.models.PlainText` where an axis shows them: it would take
``$$…$$`` for TeX, and load what reads TeX from the network.
"""

from typing import Any, NamedTuple

from bokeh.models import (
    HoverTool,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    Tool,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.plotting import figure

__all__ = [
    "BAND",
    "BLUE",
    "FONT",
    "GREY",
    "INK",
    "STYLES",
    "Style",
    "TimeScale",
    "add_tooltip",
    "new_plot",
    "padded",
]

ORANGE, SKY, GREEN, VERMILION, PURPLE, BLUE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#0072B2",
)
GREY = "#8A8F98"
INK = "#1B1F24"
BAND = "#D3D8DF"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
_TOOLTIP = f"""
<div style="max-width: 26rem; font: 13px/1.45 {FONT}; color: {INK}; overflow-wrap: anywhere">
  <b>@title</b>
  <div style="white-space: pre-line">@text</div>
</div>
"""


class Style(NamedTuple):
    """How one sort of interval is drawn: colour, opacity, and Bokeh's name of a pattern."""

    fill: str
    alpha: float = 1.0
    hatch: str | None = None


# In the order of painting: the times on the QPU lie above the task that they belong to.
STYLES = {
    "job": Style(GREEN, hatch="right_diagonal_line"),
    "quantum": Style(ORANGE, alpha=0.35, hatch="dot"),
    "on QPU": Style(ORANGE),
    "classical": Style(SKY),
    "failed": Style(VERMILION, hatch="cross"),
    "unfinished": Style(PURPLE, hatch="left_diagonal_line"),
}


class TimeScale:
    """Seconds, minutes or hours: whichever gives an axis numbers that can be read."""

    def __init__(self, total: float) -> None:
        steps = ((7200.0, 3600.0, "hours"), (300.0, 60.0, "minutes"))
        self._one, self.unit = next(
            ((one, unit) for least, one, unit in steps if total >= least), (1.0, "seconds")
        )
        self.total = total

    def __call__(self, value: float) -> float:
        """Return `value`, in seconds, in the axis's unit."""
        return value / self._one

    def range(self) -> Range1d:
        """Return the range of the whole time, which the reader cannot leave."""
        return padded(0.0, self(self.total), 0.012)


def padded(low: float, high: float, part: float) -> Range1d:
    """Return a range with a margin of `part` of its length on both sides."""
    margin = part * (high - low) or 0.5
    return Range1d(start=low - margin, end=high + margin, bounds=(low - margin, high + margin))


def new_plot(*, movable: bool = False, **options: Any) -> figure:
    """Return an empty plot that is as wide as its place, and may be movable along x."""
    plot = figure(
        sizing_mode="stretch_width",
        min_width=280,
        toolbar_location="above" if movable else None,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        tools=_moving_tools() if movable else [],
        **options,
    )
    plot.toolbar.logo = None
    for axis in plot.axis:
        axis.axis_label_text_font = axis.major_label_text_font = FONT
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
    return plot


def _moving_tools() -> list[Tool]:
    return [
        PanTool(dimensions="width"),
        # With a key: the wheel alone must go on scrolling the page.
        WheelZoomTool(dimensions="width", modifiers="ctrl"),
        ZoomInTool(dimensions="width"),
        ZoomOutTool(dimensions="width"),
        ResetTool(),
        SaveTool(),
    ]


def add_tooltip(plot: figure, *renderers: Any) -> None:
    """Show the columns `title` and `text` of what is under the pointer."""
    plot.add_tools(HoverTool(renderers=list(renderers), tooltips=_TOOLTIP))
