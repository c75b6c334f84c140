"""On Dask's wire: circuits as QPY, never changed; the scheduler looks into none, nor a function."""

import copyreg
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, SimpleNamespace
from typing import Any

import dask
import numpy as np
import pytest
from dask.base import tokenize
from distributed import Client, LocalCluster
from distributed.protocol import deserialize, serialize
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Delay, Gate, Parameter

import hybridflow as hf
from hybridflow.errors import NoSlotError
from hybridflow.tasks import is_quantum_task, task_name
from hybridflow_dask import circuits
from hybridflow_dask.packed import PackedCircuit, PackedFunction
from hybridflow_dask.pickles import dumps, written

SECONDS = 60


class Own(Gate):  # type: ignore[misc]
    """A gate class that QPY does not know."""

    def __init__(self) -> None:
        super().__init__("own", 1, [])


class OwnCircuit(QuantumCircuit):  # type: ignore[misc]
    """A class of circuits that QPY does not know."""


@pytest.fixture
def circuit() -> QuantumCircuit:
    made = QuantumCircuit(3, metadata={"a": [1, 2.5]})
    made.rx(Parameter("t"), 0)
    made.cx(0, 2)
    made.measure_all()
    return transpile(made, basis_gates=["rz", "sx", "cx"], coupling_map=[[0, 1], [1, 2]])


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """One worker process that knows nothing of this package until it gets a circuit."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as made,
    ):
        circuits.install()
        yield made


def assert_same(one: QuantumCircuit, other: QuantumCircuit) -> None:
    assert one == other
    assert one.layout == other.layout
    assert one.metadata == other.metadata
    assert one.parameters == other.parameters


# Sent by value: no worker can import this module.


def look(*values: Any, **more: Any) -> tuple[str, Any]:
    first = (*values, *more.values())[0]
    while isinstance(first, list | tuple | dict):
        first = next(iter(first.values() if isinstance(first, dict) else first))
    return type(first).__name__, first


@pytest.fixture(autouse=True)
def _by_value() -> Iterator[None]:
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_task_gets_its_circuit_and_the_scheduler_bytes(
    client: Client, circuit: QuantumCircuit
) -> None:
    def held(dask_scheduler: Any, key: str) -> bool:
        task = dask_scheduler.tasks[key].run_spec
        return all(isinstance(arg, PackedCircuit) and b"QISKIT" in arg.data for arg in task.args)

    future = client.submit(look, circuit, pure=False)
    kind, back = future.result(SECONDS)
    assert kind == "QuantumCircuit"
    assert_same(back, circuit)
    assert client.run_on_scheduler(held, key=future.key)


def test_circuits_anywhere_in_a_graph(client: Client, circuit: QuantumCircuit) -> None:
    nested: list[Callable[[], Any]] = [
        lambda: dask.delayed(look)([{"deep": (circuit,)}]),
        lambda: dask.delayed(look)(named=circuit),
        lambda: dask.delayed(look)(dask.delayed(circuit)),
        lambda: dask.delayed(look)(circuit, dask.delayed(abs)(-1)),
    ]
    for make in nested:
        kind, back = client.compute(make()).result(SECONDS)
        assert kind == "QuantumCircuit"
        assert_same(back, circuit)
    both = dask.compute(*(make() for make in nested), scheduler=client)
    assert [kind for kind, _ in both] == ["QuantumCircuit"] * len(nested)


def test_circuits_in_arrays_and_bags(client: Client, circuit: QuantumCircuit) -> None:
    import dask.array as da
    import dask.bag as db

    def widths(block: Any, one: QuantumCircuit) -> Any:
        return block + one.num_qubits

    assert da.zeros(4, chunks=2).map_blocks(widths, circuit).compute().tolist() == [3.0] * 4
    bag = db.from_sequence([circuit, circuit], npartitions=2)
    assert bag.map(lambda one: one.num_qubits).compute(scheduler=client) == [3, 3]


def test_a_result_that_goes_on_to_another_task(client: Client, circuit: QuantumCircuit) -> None:
    copied = client.submit(lambda one: [one.copy()], circuit, pure=False)
    kind, back = client.submit(look, copied, pure=False).result(SECONDS)
    assert kind == "QuantumCircuit"
    assert_same(back, circuit)


def test_a_worker_sends_circuits_as_qpy(client: Client, circuit: QuantumCircuit) -> None:
    def sent(one: QuantumCircuit) -> bytes:
        from distributed.protocol import serialize

        from hybridflow_dask.circuits import install

        install()
        _, frames = serialize([one])
        return b"".join(frames)

    assert b"QISKIT" in client.submit(sent, circuit, pure=False).result(SECONDS)


def with_own_gate(circuit: QuantumCircuit) -> None:
    circuit.append(Own(), [0])


def with_odd_metadata(circuit: QuantumCircuit) -> None:
    circuit.metadata = {"tuple": (1, 2)}


def with_attribute(circuit: QuantumCircuit) -> None:
    circuit.note = "mine"


def with_parametric_delay(circuit: QuantumCircuit) -> None:
    circuit.append(Delay(Parameter("d"), "dt"), [0])


@pytest.mark.parametrize(
    "change", [with_own_gate, with_odd_metadata, with_attribute, with_parametric_delay]
)
def test_circuits_that_qpy_would_change_are_pickled(
    change: Callable[[QuantumCircuit], None],
) -> None:
    circuits.install()
    circuit = QuantumCircuit(1)
    change(circuit)
    header, frames = serialize([circuit, circuit])
    one, other = deserialize(header, frames)
    assert b"QISKIT" not in b"".join(frames)
    assert one is other
    assert one == circuit
    assert one.metadata == circuit.metadata
    assert vars(one).get("note") == vars(circuit).get("note")
    assert [type(i.operation) for i in one.data] == [type(i.operation) for i in circuit.data]


def test_a_class_of_circuits_is_kept() -> None:
    circuits.install()
    assert type(deserialize(*serialize(OwnCircuit(1)))) is OwnCircuit


def test_large_arrays_are_still_sent_beside_the_pickle(circuit: QuantumCircuit) -> None:
    circuits.install()
    array = np.arange(100_000.0)
    header, frames = serialize(SimpleNamespace(array=array, circuit=circuit))
    assert [len(frame) < 10_000 for frame in frames] == [True, False]
    back = deserialize(header, frames)
    np.testing.assert_array_equal(back.array, array)
    assert back.array.flags.writeable
    assert_same(back.circuit, circuit)


def test_copies_of_circuits_are_left_alone(circuit: QuantumCircuit) -> None:
    circuits.install()
    serialize([circuit])
    assert QuantumCircuit not in copyreg.dispatch_table
    assert b"QISKIT" not in pickle.dumps(circuit)
    assert b"QISKIT" in dumps(circuit)


def test_equal_circuits_have_equal_tokens(circuit: QuantumCircuit) -> None:
    circuits.install()
    token = tokenize(circuit)
    assert tokenize(circuit.copy()) == token
    assert tokenize(pickle.loads(dumps(circuit))) == token
    other = circuit.copy()
    other.x(0)
    assert tokenize(other) != token
    marked, named = circuit.copy(), circuit.copy()
    marked.metadata = {"tuple": (1, 2)}
    named.note = "mine"
    assert len({tokenize(one) for one in (circuit, marked, named)}) == 3
    assert tokenize(OwnCircuit(1, name="same")) != tokenize(QuantumCircuit(1, name="same"))


def test_the_scheduler_holds_a_marked_function_as_bytes(client: Client) -> None:
    @hf.quantum_task
    def step() -> None:
        pass

    def seen(dask_scheduler: Any, key: str) -> tuple[bool, bool, str]:
        from hybridflow.tasks import is_quantum_task, task_name
        from hybridflow_dask.packed import PackedFunction

        function = dask_scheduler.tasks[key].run_spec.func
        return isinstance(function, PackedFunction), is_quantum_task(function), task_name(function)

    future = client.submit(step, pure=False)
    with pytest.raises(NoSlotError, match="the quantum task 'step' runs in a worker"):
        future.result(SECONDS)  # the worker has the function itself, and is in no slot
    assert client.run_on_scheduler(seen, key=future.key) == (True, True, "step")


def test_where_a_packed_function_is_called_it_answers() -> None:
    factor = 2

    @hf.quantum_task
    def double(number: int) -> int:
        return factor * number

    packed = pickle.loads(written([double, double], packed=True))
    assert packed[0] is packed[1]
    assert isinstance(packed[0], PackedFunction)
    assert (is_quantum_task(packed[0]), task_name(packed[0])) == (True, "double")
    assert packed[0](4) == 8
    factor = 3  # what a function refers to is written anew each time
    assert pickle.loads(written(double, packed=True))(4) == 12
    function = pickle.loads(dumps(packed[0]))
    assert type(function) is FunctionType
    assert is_quantum_task(function)
    assert function(4) == 8


SCRIPT = """
from distributed import Client, LocalCluster
from qiskit import QuantumCircuit
from hybridflow_dask import circuits

class Found:
    def __init__(self, circuit):
        self.circuit = circuit

def find(circuit):
    return Found(circuit)

if __name__ == "__main__":
    circuits.install()
    circuit = QuantumCircuit(2)
    circuit.h(0)
    options = {"n_workers": 1, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        found = client.submit(find, circuit).result(60)
        assert type(found) is Found
        assert found.circuit == circuit
    print("done")
"""


def test_what_a_script_defines_travels_with_circuits(tmp_path: Any) -> None:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.stdout == "done\n", done.stderr
