"""The estimator: Qiskit's ``BaseEstimatorV2``, run by whatever holds the slot."""

from collections.abc import Iterable, Mapping
from typing import Any

from qiskit.primitives import BaseEstimatorV2

from hybridflow.primitives.call import call
from hybridflow.primitives.coerce import estimator_pubs
from hybridflow.primitives.job import Job
from hybridflow.primitives.request import checked_priority, checked_seed
from hybridflow.records import Primitive

__all__ = ["Estimator"]


class Estimator(BaseEstimatorV2):  # type: ignore[misc]
    """Estimates expectation values on a QPU slot; in a plain script, on the local simulator.

    It holds no connection: it can be pickled, sent to a worker and used after a fork, and is cheap
    to make.

    Parameters
    ----------
    resource
        Name of the resource, or of a route, which then chooses one for each call; the slot's, or
        the site's default one, if not given.
    default_precision
        Target standard error, where neither the PUB nor :meth:`run` names one. 0 asks for exact
        values, which only some simulators can compute.
    seed
        Makes the values repeatable, where the backend can. None: fresh randomness.
    transpile
        Whether circuits that are not in the resource's instruction set are transpiled for it (the
        observables follow their qubits); else they are refused.
    options
        Options of the backend, by name.
    priority
        Before which other requests of the workflow this one's go, from -10 to 10. Each step is
        worth a minute of waiting: what has waited for longer goes first all the same.

    Examples
    --------
    >>> from qiskit import QuantumCircuit
    >>> from hybridflow import Estimator
    >>> bell = QuantumCircuit(2)
    >>> _ = bell.h(0), bell.cx(0, 1)
    >>> job = Estimator(seed=7).run([(bell, ["ZZ", "ZI"])], precision=0)
    >>> job.result()[0].data.evs.round(6).tolist()
    [1.0, 0.0]
    """

    def __init__(
        self,
        resource: str | None = None,
        *,
        default_precision: float = 0.015625,
        seed: int | None = None,
        transpile: bool = False,
        options: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> None:
        self.resource = resource
        self.default_precision = default_precision
        self.seed = checked_seed(seed)
        self.transpile = transpile
        self.options = dict(options or {})
        self.priority = checked_priority(priority)

    def run(
        self, pubs: Iterable[Any], *, precision: float | None = None, key: str | None = None
    ) -> Job:
        """Start estimating and return at once.

        Parameters
        ----------
        pubs
            Tuples ``(circuit, observables, parameter values, precision)`` of which the last parts
            may be left out. The shapes of observables and parameter values broadcast.
        precision
            Target standard error, where a PUB names none.
        key
            Names what comes of this call in its run: a later call with the same key, in this
            execution or when the run goes on, gets the same results, whatever its circuits are.
            Without it, equal calls of one task are as many samples, and a call is only known again
            when its task is run once more.

        Returns
        -------
        Job
            Its result holds, for each PUB, the arrays ``evs`` and ``stds``.

        Raises
        ------
        RequestError
            If something cannot be run; nothing was sent. In particular
            :class:`~hybridflow.errors.CircuitError` if a circuit has unbound parameters or is not
            ISA, and :class:`~hybridflow.errors.TooLargeError` if a limit of the resource is passed.
        NoSlotError
            If there is no slot where one is needed.
        BrokerLostError
            If the slot's broker cannot be reached.
        """
        return call(
            Primitive.ESTIMATOR,
            estimator_pubs(pubs, self.default_precision if precision is None else precision),
            resource=self.resource,
            seed=self.seed,
            options=self.options,
            transpile=self.transpile,
            key=key,
            priority=self.priority,
        )
