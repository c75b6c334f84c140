"""The conformance checks of analogue backends: what is asked where `analog` is declared.

The sequences are Pulser's, for a global Rydberg channel, which every device of that kind has: a pi
pulse on an atom that stands alone, and on a pair of which only one can be excited. They are made
for the device of ``pulser.devices`` that the backend's metadata names as ``device``, else for
``AnalogDevice``.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hybridflow.errors import MissingExtraError
from hybridflow.records import PackedPub, Primitive
from hybridflow.testing.subject import Subject

__all__ = ["ANALOG_CHECKS", "analog_pub", "wide_pub"]

_ANALOG = Primitive.ANALOG
_NANOSECONDS = 1048
_ALONE = [(0.0, 0.0)]


def analog_pub(subject: Subject, shots: int = 100) -> PackedPub:
    """Return a PUB with a pi pulse on one atom: it reads 1."""
    return _pulsed(subject, _ALONE, math.pi, shots)


def wide_pub(subject: Subject, atoms: int) -> PackedPub:
    """Return a PUB with many atoms, 6 µm apart."""
    side = math.isqrt(atoms - 1) + 1
    places = [(6.0 * (number % side), 6.0 * (number // side)) for number in range(atoms)]
    return _pulsed(subject, places, math.pi, 10, device="MockDevice")


def _pulsed(
    subject: Subject,
    places: list[tuple[float, float]],
    area: float,
    shots: int,
    seed: int | None = None,
    device: str | None = None,
) -> PackedPub:
    try:
        import pulser
    except ImportError as error:
        raise MissingExtraError(
            "the checks of an analogue backend need pulser, which is not installed; install it "
            "with: pip install 'hybridflow[pulser]'"
        ) from error
    register = pulser.Register({f"q{number}": place for number, place in enumerate(places)})
    sequence = pulser.Sequence(register, _device(subject, device))
    sequence.declare_channel("global", "rydberg_global")
    amplitude = area / (_NANOSECONDS / 1000)  # rad/µs
    sequence.add(pulser.Pulse.ConstantPulse(_NANOSECONDS, amplitude, 0.0, 0.0), "global")
    return PackedPub(circuit=sequence.to_abstract_repr().encode(), shots=shots, seed=seed)


def _device(subject: Subject, name: str | None) -> Any:
    import pulser

    wanted = name or subject.backend.metadata().get("device", "")
    return getattr(pulser.devices, wanted, pulser.AnalogDevice)


def _strings(array: Any) -> dict[str, float]:
    # The share of the shots of each bitstring.
    return {text: count / array.num_shots for text, count in array.get_counts().items()}


def analog_is_not_silent(subject: Subject) -> None:
    """Check: a pi pulse excites an atom: an adapter that lost its samples gives zeros."""
    data = subject.run(_ANALOG, [analog_pub(subject, 200)]).data[0].meas
    assert (data.num_shots, data.num_bits) == (200, 1), (
        f"200 shots of 1 atom were asked for; there are {data.num_shots} of {data.num_bits}"
    )
    share = _strings(data).get("1", 0.0)
    assert share >= subject.fidelity, f"a pi pulse on one atom gives 1 in {share:.1%} of the shots"


def analog_keeps_atoms(subject: Subject) -> None:
    """Check: the first character is the first atom, and of two near atoms only one is excited."""
    pub = _pulsed(subject, [(0.0, 0.0), (5.0, 0.0), (30.0, 0.0)], math.pi, 400)
    found = _strings(subject.run(_ANALOG, [pub]).data[0].meas)
    alone = sum(share for text, share in found.items() if text[2] == "1")
    both = sum(share for text, share in found.items() if text[:2] == "11")
    assert alone >= subject.fidelity, (
        f"the third atom stands alone and should read 1; shares of the bitstrings: {found}"
    )
    assert both <= 1 - subject.fidelity + 0.05, f"two atoms in blockade are both excited: {found}"


def analog_keeps_order(subject: Subject) -> None:
    """Check: several PUBs with different shots come back in the order in which they were sent."""
    wanted = [(math.pi, 100), (0.0, 37), (0.0, 50), (math.pi, 37)]
    wanted = wanted[: subject.backend.capabilities.max_pubs or len(wanted)]
    pubs = [_pulsed(subject, _ALONE, area, shots) for area, shots in wanted]
    answer = subject.run(_ANALOG, pubs)
    for number, (area, shots) in enumerate(wanted):
        data = answer.data[number].meas
        assert data.num_shots == shots, f"PUB {number}: {data.num_shots} shots, not {shots}"
        assert answer.metadata[number].get("shots") == shots, f"PUB {number}: no shots in metadata"
        share = _strings(data).get("1" if area else "0", 0.0)
        assert share >= subject.fidelity - 0.1, f"PUB {number} is another's: {data.get_counts()}"
    total = sum(shots for _, shots in wanted)
    assert answer.usage.shots == total, f"usage() says {answer.usage.shots} shots, not {total}"


def analog_repeats_seeds(subject: Subject) -> None:
    """Check: a PUB with a seed gives the same shots alone and in a batch."""
    if not subject.backend.capabilities.seeds:
        return
    seeded, other = (_pulsed(subject, _ALONE, math.pi / 2, 100, seed) for seed in (77, 78))
    alone, different = (subject.run(_ANALOG, [pub]).data[0].meas.array for pub in (seeded, other))
    assert not np.array_equal(alone, different), "seeds 77 and 78 give the very same 100 shots"
    if (subject.backend.capabilities.max_pubs or 2) < 2:
        return
    found = subject.run(_ANALOG, [other, seeded]).data[1].meas.array
    assert np.array_equal(found, alone), (
        "`seeds` is declared, but a PUB with a seed gives other shots in a batch than alone"
    )


ANALOG_CHECKS: tuple[Callable[[Subject], None], ...] = (
    analog_is_not_silent,
    analog_keeps_atoms,
    analog_keeps_order,
    analog_repeats_seeds,
)
