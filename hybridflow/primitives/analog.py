"""The analogue sampler: Pulser's sequences, run by whatever holds the slot.

A sequence travels as its abstract representation (JSON), in the place that a circuit's QPY has: the
broker treats it as it treats circuits. Pulser is not imported here: the user's own is used.
"""

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from hybridflow import slot
from hybridflow.errors import RequestError, TooLargeError
from hybridflow.primitives.admission import check_call
from hybridflow.primitives.call import send
from hybridflow.primitives.job import Job
from hybridflow.primitives.request import checked_priority, checked_seed, request_of, seeds_of
from hybridflow.records import Description, PackedPub, Primitive

__all__ = ["AnalogSampler"]

_FORMS = "a sequence, (sequence, values) or (sequence, values, shots)"


class AnalogSampler:
    """Samples the final state of Pulser sequences on a QPU slot.

    As :class:`~hybridflow.Sampler`, it holds no connection and can be pickled.

    Parameters
    ----------
    resource
        Name of the resource; the slot's, or the site's default one, if not given.
    default_shots
        Shots of each sequence, where neither the PUB nor :meth:`run` names any.
    seed
        Makes the samples repeatable, where the backend can. None: fresh randomness.
    options
        Options of the backend, by name.
    priority
        Before which other requests of the workflow this one's go, from -10 to 10.
    """

    def __init__(
        self,
        resource: str | None = None,
        *,
        default_shots: int = 1000,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> None:
        self.resource = resource
        self.default_shots = default_shots
        self.seed = checked_seed(seed)
        self.options = dict(options or {})
        self.priority = checked_priority(priority)

    def run(self, pubs: Iterable[Any], *, shots: int | None = None, key: str | None = None) -> Job:
        """Start sampling and return at once.

        Parameters
        ----------
        pubs
            Sequences (``pulser.Sequence``, or the text of ``sequence.to_abstract_repr()``), or
            tuples ``(sequence, values, shots)`` of which the last parts may be left out; `values`
            is a mapping of the sequence's variables, as ``sequence.build`` takes it, or None.
        shots
            Shots of each sequence, where a PUB names none.
        key
            As in :meth:`hybridflow.Sampler.run`.

        Returns
        -------
        Job
            Its result holds, for each PUB, the ``BitArray`` ``data.meas``, whose bitstrings read as
            Pulser's do: the first character is the register's first atom, 1 for the Rydberg state.

        Raises
        ------
        RequestError
            If something cannot be run; nothing was sent. What only the device's own rules tell
            (distances, channels, durations) fails the job, with the vendor's reason.
        NoSlotError
            If there is no slot where one is needed.
        BrokerLostError
            If the slot's broker cannot be reached.
        """
        packed = _packed(pubs, self.default_shots if shots is None else shots, self.seed)
        connection = slot.connect(self.resource)
        description = connection.describe()
        check_call(Primitive.ANALOG, self.options, self.seed, description)
        _check_limits(packed, description)
        request = request_of(Primitive.ANALOG, packed, self.options, key, self.priority)
        return send(connection, description, request, [None] * len(packed))


def _packed(pubs: Iterable[Any], shots: int, seed: int | None) -> tuple[PackedPub, ...]:
    if isinstance(pubs, str) or hasattr(pubs, "to_abstract_repr"):
        raise RequestError(
            "a primitive runs a list of PUBs: write run([sequence]), not run(sequence)"
        )
    listed = list(pubs)
    seeds = seeds_of(seed, len(listed))
    return tuple(
        _pack(number, pub, shots, own)
        for number, (pub, own) in enumerate(zip(listed, seeds, strict=True))
    )


def _pack(number: int, pub: Any, default_shots: int, seed: int | None) -> PackedPub:
    parts = pub if isinstance(pub, tuple) else (pub,)
    if not 1 <= len(parts) <= 3:
        raise RequestError(f"PUB {number} has {len(parts)} parts; a PUB is {_FORMS}")
    sequence, values, shots = (*parts, None, None)[:3]
    text = _text(number, sequence, values)
    count = _shots(number, default_shots if shots is None else shots)
    return PackedPub(circuit=text.encode(), shots=count, seed=seed)


def _text(number: int, sequence: Any, values: Any) -> str:
    if isinstance(sequence, str) and not values:
        return sequence
    if not hasattr(sequence, "to_abstract_repr") or not hasattr(sequence, "build"):
        kind = type(sequence).__name__
        advice = "; circuits are run by Sampler" if hasattr(sequence, "cregs") else ""
        if isinstance(sequence, str):
            advice = "; values need the sequence itself, not its representation"
        raise RequestError(f"PUB {number} starts with a {kind}; a PUB is {_FORMS}{advice}")
    _check_names(number, sequence, values)
    try:
        built = sequence.build(**values) if values else sequence
        if built.is_parametrized():
            names = ", ".join(built.declared_variables)
            raise RequestError(
                f"PUB {number}: the sequence has variables without values: {names}; give them in "
                "the PUB: (sequence, {name: value})"
            )
        return str(built.to_abstract_repr())
    except RequestError:
        raise
    except Exception as error:  # the vendor's checks raise whatever they like
        raise RequestError(f"PUB {number}: the sequence cannot be built: {error}") from error


def _check_names(number: int, sequence: Any, values: Any) -> None:
    # Pulser only warns of a variable that it does not know.
    if values is None:
        return
    if not isinstance(values, Mapping):
        raise RequestError(
            f"PUB {number}: values are a mapping, {{name: value}}, not a {type(values).__name__}"
        )
    known = sequence.declared_variables
    for name in values:
        if name not in known:
            raise RequestError(
                f"PUB {number}: the sequence has no variable {name!r}; "
                f"it has: {', '.join(known) or 'none'}"
            )


def _shots(number: int, shots: Any) -> int:
    try:
        count = operator.index(shots)
    except TypeError:
        count = 0
    if isinstance(shots, bool) or count < 1:
        raise RequestError(f"PUB {number}: shots must be an integer of at least 1, not {shots!r}")
    return count


def _check_limits(pubs: tuple[PackedPub, ...], description: Description) -> None:
    can, name = description.capabilities, description.resource
    if can.max_pubs is not None and len(pubs) > can.max_pubs:
        raise TooLargeError(
            f"{len(pubs)} PUBs are over the limit of {can.max_pubs} of resource {name!r}; send "
            "them in several calls"
        )
    for number, pub in enumerate(pubs):
        if can.max_shots is not None and (pub.shots or 0) > can.max_shots:
            raise TooLargeError(
                f"PUB {number}: {pub.shots} shots are over the limit of {can.max_shots} of "
                f"resource {name!r}; send several PUBs"
            )
