"""``check_backend``: the conformance suite of backends, as one function for anybody's tests."""

import contextlib
import functools
from collections.abc import Callable, Iterator

from hybridflow.backends.base import Backend
from hybridflow.errors import HybridflowError
from hybridflow.testing.checks import CHECKS, any_pub, lanes_are_there
from hybridflow.testing.subject import Subject, typed

__all__ = ["check_backend"]


def check_backend(
    make: Callable[[], Backend], *, fidelity: float = 0.9, timeout_seconds: float = 60.0
) -> None:
    """Check that a backend keeps the promises of :class:`hybridflow.backends.Backend`.

    It makes two backends and some 40 vendor jobs of a few PUBs, on at most three qubits and 1,000
    shots, transpiled for the backend's own target. Among the checks: X and Bell circuits (which
    catch silent zeros), several registers, parameter arrays, the order of PUBs, mixed shots, seeds
    alone and merged, exact and sampled expectation values, typed refusals, limits, ``stop``,
    ``find`` and ``usage``; for an analogue backend, pulses on single atoms and on a blockaded pair.
    Only what the backend declares is asked of it; what it does not declare must be refused.

    Parameters
    ----------
    make
        Returns a new backend that has not been acquired; called twice.
    fidelity
        Least probability of the right answer of a circuit of a few gates; 1 for an ideal one.
    timeout_seconds
        Patience with each vendor job.

    Raises
    ------
    AssertionError
        If a promise is broken: which, what was expected, and what came instead.

    Examples
    --------
    >>> from hybridflow.testing import FakeQPU, check_backend
    >>> check_backend(FakeQPU, fidelity=1)
    """
    _check_life(make, fidelity, timeout_seconds)
    backend = _made(make)
    with _let_go(backend):
        _acquire(backend)
        subject = Subject(backend, timeout_seconds, fidelity)
        for primitive, check in CHECKS:
            if primitive is None or subject.supports(primitive):
                _run(check.__name__, functools.partial(check, subject))


def _run(name: str, check: Callable[[], None]) -> None:
    try:
        check()
    except AssertionError as error:
        raise AssertionError(f"check_backend: {name}: {error}") from error
    except HybridflowError as error:
        raise AssertionError(
            f"check_backend: {name}: what the backend must be able to do raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _made(make: Callable[[], Backend]) -> Backend:
    backend = make()
    assert isinstance(backend, Backend), (
        f"check_backend: {type(backend).__name__} lacks methods of the Backend protocol: "
        f"{', '.join(sorted(_missing(backend)))}"
    )
    return backend


def _missing(backend: object) -> set[str]:
    wanted = {name for name in vars(Backend) if not name.startswith("_")}
    return {name for name in wanted if not hasattr(backend, name)}


@contextlib.contextmanager
def _let_go(backend: Backend) -> Iterator[None]:
    """Release a backend at the end; after a failed check, whatever that gives."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # what failed first is what has to be read
            backend.release()
        raise
    _run("release", functools.partial(_release, backend))


def _acquire(backend: Backend) -> None:
    with typed("acquire()"):
        backend.acquire()


def _release(backend: Backend) -> None:
    with typed("release()"):
        backend.release()


def _check_life(make: Callable[[], Backend], fidelity: float, timeout_seconds: float) -> None:
    """Check that a backend can be opened and closed, twice, and again."""
    backend = _made(make)
    subject = Subject(backend, timeout_seconds, fidelity)
    with _let_go(backend):
        with typed("capabilities before acquire()"):
            _ = backend.capabilities
        _run("release before acquire", functools.partial(_release, backend))
        for _ in range(2):
            _run("acquire", functools.partial(_acquire, backend))
            _run("acquire again", functools.partial(_acquire, backend))
            _run("jobs after acquire", functools.partial(lanes_are_there, subject))
            _run("release", functools.partial(_release, backend))
            _run("release again", functools.partial(_release, backend))
        _run("start after release", functools.partial(_check_closed, subject))


def _check_closed(subject: Subject) -> None:
    primitive, pub = any_pub(subject)
    try:
        subject.start(primitive, [pub])
    except HybridflowError:
        return
    raise AssertionError("a released backend starts a job: start() must raise a ResourceError")
