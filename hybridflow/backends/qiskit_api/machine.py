"""What runs circuits, behind one handle: a ``BackendV2``, or V2 primitives, with its limits.

It is made when it is first looked at. What cannot be run there is refused here, before the vendor
is asked.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hybridflow import wire
from hybridflow.backends.qiskit_api import device as devices
from hybridflow.backends.qiskit_api.keeping import keep, kept, retriever
from hybridflow.backends.qiskit_api.loading import is_simulated, made
from hybridflow.backends.qiskit_api.options import QiskitOptions
from hybridflow.backends.qiskit_api.states import Submitted
from hybridflow.errors import AcquireError, RequestError, SiteError, TooLargeError
from hybridflow.records import (
    Batch,
    Capabilities,
    PackedPub,
    Primitive,
    TargetSnapshot,
)

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

__all__ = ["Machine"]


class Machine:
    """What a table of the site file names.

    Parameters
    ----------
    name
        Name of the resource.
    options
        Its keys.
    credentials
        Those that `options.secrets` names are handed to the factory.
    """

    def __init__(self, name: str, options: QiskitOptions, credentials: Mapping[str, str]) -> None:
        self.name = name
        self.options = options
        self._credentials = dict(credentials)

    @cached_property
    def _device(self) -> Any:
        """The ``BackendV2``; None where primitives alone are named."""
        options = self.options
        if not options.factory:
            return None
        found = made(self.name, "factory", options.factory, **options.arguments, **self._secrets)
        if options.is_pair:
            return found
        from qiskit.providers import BackendV2

        if not isinstance(found, BackendV2):
            raise SiteError(
                f"key `qpu.{self.name}.factory`: {options.factory} gives a "
                f"{type(found).__name__}, not a BackendV2 of Qiskit's",
                resource=self.name,
            )
        return found

    @cached_property
    def primitives(self) -> dict[Primitive, Any]:
        """The V2 primitives; none where circuits are run by counts."""
        options = self.options
        first = () if self._device is None else (self._device,)
        secrets = {} if options.factory else self._secrets
        found = {}
        for primitive, path, arguments in (
            (Primitive.SAMPLER, options.sampler, options.sampler_arguments),
            (Primitive.ESTIMATOR, options.estimator, options.estimator_arguments),
        ):
            if path:
                found[primitive] = made(
                    self.name, primitive.value, path, *first, **arguments, **secrets
                )
                _check_primitive(self.name, primitive, path, found[primitive])
        return found

    @property
    def _secrets(self) -> dict[str, str]:
        wanted = self.options.secrets
        missing = [name for name in wanted.values() if name not in self._credentials]
        if missing:
            raise AcquireError(
                f"{self.name} needs credentials that this slot does not have: {', '.join(missing)}",
                resource=self.name,
            )
        return {argument: self._credentials[name] for argument, name in wanted.items()}

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the backend declares, within the bounds of the site file.

        Raises
        ------
        MissingExtraError, SiteError
            If what the site file names is not there.
        AcquireError
            If it cannot be made.
        """
        options, names = self.options, self._option_names
        known = [self._device, *self.primitives.values()]
        simulated = any(is_simulated(each) for each in known if each is not None)
        return Capabilities(
            primitives=tuple(self.primitives or (Primitive.SAMPLER, Primitive.ESTIMATOR)),
            simulator=simulated if options.simulator is None else options.simulator,
            num_qubits=self.snapshot.num_qubits,
            max_shots=self._max_shots,
            lanes=options.lanes,
            seeds=bool(options.seed_option),
            exact=options.exact,
            durable_jobs=options.durable,
            options={primitive: names for primitive in Primitive} if names else {},
            fixed_seconds=options.seconds_per_job,
            circuit_seconds=options.seconds_per_circuit,
            shot_seconds=options.seconds_per_shot,
        )

    @cached_property
    def _option_names(self) -> tuple[str, ...]:
        if self.options.is_pair:
            return ()
        names = devices.option_names(self._device)
        return tuple(name for name in names if name != self.options.seed_option)

    @cached_property
    def _max_shots(self) -> int | None:
        declared = None if self._device is None else devices.limit_of(self._device, "shots")
        bounds = [bound for bound in (declared, self.options.max_shots) if bound]
        return min(bounds, default=None)

    @cached_property
    def snapshot(self) -> TargetSnapshot:
        """The device's target; of primitives that do not tell theirs, any gate anywhere."""
        device = self._device
        for primitive in self.primitives.values():
            device = device or getattr(primitive, "backend", None)
        if device is None or not hasattr(device, "run"):
            return devices.anything(self.options.num_qubits)
        return devices.snapshot(self.name, device, self.options.num_qubits)

    def metadata(self) -> dict[str, str]:
        """Return the class, the name, the version and the calibration."""
        known = [self._device, *self.primitives.values()]
        return next(devices.described(each) for each in known if each is not None)

    def forget(self) -> None:
        """Have all made anew: a connection may be dead, a device calibrated meanwhile."""
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                self.__dict__.pop(name, None)

    def submit(self, batch: Batch, tag: str) -> Submitted:
        """Start a batch; one without a tag is nobody's but this process's.

        Raises
        ------
        HybridflowError
            As :meth:`QiskitBackend.start` says.
        """
        self._check(batch)
        if self.primitives:
            return self._pair(batch)
        started = self._counted(batch)
        if self.options.durable and tag:
            keep(self.name, started.id, batch)
        return started

    def resubmitted(self, job_id: str) -> Submitted:
        """Return a batch that another process has started.

        Raises
        ------
        ResourceError
            If its circuits are not known here, or its jobs not at the vendor.
        """
        from hybridflow.backends.qiskit_api.submission import submitted

        batch = kept(self.name, job_id)
        return submitted(
            self.name,
            retriever(self._device),
            job_id,
            [self._plan(pub, batch.primitive) for pub in batch.pubs],
            most=devices.max_circuits(self._device),
        )

    def check_durable(self) -> None:
        """Refuse `durable = true` of a device whose jobs cannot be had again.

        Raises
        ------
        SiteError
            If there is no way to them.
        """
        if self.options.durable and retriever(self._device) is None:
            raise SiteError(
                f"key `qpu.{self.name}.durable`: jobs cannot be had again by their ids: "
                "the device has no retrieve_job(), and its provider neither that nor job()",
                resource=self.name,
            )

    def _check(self, batch: Batch) -> None:
        can = self.capabilities
        if batch.primitive not in can.primitives:
            raise RequestError(
                f"{self.name} does not run the {batch.primitive} primitive; it runs: "
                f"{', '.join(can.primitives)}"
            )
        for option in batch.options:
            if option not in can.options.get(batch.primitive, ()):
                raise RequestError(f"{self.name} has no option {option!r} of its run()")
        for pub in batch.pubs:
            self._check_pub(pub)

    def _check_pub(self, pub: PackedPub) -> None:
        can = self.capabilities
        if pub.precision == 0 and not can.exact:
            raise RequestError(
                f"precision 0 asks for exact values, which {self.name} does not compute; ask for "
                "a precision above 0"
            )
        if can.max_shots is not None and (pub.shots or 0) > can.max_shots:
            raise TooLargeError(
                f"{self.name} takes {can.max_shots} shots a circuit, not {pub.shots}"
            )

    def _pair(self, batch: Batch) -> Submitted:
        from hybridflow.backends.qiskit_api.pair import submit_pubs

        pubs = [wire.unpack_pub(pub, batch.primitive) for pub in batch.pubs]
        for pub in pubs:
            self._check_width(pub.circuit)
        primitive = self.primitives[batch.primitive]
        return submit_pubs(self.name, primitive, pubs, batch, self.options.refusals)

    def _counted(self, batch: Batch) -> Submitted:
        from hybridflow.backends.qiskit_api.submission import submit

        return submit(
            self.name,
            self._device,
            [self._plan(pub, batch.primitive) for pub in batch.pubs],
            {**self.options.run_options, **batch.options},
            most=devices.max_circuits(self._device),
            seed_option=self.options.seed_option,
            refusals=self.options.refusals,
        )

    def _plan(self, pub: PackedPub, primitive: Primitive) -> Any:
        from hybridflow.backends.qiskit_api.estimator import EstimatorPlan
        from hybridflow.backends.qiskit_api.sampler import SamplerPlan

        sampled = primitive is Primitive.SAMPLER
        plan = SamplerPlan(pub) if sampled else EstimatorPlan(pub, self._target)
        self._check_width(plan.circuit)
        return plan

    def _check_width(self, circuit: "QuantumCircuit") -> None:
        bound = self.capabilities.num_qubits
        if bound is not None and circuit.num_qubits > bound:
            raise TooLargeError(
                f"the circuit {circuit.name!r} has {circuit.num_qubits} qubits; {self.name} has "
                f"{bound}"
            )

    @cached_property
    def _target(self) -> Any:
        from hybridflow.targets import target_of

        return target_of(self.snapshot)


def _check_primitive(resource: str, primitive: Primitive, path: str, found: object) -> None:
    from qiskit.primitives import BaseEstimatorV2, BaseSamplerV2

    wanted: Any = BaseSamplerV2 if primitive is Primitive.SAMPLER else BaseEstimatorV2
    if not isinstance(found, wanted):
        raise SiteError(
            f"key `qpu.{resource}.{primitive.value}`: {path} gives a {type(found).__name__}, not a "
            f"{wanted.__name__} of Qiskit's",
            resource=resource,
        )
