"""Sampler PUBs: from packed PUBs to samplings, and from memory to one packed result a PUB."""

import threading
from collections.abc import Callable

import msgspec
import numpy as np

from hybridflow import wire
from hybridflow.backends.aer.bits import Bits, select
from hybridflow.backends.aer.engine import Engine, Floats, Sampling
from hybridflow.backends.aer.plan import Plan
from hybridflow.errors import CircuitError, RequestError
from hybridflow.records import Batch, PackedPub, PackedResult

__all__ = ["run_sampler"]


def run_sampler(
    batch: Batch,
    engine: Engine,
    plan_of: Callable[[PackedPub], Plan],
    method: str,
    stop: threading.Event,
) -> tuple[PackedResult, ...]:
    """Sample a batch.

    Parameters
    ----------
    batch
        The PUBs.
    engine
        What samples.
    plan_of
        Looks at a PUB's circuit; raises for one that is not accepted.
    method
        Aer's simulation method.
    stop
        Set when the job is to stop.

    Raises
    ------
    RequestError
        If a PUB cannot be run.
    """
    shapes, samplings = [], []
    for pub in batch.pubs:
        plan = plan_of(pub)
        if not plan.written:
            raise CircuitError(
                f"the circuit {plan.name!r} measures nothing into a classical register, so that "
                "there is nothing to sample: add measurements, with measure_all() say"
            )
        values, shape = _parameter_values(pub, plan)
        shapes.append(shape)
        samplings.append(Sampling(plan, values, _shots(pub), pub.seed))
    memories = engine.sample(samplings, method, stop)
    return tuple(
        _packed_result(item, memory, shape)
        for item, memory, shape in zip(samplings, memories, shapes, strict=True)
    )


def _shots(pub: PackedPub) -> int:
    if pub.shots is None or pub.shots < 1:
        raise RequestError(f"a sampler's PUB needs at least one shot, not {pub.shots}")
    return pub.shots


def _parameter_values(pub: PackedPub, plan: Plan) -> tuple[Floats, tuple[int, ...]]:
    wanted = plan.circuit.num_parameters
    if pub.parameters is None:
        if wanted:
            raise CircuitError(f"the circuit {plan.name!r} has {wanted} unbound parameters")
        return np.zeros((1, 0)), ()
    values = wire.array_from_bytes(pub.parameters)
    if values.ndim < 1 or values.shape[-1] != wanted:
        raise RequestError(
            f"the circuit {plan.name!r} has {wanted} parameters; the shape of their values is "
            f"{values.shape}"
        )
    shape = values.shape[:-1]
    # Not -1 for the rows: there may be none.
    return values.reshape(int(np.prod(shape)), wanted).astype(np.float64), shape


def _packed_result(item: Sampling, memory: Bits, shape: tuple[int, ...]) -> PackedResult:
    total = item.plan.circuit.num_clbits
    arrays, bits = {}, {}
    for register in item.plan.registers:
        chosen = select(memory, total, register.bits)
        arrays[register.name] = wire.array_to_bytes(
            chosen.reshape(*shape, item.shots, chosen.shape[-1])
        )
        bits[register.name] = len(register.bits)
    return PackedResult(
        arrays=arrays,
        bits=bits,
        shape=shape,
        metadata=msgspec.json.encode({"shots": item.shots}),
    )
