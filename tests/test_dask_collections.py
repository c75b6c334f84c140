"""Quantum steps inside Dask's collections: each runs right or is refused, whatever is optimized."""

import itertools
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask._task_spec import Alias, DataNode, Task, TaskRef
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker
from tlz import compose

import hybridflow as hf
from hybridflow.errors import TaskError
from hybridflow_dask import HybridPlugin, quantum
from hybridflow_dask.graphs import Kind, steps

SECONDS = 60
ITEMS = [1.0, 2.0, 3.0, 4.0]
PLACES: list[tuple[str, str]] = []
"""Which step ran on which worker; the workers are in this process."""

RUNS = itertools.count()
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "no-fuse": {"optimization.fuse.active": False},
    "annotations": {"optimization.fuse.active": False, "optimization.annotations.fuse": False},
    "fuse-delayed": {"optimization.fuse.delayed": True},
    "all": {"optimization.fuse.active": True, "optimization.fuse.delayed": True},
}


@hf.quantum_task
def sample(x: Any, *_: Any) -> Any:
    PLACES.append(("sample", str(get_worker().name)))
    return x + 1


def before(x: Any, *_: Any) -> Any:
    PLACES.append(("before", str(get_worker().name)))
    return x * 2


def after(x: Any, *_: Any) -> Any:
    PLACES.append(("after", str(get_worker().name)))
    return x * 3


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """The scheduler runs in this process: what is configured here is configured for it, too."""
    workers = {
        name: {"cls": Worker, "options": {"nthreads": 1, "resources": labels}}
        for name, labels in {"classical": {}, "quantum": {"QPU": 1, "QPU-aer": 1}}.items()
    }
    options = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "port": 0}
    with (
        SpecCluster(workers, {"cls": Scheduler, "options": options}) as cluster,
        Client(cluster) as made,
    ):
        made.register_plugin(HybridPlugin(require_slot=False, no_slot_seconds=1))
        made.wait_for_workers(2)
        yield made


# --- every way in which a quantum step enters a graph ---------------------------------------------

FRAME = pd.DataFrame({"a": ITEMS})
EXPECTED = [(x * 2 + 1) * 3 for x in ITEMS]


def submit(client: Client, **_: Any) -> Any:
    chains = [client.submit(after, client.submit(sample, client.submit(before, x))) for x in ITEMS]
    return client.gather(chains)


def map_(client: Client, **_: Any) -> Any:
    found = client.map(after, client.map(sample, client.map(before, ITEMS)))
    return client.gather(found)


def map_in_batches(client: Client, **_: Any) -> Any:
    firsts = client.map(before, ITEMS, batch_size=2)
    return client.gather(client.map(after, client.map(sample, firsts, batch_size=3)))


def get(client: Client, **_: Any) -> Any:
    run = next(RUNS)
    names = [f"{run}-{n}" for n in range(len(ITEMS))]
    graph = {f"x{name}": (before, x) for name, x in zip(names, ITEMS, strict=True)}
    graph |= {f"y{name}": (sample, f"x{name}") for name in names}
    graph |= {f"z{name}": (after, f"y{name}") for name in names}
    return client.get(graph, [f"z{name}" for name in names])


def nested_get(client: Client, **_: Any) -> Any:
    name = f"nested-{next(RUNS)}"
    return [client.get({name: (after, (sample, (before, x)))}, name) for x in ITEMS]


def delayed(client: Client, **options: Any) -> Any:
    first, second, third = map(dask.delayed, (before, sample, after))
    # One by one: with `optimization.fuse.delayed`, Dask itself can compute no more than one.
    return [third(second(first(x))).compute(**options) for x in ITEMS]


def delayed_persist(client: Client, **options: Any) -> Any:
    first, second, third = map(dask.delayed, (before, sample, after))
    held = [second(first(x)).persist(**options) for x in ITEMS]
    return [third(x).compute(**options) for x in held]


def array(client: Client, **options: Any) -> Any:
    x = da.from_array(np.array(ITEMS), chunks=2)
    chain = x.map_blocks(before, dtype=float).map_blocks(sample, dtype=float)
    return list(chain.map_blocks(after, dtype=float).compute(**options))


def array_alone(client: Client, **options: Any) -> Any:
    """The step stands between persisted data and another computation."""
    x = da.from_array(np.array(ITEMS), chunks=2).map_blocks(before, dtype=float).persist()
    y = x.map_blocks(sample, dtype=float).persist(**options)
    return list(y.map_blocks(after, dtype=float).compute(**options))


def array_blockwise(client: Client, **options: Any) -> Any:
    x = da.from_array(np.array(ITEMS), chunks=2).map_blocks(before, dtype=float)
    y = da.blockwise(sample, "i", x, "i", dtype=float)
    return list(da.map_blocks(after, y, dtype=float).compute(**options))


def array_gufunc(client: Client, **options: Any) -> Any:
    x = da.from_array(np.array(ITEMS), chunks=2).map_blocks(before, dtype=float)
    y = da.apply_gufunc(sample, "()->()", x, output_dtypes=float)
    return list(y.map_blocks(after, dtype=float).compute(**options))


def array_reduction(client: Client, **options: Any) -> Any:
    x = da.from_array(np.array(ITEMS), chunks=2).map_blocks(before, dtype=float)
    y = x.map_blocks(sample, dtype=float).map_blocks(after, dtype=float)
    total = y.sum().compute(**options)
    assert total == sum(EXPECTED)
    return EXPECTED


def array_of_delayed(client: Client, **options: Any) -> Any:
    parts = [dask.delayed(sample)(dask.delayed(before)(np.array([x]))) for x in ITEMS]
    x = da.concatenate([da.from_delayed(part, (1,), dtype=float) for part in parts])
    return list(x.map_blocks(after, dtype=float).compute(**options))


def bag(client: Client, **options: Any) -> Any:
    items = db.from_sequence(ITEMS, npartitions=2)
    return items.map(before).map(sample).map(after).compute(**options)


def bag_alone(client: Client, **options: Any) -> Any:
    held = db.from_sequence(ITEMS, npartitions=2).map(before).persist()
    return held.map(sample).persist(**options).map(after).compute(**options)


def bag_partitions(client: Client, **options: Any) -> Any:
    items = db.from_sequence(ITEMS, npartitions=2).map(before)
    found = items.map_partitions(lambda part: [x for x in part]).map_partitions(_sample_all)
    return found.map(after).compute(**options)


@hf.quantum_task
def _sample_all(part: list[Any]) -> list[Any]:
    return [sample(x) for x in part]


def bag_filter(client: Client, **options: Any) -> Any:
    items = db.from_sequence(ITEMS, npartitions=2).map(before).filter(_keep)
    return items.map(lambda x: x + 1).map(after).compute(**options)


@hf.quantum_task
def _keep(x: Any) -> bool:
    return bool(sample(x))


def frame(client: Client, **options: Any) -> Any:
    x = dd.from_pandas(FRAME, npartitions=2).map_partitions(before, meta=FRAME)
    y = x.map_partitions(sample, meta=FRAME).map_partitions(after, meta=FRAME)
    return list(y.compute(**options).a)


def series(client: Client, **options: Any) -> Any:
    x = dd.from_pandas(FRAME, npartitions=2).a
    for step in (before, sample, after):
        x = x.map(step, meta=("a", float))
    return list(x.compute(**options))


def series_apply(client: Client, **options: Any) -> Any:
    x = dd.from_pandas(FRAME, npartitions=2).a
    for step in (before, sample, after):
        x = x.apply(step, meta=("a", float))
    return list(x.compute(**options))


def frame_to_delayed(client: Client, **options: Any) -> Any:
    parts = dd.from_pandas(FRAME, npartitions=2).map_partitions(before, meta=FRAME).to_delayed()
    chains = [dask.delayed(after)(dask.delayed(sample)(part)) for part in parts]
    return list(pd.concat([chain.compute(**options) for chain in chains]).a)


WAYS = [
    submit, map_, map_in_batches, get, nested_get, delayed, delayed_persist, array, array_alone,
    array_blockwise, array_gufunc, array_reduction, array_of_delayed, bag, bag_alone,
    bag_partitions, bag_filter, frame, series, series_apply, frame_to_delayed,
]  # fmt: skip

# Where Dask fuses: what cannot run right then, but must as it was written.
FUSED = {
    array, array_blockwise, array_gufunc, array_reduction, array_of_delayed,
    bag, bag_alone, bag_partitions, bag_filter,
}  # fmt: skip
FUSED_IF_ASKED = {delayed, delayed_persist, frame_to_delayed}


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-it-is"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_right_or_refused(
    client: Client, way: Callable[..., Any], settings: str, optimize: bool
) -> None:
    PLACES.clear()
    chosen = SETTINGS[settings]
    asked = chosen.get("optimization.fuse.delayed", False)
    may_be_fused = way in FUSED or (way in FUSED_IF_ASKED and asked)
    refused = None
    with dask.config.set(chosen):
        try:
            found = way(client, **({} if optimize else {"optimize_graph": False}))
        except TaskError as error:
            refused = str(error)
    if refused is None:
        assert list(found) == EXPECTED
        assert {place for _, place in PLACES} == {"classical", "quantum"}
    else:
        assert way is nested_get or (optimize and may_be_fused)
        assert re.search(r"quantum step\(s\) '\w+' and the classical step", refused)
    for step, place in PLACES:
        assert place == ("quantum" if step == "sample" else "classical"), (step, place)


def test_what_is_refused_is_refused_whole(client: Client) -> None:
    """Nothing of it runs: not what comes before it, and not what comes after."""
    PLACES.clear()
    x = da.ones(8, chunks=1).map_blocks(sample, dtype=float)
    with pytest.raises(TaskError, match=r"'sample' and the classical step.*'ones_like'"):
        x.sum().compute()
    assert not PLACES


@pytest.mark.parametrize("options", [{}, {"optimize_graph": False}], ids=["optimized", "as-it-is"])
def test_the_advice_fits_what_is_one_task_as_written(
    client: Client, options: dict[str, Any]
) -> None:
    """Nobody is told to switch an optimization off that is not to blame."""
    items = db.from_sequence(ITEMS, npartitions=2)
    folded = items.foldby(lambda x: x % 2, sample, 0)
    with pytest.raises(TaskError, match=r"`foldby` or `groupby`.*no setting helps: make each"):
        folded.compute(**options)
    name = f"written-{next(RUNS)}"
    with pytest.raises(TaskError, match=r"'sample' and .*'sum'.*a key of its own in the graph"):
        client.get({name: (sum, [(sample, 1), (sample, 2)])}, name)
    with quantum(), pytest.raises(TaskError, match=r"'before', 'after'.*then, it is one task"):
        client.get({f"a-{name}": (after, (before, 1))}, f"a-{name}")


def test_the_advice_fits_what_was_fused(client: Client) -> None:
    """A function of whole rows, whose blocks Dask puts together first."""
    rows = da.from_array(np.array(ITEMS), chunks=2).rechunk(4)
    found = da.apply_gufunc(sample, "(i)->(i)", rows, output_dtypes=float)
    with pytest.raises(TaskError, match=r"or compute with `optimize_graph=False`$"):
        found.compute()
    assert list(found.compute(optimize_graph=False)) == [x + 1 for x in ITEMS]


def test_only_quantum_steps_may_be_one_task(client: Client) -> None:
    PLACES.clear()
    items = db.from_sequence(ITEMS, npartitions=2)
    assert items.map(sample).map(sample).compute() == [x + 2 for x in ITEMS]
    assert {place for _, place in PLACES} == {"quantum"}


# --- annotations ----------------------------------------------------------------------------------


def test_an_annotated_function_without_the_mark(client: Client) -> None:
    PLACES.clear()
    with quantum():
        y = dask.delayed(before)(1)
    assert dask.delayed(after)(y).compute() == 6
    assert PLACES == [("before", "quantum"), ("after", "classical")]


def test_an_annotation_that_fusion_has_spread_is_refused(client: Client) -> None:
    """Dask merges the annotations of what it fuses: which step was meant cannot be told."""

    def annotated(size: int) -> Any:
        x = da.ones(size, chunks=2).map_blocks(after, dtype=float)
        with quantum():
            y = x.map_blocks(before, dtype=float)
        return y.map_blocks(after, dtype=float)

    spread, kept = SETTINGS["no-fuse"], SETTINGS["annotations"]
    with dask.config.set(spread), pytest.raises(TaskError, match=r"annotated.*'before'.*mark"):
        annotated(4).compute()
    PLACES.clear()
    with dask.config.set(kept):
        assert list(annotated(6).compute()) == [18.0] * 6
    assert set(PLACES) == {("after", "classical"), ("before", "quantum")}


def test_dasks_own_steps_need_no_qpu(client: Client) -> None:
    """An annotation around `compute` is on each task of the graph."""
    PLACES.clear()
    found = (
        da.ones(4, chunks=2)
        .map_blocks(sample, dtype=float)
        .compute(optimize_graph=False, resources={"QPU": 1})
    )
    assert list(found) == [2.0] * 4
    assert {place for _, place in PLACES} == {"quantum"}


# --- two samples ----------------------------------------------------------------------------------


def test_equal_collections_are_two_samples(client: Client) -> None:
    held = db.from_sequence(ITEMS, npartitions=2).persist()
    PLACES.clear()
    dask.compute(held.map(sample), held.map(sample), optimize_graph=False)
    assert len(PLACES) == 2 * len(ITEMS)
    frame = dd.from_pandas(FRAME, npartitions=2)
    PLACES.clear()
    dask.compute(*[frame.map_partitions(sample, meta=FRAME) for _ in range(2)])
    assert len(PLACES) == 4


# --- what is inside a task ------------------------------------------------------------------------


def test_a_function_among_the_arguments_is_data(client: Client) -> None:
    def name(function: Callable[..., Any]) -> tuple[str, str]:
        return function.__name__, str(get_worker().name)

    assert client.submit(name, sample).result(SECONDS) == ("sample", "classical")


def test_steps() -> None:
    def kinds(node: Any) -> list[Kind]:
        return [step.kind for step in steps(node)]

    assert kinds(None) == []
    assert kinds(DataNode("x", 1)) == []
    assert kinds(Alias("x", "y")) == []
    assert kinds(Task("x", sum, [1])) == [Kind.CLASSICAL]
    assert kinds(Task("x", partial(partial(sample, 1), 2))) == [Kind.QUANTUM]
    assert kinds(Task("x", compose(after, sample), 1)) == [Kind.QUANTUM]
    assert kinds(Task("x", map, sample, [1])) == [Kind.QUANTUM]
    assert kinds(Task("x", partial(map, sample), [1])) == [Kind.QUANTUM]
    fused = Task.fuse(Task("x", before, 1), Task("y", sample, TaskRef("x")))
    assert sorted(steps(fused)) == [("before", Kind.CLASSICAL), ("sample", Kind.QUANTUM)]
