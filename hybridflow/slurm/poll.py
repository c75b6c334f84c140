"""The QPUs of a site as Slurm sees them, for a page that must not wait for Slurm."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

from hybridflow.errors import SlurmError
from hybridflow.site import Site
from hybridflow.slurm.qpus import QpuState, qpu_states

__all__ = ["SlurmPoll"]

_SECONDS = 10.0


class SlurmPoll:
    """Asks Slurm every ten seconds, in a thread: a busy controller holds up nobody else.

    A context manager. For a site without a table ``[slurm]``, it asks nothing.

    Parameters
    ----------
    site
        The site.

    Attributes
    ----------
    trouble
        Why Slurm has not answered the last time; empty if it has.
    """

    def __init__(self, site: Site) -> None:
        self.trouble = ""
        self._site = site if site.slurm else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="slurm")
        self._asked: Future[list[QpuState]] | None = None
        self._next = 0.0
        self._known: list[QpuState] = []

    def __enter__(self) -> "SlurmPoll":
        self._ask()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wait(self) -> None:
        """Wait for the answer to the question that is under way."""
        if self._asked is not None:
            self._asked.exception()

    def states(self) -> list[QpuState]:
        """Return what is known, without waiting."""
        if self._asked is not None and self._asked.done():
            try:
                self._known, self.trouble = self._asked.result(), ""
            except SlurmError as error:
                self.trouble = str(error)
            self._asked = None
        if self._asked is None and time.monotonic() >= self._next:
            self._ask()
        return self._known

    def _ask(self) -> None:
        if self._site is not None:
            self._asked = self._pool.submit(qpu_states, self._site)
            self._next = time.monotonic() + _SECONDS
