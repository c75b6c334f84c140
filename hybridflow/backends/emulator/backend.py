"""``EmulatorBackend``: vendor jobs at a service that outlives whoever started them."""

import os
import pwd
import socket
import time
from collections.abc import Mapping
from typing import ClassVar

import msgspec

from hybridflow import environment
from hybridflow.backends.emulator.client import Client
from hybridflow.backends.emulator.messages import API_KEY, Caller, DeviceInfo, Submission
from hybridflow.backends.emulator.options import EmulatorOptions
from hybridflow.errors import AcquireError, ResourceError
from hybridflow.records import (
    Batch,
    Capabilities,
    JobStatus,
    PackedResult,
    TargetSnapshot,
    Usage,
)

__all__ = ["EmulatorBackend"]


class EmulatorBackend:
    """One resource of an emulated QPU; its jobs are durable.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`EmulatorOptions`.
    credentials
        ``QRMI_EMULATOR_API_KEY``, where the service has keys.
    """

    Options: ClassVar[type[msgspec.Struct]] = EmulatorOptions
    own_process: ClassVar[bool] = False
    fixed_target: ClassVar[bool] = False

    def __init__(
        self,
        name: str = "emulator",
        options: EmulatorOptions | None = None,
        credentials: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.options = options or EmulatorOptions()
        self._remote = self.options.resource or name
        self._client = Client(
            self.options.url,
            (credentials or {}).get(API_KEY, ""),
            timeout_seconds=self.options.timeout_seconds,
        )
        self._seen: DeviceInfo | None = None
        self._is_open = False

    # What it is

    @property
    def capabilities(self) -> Capabilities:
        """What the service declares; it is asked once, and at each :meth:`acquire`.

        Raises
        ------
        AcquireError
            If the service does not say.
        """
        return self._info.capabilities

    @property
    def _info(self) -> DeviceInfo:
        return self._seen or self._ask()

    def _ask(self) -> DeviceInfo:
        try:
            self._seen = self._client.info(self._remote)
        except AcquireError:
            raise
        except ResourceError as error:
            raise AcquireError(
                f"{self.name} cannot be acquired: {error}",
                transient=error.transient,
                resource=self.name,
            ) from error
        return self._seen

    def target(self) -> TargetSnapshot:
        """Return the device's target."""
        return self._client.target(self._remote)

    def metadata(self) -> dict[str, str]:
        """Return what identifies the device, and the service's address."""
        return {**self._info.metadata, "url": self.options.url}

    # Session

    def acquire(self) -> None:
        """Ask whether the resource can be had; the service keeps no sessions.

        Raises
        ------
        AcquireError
            If the service is down or the resource offline (transient), or the key is wrong.
        """
        self._ask()
        self._is_open = True

    def release(self) -> None:
        """Close the connection; jobs run on."""
        self._is_open = False
        self._client.close()

    # Jobs

    def start(self, batch: Batch, *, tag: str) -> str:
        """Start one vendor job.

        Raises
        ------
        RequestError
            If the batch cannot be run.
        ResourceError
            If nothing was started.
        BackendLostError
            If the connection was lost before the job's id came: it may run.
        """
        if not self._is_open:
            raise ResourceError(
                f"{self.name} has not been acquired: call acquire() before start()",
                resource=self.name,
            )
        submission = Submission(batch=batch, tag=tag, caller=_caller())
        return self._client.start(self._remote, submission, self._info.max_bytes)

    def status(self, job_id: str, *, wait: float = 0.0) -> JobStatus:
        """Return a job's state; wait up to `wait` seconds for a final one."""
        deadline = time.monotonic() + wait
        while True:
            left = deadline - time.monotonic()
            status = self._client.status(job_id, left)
            if status.state.final or time.monotonic() >= deadline:
                return status

    def result(self, job_id: str) -> tuple[PackedResult, ...]:
        """Return a job's results; the service keeps them."""
        return self._client.result(job_id)

    def stop(self, job_id: str) -> None:
        """Have a job ended, whether it waits or runs."""
        self._client.cancel(job_id)

    def find(self, tag: str) -> str | None:
        """Return the id of the youngest job with this tag, whoever started it."""
        return self._client.find(self._remote, tag)

    def usage(self, job_id: str) -> Usage:
        """Return what a job cost, in seconds of the device."""
        return self._client.usage(job_id)


def _caller() -> Caller:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())  # a container's user may have no name
    return Caller(
        user=user,
        host=socket.gethostname(),
        pid=os.getpid(),
        slurm_job=os.environ.get(environment.SLURM_JOB, ""),
    )
