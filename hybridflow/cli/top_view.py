"""One frame of ``hybridflow top``: a snapshot as rich's tables. Pure."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hybridflow.labels import label, quantity, seconds
from hybridflow.report.redact import redacted
from hybridflow.watch import QpuView, Snapshot, WorkerView

if TYPE_CHECKING:
    from hybridflow.slurm import QpuState

__all__ = ["frame"]

_MOST_WORKERS = 20
_BAR = 10


def frame(
    name: str, run: Snapshot, slots: "Sequence[QpuState]", trouble: str, now: float
) -> RenderableType:
    """Return a frame.

    Parameters
    ----------
    name
        Name of the run.
    run
        How it stands.
    slots
        What Slurm says of the QPUs; empty without Slurm.
    trouble
        Why Slurm has not answered, if it has not.
    now
        Unix time.
    """
    parts: list[RenderableType] = [*_head(name, run, now), Text(), _tasks(run)]
    if run.qpus:
        parts += [Text(), _qpus(run.qpus)]
    if run.iteration is not None:
        figures = [f"{label(k)} {quantity(k, v)}" for k, v in run.iteration.values.items()]
        parts += [Text(), _plain(f"iteration {run.iteration.number}  " + "  ".join(figures))]
    if run.workers:
        parts += [Text(), *_workers(run.workers, now)]
    if slots:
        parts += [Text(), _slots(slots)]
    if trouble:
        parts += [Text(), _plain(f"Slurm: {trouble}", "yellow")]
    return Group(*parts)


def _head(name: str, run: Snapshot, now: float) -> Iterable[Text]:
    what = f"{run.workflow} on {run.resource} ({run.engine})" if run.workflow else "no workflow"
    yield _plain(f"{name}: {what}", "bold")
    if run.began is None or run.last is None:
        yield _plain("no event yet", "dim")
        return
    if run.ended:
        state = f"failed: {redacted(run.error)}" if run.error else "ended well"
        yield _plain(
            f"{state}, after {seconds(run.last - run.began)}", "red" if run.error else "green"
        )
        return
    phases = f"{', '.join(run.phases)}; " if run.phases else ""
    yield _plain(
        f"{phases}runs for {seconds(now - run.began)}, "
        f"last event {seconds(max(0.0, now - run.last))} ago",
        "cyan",
    )


def _tasks(run: Snapshot) -> Table:
    table = _table("tasks", "running", "on QPU", "done", "failed")
    for role in ("quantum", "classical"):
        _row(
            table,
            role,
            run.running.get(role, 0),
            run.on_qpu if role == "quantum" else "",
            run.done.get(role, 0),
            run.failed.get(role, 0),
        )
    return table


def _qpus(views: Iterable[QpuView]) -> Table:
    table = _table(
        "QPU", "busy", "", "QPU time", "running", "batches", "failed", "requests", "PUBs", "shots"
    )
    for view in views:
        full = round(_BAR * view.busy)
        _row(
            table,
            view.resource,
            f"{view.busy:.0%}",
            "#" * full + "." * (_BAR - full),
            seconds(view.qpu_seconds),
            view.running,
            view.jobs,
            view.failed,
            view.requests,
            view.pubs,
            view.shots,
        )
    return table


def _workers(views: Sequence[WorkerView], now: float) -> Iterable[RenderableType]:
    table = _table("worker", "role", "done", "failed", "does", "since")
    # Those that do something first: others may not fit.
    for view in sorted(views, key=lambda one: not one.running)[:_MOST_WORKERS]:
        more = f" and {view.running - 1} more" if view.running > 1 else ""
        _row(
            table,
            view.worker,
            view.role.value,
            view.ended,
            view.failed,
            f"{view.task}{more}" if view.running else "-",
            seconds(max(0.0, now - view.since)) if view.running else "",
        )
    yield table
    if len(views) > _MOST_WORKERS:
        yield _plain(f"and {len(views) - _MOST_WORKERS} more workers", "dim")


def _slots(states: "Iterable[QpuState]") -> Table:
    table = _table("Slurm", "slots", "held by", "queue", "nodes")
    for state in states:
        holders = ", ".join(f"{claim.user} ({claim.job})" for claim in state.holders)
        nodes = ", ".join(f"{node} {text}" for node, text in state.nodes.items())
        known = bool(state.source)
        _row(
            table,
            state.name,
            f"{state.used}/{state.slots}" if known else "-",
            holders or "-",
            len(state.queue),
            nodes or ("licence" if known else "not known to Slurm"),
        )
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    return table


def _row(table: Table, *cells: object) -> None:
    """Add a row; a number has commas between thousands."""
    table.add_row(*(_plain(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in cells))


def _plain(text: str, style: str = "") -> Text:
    # Names come from elsewhere: they give no orders to the terminal, and are no markup.
    harmless = "".join(char if char.isprintable() else "?" for char in text)
    return Text(harmless, style=style, no_wrap=True, overflow="ellipsis")
