"""The types of resources that the wheel knows: their names, their keys, who takes Qiskit's PUBs."""

from collections.abc import Iterable

from hybridflow.records import Record

__all__ = ["KINDS", "Kind", "kind_of_keys"]


class Kind(Record, frozen=True, kw_only=True):
    """A type of resources.

    Attributes
    ----------
    member
        Name of the wheel's ``ResourceType``.
    prefix
        What the names of its keys begin with.
    takes_primitives
        Whether it takes the input of Qiskit's primitives.
    has_sessions
        Whether acquiring it means anything; elsewhere the wheel hands out a token of no use.
    resends
        Whether the wheel sends a job once more by itself, where no answer came.
    """

    member: str
    prefix: str
    takes_primitives: bool = False
    has_sessions: bool = False
    resends: bool = False


KINDS = {
    "ibm-quantum-compute-service": Kind(
        member="IBMQuantumComputeService",
        prefix="QRMI_IBM_QCS_",
        takes_primitives=True,
        has_sessions=True,
    ),
    "ibm-quantum-system": Kind(
        member="IBMQuantumSystem", prefix="QRMI_IBM_QS_", takes_primitives=True, resends=True
    ),
    "qiskit-runtime-service": Kind(
        member="IBMQiskitRuntimeService",
        prefix="QRMI_IBM_QRS_",
        takes_primitives=True,
        has_sessions=True,
    ),
    "pasqal-cloud": Kind(member="PasqalCloud", prefix="QRMI_PASQAL_CLOUD_"),
    "pasqal-local": Kind(member="PasqalLocal", prefix="QRMI_WARDEN_", has_sessions=True),
    "iqm-server": Kind(member="IQMServer", prefix="QRMI_IQM_"),
    "alice-bob-felis": Kind(member="AliceBobFelis", prefix="QRMI_AB_FELIS_"),
    "oqtopus": Kind(member="OQTOPUS", prefix="QRMI_OQTOPUS_"),
}
"""By name, as in ``qrmi_config.json``; the third is what the first was called before."""


def kind_of_keys(keys: Iterable[str]) -> str:
    """Return the type whose keys these are; empty if there is none."""
    names = tuple(keys)
    for kind, known in KINDS.items():
        if any(name.startswith(known.prefix) for name in names):
            return kind
    return ""
