"""The keys of a site file's ``[qpu.NAME]`` table with ``backend = "qrmi"``."""

import msgspec

from hybridflow.backends.qrmi.kinds import KINDS

__all__ = ["QrmiOptions"]


class QrmiOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend ``qrmi``.

    Attributes
    ----------
    config
        Path of a ``qrmi_config.json`` with the resource's definition, for use without Slurm's
        plugin; ``~`` is the home folder. It holds keys: nobody else may be able to read it.
    name
        Name of the device at the vendor; without it, the resource's own.
    type
        Type of the resource, as in ``qrmi_config.json``; found if not given: the definition's, or
        that of the credentials.
    timeout_seconds
        Time after which the vendor ends a job, where the definition does not say.
    lanes
        Jobs that may be started at the same time: the service prepares some while one runs.
    seconds_per_job, seconds_per_shot
        What a vendor job takes beside its shots, and each shot, as far as is known: for budgets
        and time limits, until the broker has measured some. Without the second, the device's own
        delay between two shots.
    """

    config: str = ""
    name: str = ""
    type: str = ""
    timeout_seconds: int = 10_000
    lanes: int = 5
    seconds_per_job: float = 2.0
    seconds_per_shot: float | None = None

    def __post_init__(self) -> None:
        if self.type and self.type not in KINDS:
            raise ValueError(f"`type` must be one of {', '.join(KINDS)}, not {self.type!r}")
        if self.timeout_seconds < 1 or self.lanes < 1:
            raise ValueError("`timeout_seconds` and `lanes` must be at least 1")
        for name in ("seconds_per_job", "seconds_per_shot"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be at least 0, not {value}")
