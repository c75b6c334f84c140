"""What was asked of a primitive, before it is known which resource is to do it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub

from hybridflow.primitives.admission import admit, check_call
from hybridflow.primitives.isa import qiskit_target
from hybridflow.primitives.request import make_request
from hybridflow.primitives.transpiling import isa_pubs
from hybridflow.records import Description, Insistence, Primitive, Request

__all__ = ["Asked", "Pubs"]

Pubs = Sequence[SamplerPub] | Sequence[EstimatorPub]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One call of a primitive: what :func:`hybridflow.primitives.call.call` is given."""

    primitive: Primitive
    pubs: Pubs
    seed: int | None
    options: Mapping[str, Any]
    transpile: bool
    key: str | None
    priority: int

    def fitted(self, description: Description) -> Pubs:
        """Return the PUBs as a resource can run them.

        Raises
        ------
        RequestError
            If it cannot.
        """
        check_call(self.primitive, self.options, self.seed, description)
        pubs = isa_pubs(self.pubs, description) if self.transpile else self.pubs
        admit(pubs, description, qiskit_target(description.target))
        return pubs

    def request(self, pubs: Pubs, description: Description, insist: Insistence = "wait") -> Request:
        """Return the request with PUBs that fit a resource."""
        made = make_request(
            self.primitive,
            pubs,
            self.seed,
            self.options,
            self.key,
            self.priority,
            late_binding=description.capabilities.late_binding,
            readable=description.capabilities.qpy,
        )
        return made if insist == "wait" else msgspec.structs.replace(made, insist=insist)
