"""The report: events become intervals, intervals a page that is complete in itself."""

import json
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybridflow import events
from hybridflow.cli import main
from hybridflow.environment import Role
from hybridflow.errors import InputError, MissingExtraError
from hybridflow.report import write_report
from hybridflow.report.lanes import MOST_BARS, MOST_LANES, MOST_MARKS, Kind, arrange
from hybridflow.report.redact import redacted, shortened
from hybridflow.report.sentences import busy_part, drawing_words, status
from hybridflow.report.thin import MOST_ROUNDS, fewer_rounds
from hybridflow.report.timeline import State, timeline, union_seconds

START = 1_760_000_000.0
RESULT = {
    "energy_hartree": -75.8680832,
    "reference_hartree": -75.86885075,
    "error_millihartree": 0.768,
    "shots": 10000,
    "vendor_jobs": 2,
    "qpu_seconds": 4.4,
    "seed": 7,
    "control": {
        "max_dim": 100,
        "seeds": [1, 2, 3],
        "ansatz_error_millihartree": [15.1, 13.2, 17.5],
        "uniform_error_millihartree": [24.9, 27.1, 23.0],
    },
}


def task(
    name: str,
    start: float,
    end: float | None,
    *,
    worker: str = "host:1",
    kind: Role = Role.CLASSICAL,
    error: str = "",
) -> list[events.Event]:
    began = events.TaskStarted(
        time=START + start, task=name, kind=kind, name="solve", worker=worker
    )
    if end is None:
        return [began]
    ended = events.TaskEnded(time=START + end, task=name, worker=worker, error=error)
    return [began, ended]


def job(
    name: str, start: float, end: float | None, *, tasks: Sequence[str] = (), error: str = ""
) -> list[events.Event]:
    began = events.VendorJobStarted(
        time=START + start,
        resource="aer",
        vendor_job_id=name,
        requests=2,
        pubs=3,
        tasks=tuple(tasks),
    )
    if end is None:
        return [began]
    ended = events.VendorJobEnded(
        time=START + end,
        resource="aer",
        vendor_job_id=name,
        qpu_seconds=2.2,
        shots=5000,
        queue_seconds=0.5,
        error=error,
    )
    return [began, ended]


def phase(name: str, start: float, end: float) -> list[events.Event]:
    return [
        events.PhaseStarted(time=START + start, phase=name),
        events.PhaseEnded(time=START + end, phase=name),
    ]


def run_events() -> list[events.Event]:
    """Return a small run with something of every kind, one failed task and one lost one."""
    return [
        events.RunStarted(time=START, workflow="sqd", engine="parsl", resource="aer"),
        *phase("ansatz", 0, 2),
        *phase("sample", 2, 8),
        *phase("diagonalize", 8, 12),
        events.BrokerStarted(time=START + 2, resource="aer", backend="aer", broker="b"),
        *task("q1", 2, 5, worker="host:2", kind=Role.QUANTUM),
        *task("q2", 2, 8, worker="host:3", kind=Role.QUANTUM),
        *job("job-1", 3, 5, tasks=["q1"]),
        *job("job-2", 5, 7.5, tasks=["q2"]),
        *task("c1", 8, 9),
        *task("c2", 9, 10, error="ValueError: no convergence in /home/ann/solver.py"),
        *task("c3", 10, None),
        *(
            events.Iteration(
                time=START + 9 + number,
                number=number,
                values={
                    "energy_hartree": -75.8 - 0.01 * number,
                    "error_millihartree": 30.0 / number**3,
                    "dimension": 1000.0 * number,
                },
            )
            for number in (1, 2, 3)
        ),
        events.BrokerStopped(time=START + 12, resource="aer", broker="b"),
        events.RunEnded(time=START + 12.5),
    ]


def write_run(
    folder: Path, happened: Iterable[events.Event], result: object = None, *, tail: bytes = b""
) -> Path:
    folder.mkdir(exist_ok=True)
    lines = b"".join(msgspec.json.encode(event) + b"\n" for event in happened)
    (folder / "events-host-1.jsonl").write_bytes(lines + tail)
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def text_of(file: Path) -> str:
    """Return what a reader sees of a page: its text without scripts and style."""
    page = _Page()
    page.feed(file.read_text("utf-8"))
    return " ".join("".join(page.text).split())


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._inside:
            self.scripts.append(data)
        elif "style" in self._inside:
            self.styles.append(data)
        else:
            self.text.append(data)


def parsed(file: Path) -> _Page:
    page = _Page()
    page.feed(file.read_text("utf-8"))
    return page


# -- intervals ----------------------------------------------------------------------------------


def test_intervals_of_a_run() -> None:
    run = timeline(run_events())
    assert [each.name for each in run.phases] == ["ansatz", "sample", "diagonalize"]
    assert [(each.id, each.start, each.end) for each in run.tasks] == [
        ("q1", 2, 5),
        ("q2", 2, 8),
        ("c1", 8, 9),
        ("c2", 9, 10),
        ("c3", 10, 12.5),
    ]
    assert [each.state for each in run.tasks[2:]] == [
        State.ENDED,
        State.FAILED,
        State.UNFINISHED,
    ]
    assert [(each.id, each.seconds) for each in run.jobs] == [("job-1", 2), ("job-2", 2.5)]
    assert (run.seconds, run.wall_seconds, run.sessions) == (12.5, 12.5, 1)
    assert status(run).word == "finished"


def test_a_quantum_task_is_on_the_qpu_while_its_own_vendor_jobs_run() -> None:
    first, second = timeline(run_events()).tasks[:2]
    assert first.on_qpu == ((3.0, 5.0),)
    assert second.on_qpu == ((5.0, 7.5),)


def test_a_lost_task_is_over_when_its_worker_begins_another() -> None:
    run = timeline([*task("a", 0, None), *task("b", 3, 5), *task("c", 4, 6, worker="host:2")])
    assert [(each.id, each.end, each.state) for each in run.tasks] == [
        ("a", 3, State.UNFINISHED),
        ("b", 5, State.ENDED),
        ("c", 6, State.ENDED),
    ]


def test_a_lost_vendor_job_is_over_when_the_next_broker_begins() -> None:
    restarted = events.BrokerStarted(time=START + 4, resource="aer", backend="aer", broker="c")
    run = timeline([*job("lost", 0, None), restarted, *job("again", 5, 9)])
    assert [(each.id, each.end, each.state) for each in run.jobs] == [
        ("lost", 4, State.UNFINISHED),
        ("again", 9, State.ENDED),
    ]


def test_attempts_of_one_task_are_told_apart() -> None:
    run = timeline([*task("a", 0, 1, error="boom"), *task("a", 2, 3, worker="host:2")])
    assert [(each.worker, each.state) for each in run.tasks] == [
        ("host:1", State.FAILED),
        ("host:2", State.ENDED),
    ]


def test_a_resumed_run_does_not_count_the_pause() -> None:
    begin = events.RunStarted(time=START, workflow="sqd", engine="local", resource="aer")
    again = msgspec.structs.replace(begin, time=START + 100)
    run = timeline([begin, events.PhaseEnded(time=START + 5, phase="x"), again])
    assert (run.sessions, run.wall_seconds, run.seconds) == (2, 5, 100)
    assert run.unmatched == 1
    assert status(run).word == "did not end"
    ended = timeline([begin, again, events.RunEnded(time=START + 130, error="boom")])
    assert (ended.wall_seconds, status(ended).word) == (30, "failed")


def test_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    run = timeline([*phase("x", 5, 3), *task("a", 5, 4)])
    assert all(each.seconds >= 0 for each in (*run.phases, *run.tasks))


def test_union() -> None:
    assert union_seconds([]) == 0
    assert union_seconds([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4


# -- places -------------------------------------------------------------------------------------


def test_lanes_stand_in_order_and_do_not_overlap() -> None:
    lanes = arrange(timeline(run_events())).lanes
    assert [lane.title for lane in lanes] == ["QPU aer", "quantum 1", "quantum 2", "classical 1"]
    assert all(above.bottom == below.top for above, below in pairwise(lanes))


def test_overlapping_tasks_of_one_lane_stand_in_rows() -> None:
    run = timeline([*task("a", 0, 4), *task("b", 1, 2), *task("c", 2, 3), *task("d", 2.5, 5)])
    bars = arrange(run).bars
    assert [round(3 * bar.top / bar.lane.bottom) for bar in bars] == [0, 1, 1, 2]
    for one in bars:
        for other in bars:
            apart = one.bottom <= other.top or other.bottom <= one.top
            if one is not other and not apart:
                assert one.item.end <= other.item.start or other.item.end <= one.item.start


def test_many_tasks_become_cells_and_what_went_wrong_stays_marked() -> None:
    number = MOST_BARS + 500
    happened = [
        event
        for n in range(number)
        for event in task(f"{n}", n, n + 0.5 if n % 4 else None, worker=f"host:{n % 3}")
    ]
    arrangement = arrange(timeline(happened))
    assert sum(cell.begun for cell in arrangement.cells) == number
    assert all(0 <= cell.busy <= 1 for cell in arrangement.cells)
    assert len(arrangement.bars) == MOST_MARKS
    assert arrangement.hidden_marks == number // 4 - MOST_MARKS
    words = " ".join(drawing_words(arrangement))
    assert f"{number:,} classical tasks" in words
    assert f"{arrangement.hidden_marks} are not" in words


def test_cells_add_up_to_the_busy_time() -> None:
    happened = [event for n in range(MOST_BARS + 1) for event in task(f"{n}", n, n + 0.25)]
    run = timeline(happened)
    cells = arrange(run).cells
    worked = sum(cell.busy * (cell.end - cell.start) for cell in cells)
    assert worked == pytest.approx(0.25 * (MOST_BARS + 1))
    assert busy_part(run, Kind.CLASSICAL) == pytest.approx(worked / run.seconds)


def test_many_workers_share_lanes() -> None:
    happened = [event for n in range(500) for event in task(f"{n}", n, n + 9, worker=f"host:{n}")]
    arrangement = arrange(timeline(happened))
    assert len(arrangement.lanes) <= MOST_LANES
    assert sum(len(lane.places) for lane in arrangement.lanes) == 500
    assert "workers in a lane" in " ".join(drawing_words(arrangement))


# -- redaction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", ["secret", "a/", "/a", "token=", "a=", "://", "=", "bearer "])
def test_redaction_takes_no_long_time(piece: str) -> None:
    began = time.process_time()
    redacted(piece * 100_000)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("in '/home/ann/x/y.py', line 3", "in '…/y.py', line 3"),
        ("no such file: ~/keys/site.toml", "no such file: …/site.toml"),
        ("torino_QRMI_IBM_QCS_IAM_APIKEY=s3cret!", "torino_QRMI_IBM_QCS_IAM_APIKEY=[removed]"),
        ('{"token": "s3cret", "a": 1}', '{"token": [removed], "a": 1}'),
        ("Authorization: Bearer s3cret123", "Authorization: [removed]"),
        ("sent bearer s3cret1234", "sent bearer [removed]"),
        ("VendorJobError: token=s3cret was refused", "VendorJobError: token=[removed] was refused"),
        ("see https://ann:s3cret@host.org/a/b", "see https://host.org/a/b"),
        ("a ratio of 3/4 and a/b/c", "a ratio of 3/4 and a/b/c"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_long_texts_lose_their_end() -> None:
    assert shortened("abcdef", 4) == "abc…"
    assert len(redacted("a" * 100_000)) <= 5000


# -- the page -----------------------------------------------------------------------------------


def test_the_page_tells_what_matters(tmp_path: Path) -> None:
    text = text_of(write_report(write_run(tmp_path / "run", run_events(), RESULT)))
    for told in (
        "sqd on aer",
        "finished",
        "parsl",
        "-75.86808320 Ha",
        "exact: -75.86885075 Ha",
        "0.768 mHa",
        "within chemical accuracy",
        "12.5 s",
        "10,000",
        "4.4 s",
        "job-2",
        "1 task failed: ValueError: no convergence in …/solver.py",
        "1 task began and never ended",
        "2 quantum, 3 classical",
        "2 vendor jobs on 1 QPU",
        "a mean error of 15.3 mHa",
        "Time of phases",
        "diagonalize",
    ):
        assert told in text


def test_the_page_is_complete_in_itself(tmp_path: Path) -> None:
    file = write_report(write_run(tmp_path / "run", run_events(), RESULT))
    page = parsed(file)
    assert file.stat().st_size < 5_000_000
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "img", "base"}
        assert "src" not in attributes
        assert tag == "a" or "href" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    for style in page.styles:
        assert "url(" not in style
        assert "@import" not in style
    assert str(tmp_path) not in file.read_text("utf-8")


def test_the_page_can_be_read_without_seeing_it(tmp_path: Path) -> None:
    page = parsed(write_report(write_run(tmp_path / "run", run_events(), RESULT)))
    tags = [tag for tag, _ in page.tags]
    assert ("html", {"lang": "en"}) in page.tags
    assert tags.count("h1") == tags.count("title") == tags.count("main") == 1
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    figures = [attributes for tag, attributes in page.tags if tag == "figure"]
    assert len(figures) == 4
    for figure in figures:
        assert {figure["aria-labelledby"], figure["aria-describedby"]} <= ids
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&amp;'\"$$x$$ {{ 7*7 }}"


def test_nothing_from_outside_is_markup(tmp_path: Path) -> None:
    def spoilt(event: events.Event) -> events.Event:
        changed = {
            name: HOSTILE
            for name in event.__struct_fields__
            if isinstance(getattr(event, name), str) and name != "kind"
        }
        if isinstance(event, events.Iteration):
            changed["values"] = {HOSTILE: 3.0, "error_millihartree": 2.0}
        return msgspec.structs.replace(event, **changed)

    harmless = parsed(write_report(write_run(tmp_path / "good", run_events(), RESULT)))
    happened = [spoilt(event) for event in run_events()]
    file = write_report(write_run(tmp_path / "run", happened, RESULT))
    page = parsed(file)
    assert "img" not in {tag for tag, _ in page.tags}
    assert len(page.scripts) <= len(harmless.scripts)
    assert not [script for script in page.scripts if script.startswith("alert")]
    assert HOSTILE in "".join(page.text)


def test_labels_of_axes_are_never_read_as_tex() -> None:
    from bokeh.models import PlainText

    from hybridflow.report.curves import size_figure
    from hybridflow.report.figures import timeline_figure

    job_on_tex = events.VendorJobStarted(
        time=START, resource="$$x$$", vendor_job_id="1", requests=1, pubs=1
    )
    run = timeline([job_on_tex])
    overrides = timeline_figure(run, arrange(run)).yaxis[0].major_label_overrides
    assert [type(text) for text in overrides.values()] == [PlainText]
    sizes = size_figure([events.Iteration(number=1, values={"$$x$$": 1.0})])
    assert sizes is not None
    assert isinstance(sizes.yaxis[0].axis_label, PlainText)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_killed_run_says_so(tmp_path: Path, number: int) -> None:
    torn = b'{"event":"task_started","ti'
    text = text_of(write_report(write_run(tmp_path / "run", run_events()[:number], tail=torn)))
    assert "did not end" in text
    assert "it was killed" in text
    assert "In events-host-1.jsonl, 1 line cannot be read" in text


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", run_events()[:4], tail=b"nonsense\n\xff\n")
    with (folder / "events-host-1.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(run_events()[-1]) + b"\n")
    text = text_of(write_report(folder))
    assert "2 lines cannot be read" in text
    assert "finished" in text


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    happened = [*run_events()[:-1], events.RunEnded(time=START + 13, error="VendorJobError: no")]
    text = text_of(write_report(write_run(tmp_path / "run", happened)))
    assert "The run failed: VendorJobError: no" in text


@pytest.mark.parametrize("result", ["{", "[]", "", "\udcff"])
def test_a_result_that_cannot_be_read_is_told(tmp_path: Path, result: str) -> None:
    folder = write_run(tmp_path / "run", run_events())
    (folder / "result.json").write_bytes(result.encode("utf-8", "surrogateescape"))
    assert "result.json cannot be read" in text_of(write_report(folder))


def test_a_figure_that_cannot_be_read_leaves_the_others(tmp_path: Path) -> None:
    result = {**RESULT, "shots": "many", "control": {"max_dim": 3}}
    text = text_of(write_report(write_run(tmp_path / "run", run_events(), result)))
    assert "In result.json, `shots` cannot be read" in text
    assert "In result.json, `control` cannot be read" in text
    assert "0.768 mHa" in text


def test_a_result_without_exact_energy(tmp_path: Path) -> None:
    result = {"energy_hartree": -1.5, "error_millihartree": None, "control": None}
    text = text_of(write_report(write_run(tmp_path / "run", run_events(), result)))
    assert "-1.50000000 Ha" in text
    assert "exact" not in text.split("Timeline")[0]


def test_the_page_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", run_events())
    first = write_report(folder).read_text("utf-8")
    assert write_report(folder).read_text("utf-8") != ""
    assert "</html>" in first
    assert {file.name for file in folder.iterdir()} == {"events-host-1.jsonl", "report.html"}


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_part_of_a_run_has_a_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    everything = run_events()
    kept = data.draw(st.lists(st.sampled_from(everything), max_size=len(everything)))
    folder = write_run(tmp_path / "run", kept, data.draw(st.sampled_from([None, RESULT, {}])))
    file = folder / "events-host-1.jsonl"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: data.draw(st.integers(0, size))])
    with caplog.at_level(logging.WARNING):
        page = write_report(folder).read_text("utf-8")
    (folder / "result.json").unlink(missing_ok=True)
    assert page.rstrip().endswith("</html>")
    assert not caplog.records


def test_a_run_of_many_tasks_stays_small_and_says_what_it_added_up(tmp_path: Path) -> None:
    happened: list[events.Event] = []
    for n in range(20_000):
        kind = Role.QUANTUM if n % 4 == 0 else Role.CLASSICAL
        happened += task(f"{n}", n * 0.01, n * 0.01 + 0.6, worker=f"host:{n % 64}", kind=kind)
    file = write_report(write_run(tmp_path / "run", happened))
    assert file.stat().st_size < 5_000_000
    text = text_of(file)
    assert "20,000" in text
    assert "Too many to be drawn one by one: 5,000 quantum tasks, 15,000 classical tasks" in text


def test_more_vendor_jobs_than_the_table_lists(tmp_path: Path) -> None:
    happened = [event for n in range(250) for event in job(f"job-{n}", n, n + 0.5)]
    text = text_of(write_report(write_run(tmp_path / "run", happened)))
    assert "The first 200 vendor jobs are listed, 50 more are not" in text
    assert "1,250,000" in text


def test_the_axis_of_errors_has_ticks_for_any_range() -> None:
    from hybridflow.report.curves import error_figure

    def ticks(*errors: float) -> list[float]:
        told = enumerate(errors, start=1)
        plot = error_figure(
            [events.Iteration(number=n, values={"error_millihartree": error}) for n, error in told]
        )
        assert plot is not None
        return [round(tick, 9) for tick in plot.yaxis[0].ticker.ticks]

    assert ticks(12.9, 0.461) == [0.5, 1, 2, 5, 10, 20]
    assert ticks(100.0, 0.0001) == [0.0001, 0.001, 0.01, 0.1, 1, 10, 100]
    assert ticks(-2.0, 0.0) == [0.000001, 0.00001, 0.0001, 0.001, 0.01, 0.1, 1]


# -- faults of the call -------------------------------------------------------------------------


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither events nor a result"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        write_report(tmp_path / "nowhere")


def test_without_bokeh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(MissingExtraError, match=r"hybridflow\[report\]"):
        write_report(write_run(tmp_path / "run", run_events()))


def test_the_command(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", run_events())
    done = CliRunner().invoke(main, ["report", str(folder)])
    assert done.exit_code == 0
    assert Path(done.stdout.strip()) == folder / "report.html"
    assert CliRunner().invoke(main, ["report", str(tmp_path)]).exit_code == 2


def test_many_phases_and_rounds_stay_small_and_it_says_so(tmp_path: Path) -> None:
    happened: list[events.Event] = []
    for n in range(5000):
        happened += [
            events.PhaseStarted(time=START + n, phase=f"part {n}"),
            events.PhaseEnded(time=START + n + (5 if n == 77 else 0.1), phase=f"part {n}"),
            events.Iteration(
                time=START + n, number=n + 1, values={"error_millihartree": 9 / (n + 1)}
            ),
        ]
    file = write_report(write_run(tmp_path / "run", happened))
    assert file.stat().st_size < 3_000_000
    text = text_of(file)
    assert "Of 5,000 phases, the 500 longest are drawn." in text
    assert "Of 5,000 rounds, the pictures below show" in text
    assert "The 200 longest are listed, 4,800 more are not." in text
    assert "part 77" in text


def test_no_peak_is_lost_of_many_rounds() -> None:
    rounds = [
        events.Iteration(number=n, values={"a": -5.0 if n == 4321 else n % 7, "b": float(n)})
        for n in range(10_000)
    ]
    kept = fewer_rounds(rounds, ["a", "b"])
    assert len(kept) <= MOST_ROUNDS + 2
    assert [one.number for one in kept] == sorted({one.number for one in kept})
    assert {0, 4321, 9999} <= {one.number for one in kept}
    assert fewer_rounds(rounds[:100], ["a"]) == rounds[:100]
