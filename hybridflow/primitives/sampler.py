"""The sampler: Qiskit's ``BaseSamplerV2``, run by whatever holds the slot."""

from collections.abc import Iterable, Mapping
from typing import Any

from qiskit.primitives import BaseSamplerV2

from hybridflow.primitives.call import call
from hybridflow.primitives.coerce import sampler_pubs
from hybridflow.primitives.job import Job
from hybridflow.primitives.request import checked_priority, checked_seed
from hybridflow.records import Primitive

__all__ = ["Sampler"]


class Sampler(BaseSamplerV2):  # type: ignore[misc]
    """Samples circuits on a QPU slot; in a plain script, on the site's local simulator.

    It holds no connection: it can be pickled, sent to a worker and used after a fork, and is cheap
    to make.

    Parameters
    ----------
    resource
        Name of the resource, or of a route, which then chooses one for each call; the slot's, or
        the site's default one, if not given.
    default_shots
        Shots of each parameter set, where neither the PUB nor :meth:`run` names any.
    seed
        Makes the samples repeatable, where the backend can: each call of this sampler with the same
        PUBs gives the same counts, alone or merged into a batch. None: fresh randomness.
    transpile
        Whether circuits that are not in the resource's instruction set are transpiled for it; else
        they are refused.
    options
        Options of the backend, by name.
    priority
        Before which other requests of the workflow this one's go, from -10 to 10. Each step is
        worth a minute of waiting: what has waited for longer goes first all the same.

    Examples
    --------
    >>> from qiskit import QuantumCircuit
    >>> from hybridflow import Sampler
    >>> bell = QuantumCircuit(2)
    >>> _ = bell.h(0), bell.cx(0, 1), bell.measure_all()
    >>> job = Sampler(seed=7).run([bell], shots=1000)
    >>> sorted(job.result()[0].data.meas.get_counts())
    ['00', '11']
    """

    def __init__(
        self,
        resource: str | None = None,
        *,
        default_shots: int = 1024,
        seed: int | None = None,
        transpile: bool = False,
        options: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> None:
        self.resource = resource
        self.default_shots = default_shots
        self.seed = checked_seed(seed)
        self.transpile = transpile
        self.options = dict(options or {})
        self.priority = checked_priority(priority)

    def run(self, pubs: Iterable[Any], *, shots: int | None = None, key: str | None = None) -> Job:
        """Start sampling and return at once.

        Parameters
        ----------
        pubs
            Circuits, or tuples ``(circuit, parameter values, shots)`` of which the last parts may
            be left out. Values of shape ``(*shape, number of parameters)`` give a result of shape
            `shape`.
        shots
            Shots of each parameter set, where a PUB names none.
        key
            Names what comes of this call in its run: a later call with the same key, in this
            execution or when the run goes on, gets the same results, whatever its circuits are.
            Without it, equal calls of one task are as many samples, and a call is only known again
            when its task is run once more.

        Returns
        -------
        Job
            Its result holds, for each PUB, a ``BitArray`` for each classical register.

        Raises
        ------
        RequestError
            If something cannot be run; nothing was sent. In particular
            :class:`~hybridflow.errors.CircuitError` if a circuit measures nothing, has unbound
            parameters or is not ISA, and :class:`~hybridflow.errors.TooLargeError` if a limit of
            the resource is passed.
        NoSlotError
            If there is no slot where one is needed.
        BrokerLostError
            If the slot's broker cannot be reached.
        """
        return call(
            Primitive.SAMPLER,
            sampler_pubs(pubs, self.default_shots if shots is None else shots),
            resource=self.resource,
            seed=self.seed,
            options=self.options,
            transpile=self.transpile,
            key=key,
            priority=self.priority,
        )
