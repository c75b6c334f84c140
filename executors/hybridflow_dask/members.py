"""A member of a group of workers, as Dask's cluster starts and ends it, and what its end means.

A member is the process of one worker on this machine (``workers.py``) or a block: a Slurm job,
which may bring several workers (``blocks.py``). A worker's name begins with its member's::

    quantum-aer-0        the member, and its only worker
    classical-2:c1-0     a worker of the member classical-2, on the node c1
"""

from abc import abstractmethod

from distributed.deploy.spec import ProcessInterface

from hybridflow.environment import Role
from hybridflow.errors import HybridflowError

__all__ = ["HOPELESS", "Member", "member_of", "worker_name"]

HOPELESS = frozenset({2, 3, 126, 127})
"""Exit statuses that another start would have too: an error of the user's, a resource that failed,
no such program."""

_OF_MEMBER = ":"


def worker_name(member: str, place: str) -> str:
    """Return the name of a member's worker in a place; not one of a resource can look like it."""
    return f"{member}{_OF_MEMBER}{place}"


def member_of(worker: object) -> str:
    """Return the name of the member that a worker belongs to, by the worker's own."""
    return str(worker).partition(_OF_MEMBER)[0]


class Member(ProcessInterface):
    """What Dask's cluster and a group need to know of each other.

    Parameters
    ----------
    name
        Name of the member.

    Attributes
    ----------
    name
        Name of the member.
    came_up_at
        When a worker of it first reported to the scheduler, by the monotonic clock; None before.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.name = name
        self.came_up_at: float | None = None

    @property
    @abstractmethod
    def is_hopeless(self) -> bool:
        """Whether another start would end as this one has."""

    @property
    def ran_out_of_time(self) -> bool:
        """Whether it has ended because its time was over."""
        return False

    @abstractmethod
    def error(self, who: str, role: Role) -> HybridflowError:
        """Return why it has ended, or did not come up.

        Parameters
        ----------
        who
            Who has no workers now, as the beginning of a sentence.
        role
            What its workers are for.
        """

    def worker_went(self) -> None:
        """Take down that the scheduler has lost a worker of it, or let it go."""
        return

    def describe(self) -> str:
        """Return what it is in a few words; empty if there is nothing to say."""
        return ""

    @abstractmethod
    def describe_end(self) -> str:
        """Return in a few words how it has ended."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}: {self.status.name}>"
