"""The service: its devices, jobs, keys and faults; started, served, and ended in one place."""

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable

from hybridflow.backends.emulator.messages import Submission
from hybridflow.emulator.config import Config, is_loopback
from hybridflow.emulator.device import Device, now
from hybridflow.emulator.faults import FaultSwitch
from hybridflow.emulator.jobs import Job, Jobs
from hybridflow.errors import (
    AcquireError,
    MissingExtraError,
    RequestError,
    ResourceError,
    SiteError,
)

__all__ = ["KnownJobError", "Service", "open_service", "serve"]


class KnownJobError(RequestError):
    """A client has chosen an id that a job has already: it may have sent this one twice."""


class Service:
    """What the web handlers ask.

    Parameters
    ----------
    config
        Its configuration.

    Attributes
    ----------
    faults
        The faults that are still to come.
    jobs
        All jobs.
    """

    def __init__(self, config: Config) -> None:
        self.max_bytes = config.max_request_mib * 2**20
        self.faults = FaultSwitch()
        self.jobs = Jobs(config.kept_jobs, config.kept_results_mib * 2**20)
        self._keys = {name: key.encode() for name, key in config.keys.items()}
        self._admins = frozenset(config.admins)
        self.devices = {
            name: Device(name, options, self.faults, self._ended)
            for name, options in config.qpu.items()
        }

    def account(self, authorization: str) -> str | None:
        """Return whose key a header holds; None: nobody's. Without keys, all are nobody: ``""``."""
        if not self._keys:
            return ""
        given = authorization.removeprefix("Bearer ").encode()
        owners = [name for name, key in self._keys.items() if hmac.compare_digest(key, given)]
        return owners[0] if owners else None

    def is_admin(self, account: str) -> bool:
        """Whether an account may switch faults and see what others do. Without keys, all may."""
        return not self._keys or account in self._admins

    def device(self, name: str) -> Device:
        """Return a device.

        Raises
        ------
        AcquireError
            If there is none of that name.
        """
        if name not in self.devices:
            raise AcquireError(
                f"the emulated QPU has no resource {name!r}; it has: {', '.join(self.devices)}"
            )
        return self.devices[name]

    def online(self, name: str) -> Device:
        """Return a device that can be acquired.

        Raises
        ------
        AcquireError
            If it is offline, or there is none.
        """
        if self.faults.now.offline:
            raise AcquireError(f"{name} is offline: try again later", transient=True)
        return self.device(name)

    def submit(
        self, name: str, account: str, submission: Submission, job_id: str | None = None
    ) -> Job:
        """Take a job; its id is `job_id`, where the client has chosen one.

        Raises
        ------
        RequestError, ResourceError
            If the device refuses it.
        """
        device = self.device(name)
        device.check(submission.batch)
        if job_id in self.jobs:
            raise KnownJobError(f"there is a job {job_id} already")
        job = Job(name, account, submission, now(), job_id)
        self.jobs.add(job)
        device.submit(job)
        return job

    def _ended(self, job: Job) -> None:
        if job.results is not None and self.faults.take("lose_results"):
            job.results = None
        job.forgotten = self.faults.take("forget_jobs")
        self.jobs.ended(job)


@contextlib.asynccontextmanager
async def open_service(config: Config) -> AsyncIterator[Service]:
    """Start all devices, have them execute jobs, and end them."""
    service = Service(config)
    devices = list(service.devices.values())
    async with contextlib.AsyncExitStack() as stack:
        for device in devices:
            stack.push_async_callback(device.close)
        await asyncio.gather(*(device.open(service.max_bytes) for device in devices))
        yield service


async def serve(
    config: Config, host: str, port: int, ready: Callable[[str], None], stop: asyncio.Event
) -> None:
    """Serve until `stop` is set.

    Parameters
    ----------
    config
        What is served.
    host, port
        Where; port 0: a free one.
    ready
        Called with the service's address when it answers.
    stop
        Ends it.

    Raises
    ------
    SiteError
        If the address is not this machine's own and there are no keys.
    ResourceError
        If the address or the port cannot be had.
    MissingExtraError
        If Tornado is not installed.
    """
    if not config.keys and not is_loopback(host):
        raise SiteError(
            f"{host} can be reached from other machines: give each user a key ([keys] in the "
            "configuration), or serve on 127.0.0.1"
        )
    try:
        from hybridflow.emulator.web import listen
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the emulated QPU needs {error.name}, which is not installed; install it with: "
            "pip install 'hybridflow[emulator]'"
        ) from error
    async with open_service(config) as service:
        try:
            server, address = listen(service, host, port)
        except OSError as error:
            raise ResourceError(
                f"{host} cannot be served at port {port} ({error.strerror}): choose another with "
                "--port (0: any that is free), or an address of this machine with --host"
            ) from error
        ready(address)
        await stop.wait()
        server.stop()
        await server.close_all_connections()
