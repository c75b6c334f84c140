"""``IbmRuntimeBackend``: a device of IBM's behind the protocol, at the service or simulated here.

It runs in a process of its own: the package takes a second and 170 MB to import, holds the GIL
while it packs circuits, changes the process's log, warnings and environment, may hang for ever in a
call, and makes objects of what the service's answers name.
"""

from collections.abc import Mapping
from typing import ClassVar

import msgspec

from hybridflow.backends.ibm_runtime.device import Device
from hybridflow.backends.ibm_runtime.local import LocalDevice
from hybridflow.backends.ibm_runtime.options import IbmRuntimeOptions
from hybridflow.errors import ResourceError
from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedResult,
    TargetSnapshot,
    Usage,
)

__all__ = ["IbmRuntimeBackend"]


class IbmRuntimeBackend:
    """A device of IBM's; its jobs are durable, and are found by their tag.

    Request options have the names and values of the package's ``SamplerOptions`` and
    ``EstimatorOptions``: ``twirling``, ``dynamical_decoupling``, ``execution``,
    ``max_execution_time``, and for the estimator ``resilience_level`` and ``resilience``.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`IbmRuntimeOptions`.
    credentials
        ``QRMI_IBM_QCS_IAM_APIKEY`` and, where the site file does not say, the endpoints and the
        instance; nothing for a saved account, and in the local mode.
    """

    Options: ClassVar[type[msgspec.Struct]] = IbmRuntimeOptions
    own_process: ClassVar[bool] = True
    fixed_target: ClassVar[bool] = False

    def __init__(
        self,
        name: str = "ibm_runtime",
        options: IbmRuntimeOptions | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.options = options or IbmRuntimeOptions()
        self._device: Device | LocalDevice
        if self.options.is_local:
            self._device = LocalDevice(name, self.options)
        else:
            self._device = Device(name, self.options, dict(credentials or {}))
        self._is_open = False

    @property
    def capabilities(self) -> Capabilities:
        """What the device says of itself; it is asked once.

        Raises
        ------
        AcquireError
            If the service does not say.
        NoSlotError
            If there are no credentials.
        """
        return self._device.capabilities

    def target(self) -> TargetSnapshot:
        """Return the device's target, with its calibration of now."""
        return self._device.target()

    def metadata(self) -> dict[str, str]:
        """Return the device's name, version, instance and date of calibration."""
        return self._device.metadata()

    # Session

    def acquire(self) -> None:
        """Connect. Nothing that bills is opened.

        Raises
        ------
        AcquireError
            If the device is offline or the service cannot be reached (transient), or the key is
            not accepted.
        """
        self._device.acquire()
        self._is_open = True

    def release(self) -> None:
        """Close session or batch, and the connection. Jobs at the service run on."""
        self._is_open = False
        self._device.release()

    # Jobs

    def start(self, batch: Batch, *, tag: str) -> str:
        """Submit one job, tagged.

        Raises
        ------
        RequestError
            If the batch cannot be run.
        ResourceError
            If nothing was started.
        BackendLostError
            If the job's id did not come: it may run.
        """
        if not self._is_open:
            raise ResourceError(
                f"{self.name} has not been acquired: call acquire() before start()",
                resource=self.name,
            )
        return self._device.start(batch, tag)

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return a job's state, also of one that an earlier process started."""
        return self._device.status(job_id, wait)

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results, one a PUB."""
        return self._device.result(job_id)

    def stop(self, job_id: str) -> None:
        """Have a job cancelled."""
        self._device.stop(job_id)

    def find(self, tag: str) -> str | None:
        """Return the id of the job with this tag, whoever started it."""
        return self._device.find(tag)

    def usage(self, job_id: str) -> Usage:
        """Return the seconds of the device that a job is charged."""
        return self._device.usage(job_id)
