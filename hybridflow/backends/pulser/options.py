"""The keys of a site file's ``[qpu.NAME]`` table with ``backend = "pulser"``."""

import msgspec

__all__ = ["PulserOptions"]

_NOISE = ("p_false_pos", "p_false_neg", "dephasing_rate", "relaxation_rate")


class PulserOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend ``pulser``. Without any, an ideal ``AnalogDevice``.

    Attributes
    ----------
    device
        A device of ``pulser.devices``, such as ``AnalogDevice``; or the absolute path of a file
        that ends in ``.json`` with a device's abstract representation, as its vendor gives it.
    num_qubits
        Largest register that is accepted, where the device's own limit is not lower: a state has
        2**n amplitudes, and 4**n under dephasing or relaxation.
    p_false_pos, p_false_neg
        Noise: probability that an atom in the ground state is read as 1, in the Rydberg state as 0.
    dephasing_rate, relaxation_rate
        Noise: rates of the Rydberg state, in 1/µs.
    """

    device: str = "AnalogDevice"
    num_qubits: int = 12
    p_false_pos: float = 0.0
    p_false_neg: float = 0.0
    dephasing_rate: float = 0.0
    relaxation_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.num_qubits < 1:
            raise ValueError(f"`num_qubits` must be at least 1, not {self.num_qubits}")
        for name in ("p_false_pos", "p_false_neg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a probability, not {getattr(self, name)}")
        for name in ("dephasing_rate", "relaxation_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be at least 0, not {getattr(self, name)}")

    @property
    def noise(self) -> dict[str, float]:
        """What of the noise is not zero, under the names of Pulser's ``NoiseModel``."""
        return {name: getattr(self, name) for name in _NOISE if getattr(self, name)}
