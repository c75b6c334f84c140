"""The way to the service: one connection, made when it is needed, and made anew when it is no good.

All calls go through the caller's thread, and what goes wrong there comes back as an error of ours.
A connection whose token is not accepted any more is replaced once; one that a call got lost in is
not used again.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from hybridflow.backends.ibm_runtime import faults
from hybridflow.backends.ibm_runtime.account import Account, find_account
from hybridflow.backends.ibm_runtime.caller import Caller, LateError, quietly
from hybridflow.backends.ibm_runtime.faults import Phase
from hybridflow.backends.ibm_runtime.options import IbmRuntimeOptions
from hybridflow.backends.ibm_runtime.package import runtime
from hybridflow.backends.ibm_runtime.service import Connection, connect
from hybridflow.backends.ibm_runtime.workload import Workload
from hybridflow.errors import HybridflowError
from hybridflow.redaction import redact

__all__ = ["Link"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Link:
    """A connection to a device, with the session or batch that is open there.

    Parameters
    ----------
    name
        Name of the resource.
    options
        See :class:`IbmRuntimeOptions`.
    credentials
        Its credentials; see ``account.py``.
    """

    def __init__(
        self, name: str, options: IbmRuntimeOptions, credentials: Mapping[str, str]
    ) -> None:
        self._name = name
        self._options = options
        self._credentials = credentials
        # A call is a few questions, each of which has a deadline of its own.
        self._caller = Caller(f"{name}-ibm", 2 * options.timeout_seconds)
        self._account: Account | None = None
        self._connection: Connection | None = None
        self._workload: Workload | None = None

    def call(self, work: Callable[[Connection], _T], phase: Phase) -> _T:
        """Return what `work` makes of the connection.

        Raises
        ------
        HybridflowError
            What went wrong, as it is to be understood in this phase.
        """
        runtime()  # not within the deadline
        try:
            return self._caller.call(lambda: self._connected(work, phase))
        except LateError as late:
            self._forget()
            raise self._typed(late, phase) from late

    @property
    def workload(self) -> Workload:
        """The connection's session or batch; for what is being called."""
        assert self._workload is not None
        return self._workload

    def close(self) -> None:
        """Close session or batch, and the connection; no error if there is none."""
        try:
            if self._connection is not None or self._has_session:
                self._caller.call(self._let_go)
        except (HybridflowError, LateError) as error:
            _log.warning("%s: the connection was not closed in order: %s", self._name, error)
        finally:
            self._forget()
            self._workload = None
            self._caller.close()

    @property
    def _has_session(self) -> bool:
        return self._workload is not None and self._workload.is_open

    def discreet(self, text: str) -> str:
        """Return a text without credentials."""
        return redact(text, self._secrets)

    # In the caller's thread

    def _connected(self, work: Callable[[Connection], _T], phase: Phase) -> _T:
        with quietly(self._secrets):
            is_new = self._connection is None
            try:
                return work(self._connect())
            except Exception as error:
                if is_new or not faults.is_unauthorized(error):
                    raise self._typed(error, phase) from error
            _log.warning("%s: the service takes this token no more: a new one", self._name)
            self._forget()
            try:
                return work(self._connect())
            except Exception as error:
                raise self._typed(error, phase) from error

    def _connect(self) -> Connection:
        if self._connection is None:
            self._account = find_account(self._name, self._options, self._credentials)
            try:
                self._connection = connect(
                    self._account,
                    self._options.device or self._name,
                    fractional=self._options.fractional_gates,
                    seconds=self._options.timeout_seconds,
                )
            except Exception as error:
                raise self._typed(error, Phase.CONNECTING) from error
            self._move(self._connection, self._account)
        return self._connection

    def _move(self, connection: Connection, account: Account) -> None:
        if self._workload is not None:  # what is open would bill until IBM closes it
            self._workload.move(connection)
            return
        self._workload = Workload(connection, self._options, account.held, self._caller.later)

    def _let_go(self) -> None:
        with quietly(self._secrets):
            connection = self._connect()
            self.workload.close()
            connection.close()

    # In any

    def _forget(self) -> None:
        self._connection = None

    @property
    def _secrets(self) -> tuple[str, ...]:
        # A saved account's token is known to nobody else.
        known = (self._account.token,) if self._account is not None else ()
        return (*known, *self._credentials.values())

    def _typed(self, error: Exception, phase: Phase) -> HybridflowError:
        return faults.typed(error, resource=self._name, phase=phase, secrets=self._secrets)
