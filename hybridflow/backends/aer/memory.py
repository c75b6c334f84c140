"""Refuses a state that cannot fit, before the simulator tries and the machine swaps or kills."""

from pathlib import Path

from hybridflow.backends.aer.options import AerOptions
from hybridflow.backends.aer.plan import Plan
from hybridflow.errors import TooLargeError

__all__ = ["check_state", "free_bytes"]

_MIB = 2**20
_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(options: AerOptions) -> int:
    """Return how much memory states may take: what is free, and no more than the options allow."""
    import psutil

    free = min(int(psutil.virtual_memory().available), _cgroup_bytes())
    return min(free, options.memory_mib * _MIB) if options.memory_mib else free


def _cgroup_bytes() -> int:
    # A Slurm job or a container may use less than the machine has (cgroup v2 of this process).
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
        folder = _CGROUP / own
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**62
    return 2**62 if limit == "max" else max(0, int(limit) - used)


def state_bytes(plan: Plan, method: str, amplitude_bytes: int) -> int:
    """Return what the state of a circuit takes, as far as that can be known beforehand."""
    if method == "density_matrix":
        return amplitude_bytes << (2 * plan.num_active)
    if method == "statevector" or (method == "automatic" and not plan.clifford):
        return amplitude_bytes << plan.num_active
    return 0


def check_state(plan: Plan, method: str, amplitude_bytes: int, free: int) -> None:
    """Refuse a circuit whose state would not fit into `free` bytes.

    Raises
    ------
    TooLargeError
        If it would not.
    """
    needed = state_bytes(plan, method, amplitude_bytes)
    if needed > free:
        raise TooLargeError(
            f"the circuit {plan.name!r} acts on {plan.num_active} qubits: its state takes "
            f"{needed / _MIB:,.0f} MiB and there are {free / _MIB:,.0f} MiB (key `memory_mib`, or "
            "free memory); use fewer qubits, or a method such as 'matrix_product_state'"
        )
