"""A route of the site file: which resources a request may go to, and which of them first."""

from typing import Literal

import msgspec

from hybridflow.records import Record

__all__ = ["Preference", "Route"]

Preference = Literal["shortest_wait", "calibration", "order"]


class Route(Record, frozen=True, kw_only=True):
    """Resources of which one is chosen for each request (``[route.NAME]``).

    Attributes
    ----------
    name
        Name by which workflows ask for it.
    any_of
        Names of the resources.
    prefer
        Which of those that can run the request is chosen: the one that is expected to have it done
        first, the one whose calibration promises the best results, or the first one in `any_of`.
    fall_back
        Name of the resource that takes the request when none of the others can have it now.
    max_wait
        Seconds of expected waiting from which a resource counts as one that cannot.
    mix
        Whether one result may come from several resources: never.
    """

    name: str
    any_of: tuple[str, ...]
    prefer: Preference = "shortest_wait"
    fall_back: str | None = None
    max_wait: float | None = None
    mix: Literal["never"] = "never"

    def __post_init__(self) -> None:
        if len(set(self.resources)) < len(self.resources):
            raise ValueError("`any_of` and `fall_back` must name each resource once")
        if self.max_wait is not None and not self.max_wait >= 0:
            raise ValueError("`max_wait` must be a number of seconds, at least 0")

    @property
    def resources(self) -> tuple[str, ...]:
        """All resources, the one to fall back to last."""
        return (*self.any_of, *([self.fall_back] if self.fall_back else []))

    def within(self, names: frozenset[str]) -> "Route":
        """Return what is left of the route where only these resources can be had."""
        return msgspec.structs.replace(
            self,
            any_of=tuple(name for name in self.any_of if name in names),
            fall_back=self.fall_back if self.fall_back in names else None,
        )
