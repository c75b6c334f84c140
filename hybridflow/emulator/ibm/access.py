"""Who asks: API keys exchanged for tokens that expire, and sessions, as IBM's service has them."""

import base64
import json
import secrets
import time
import uuid

from hybridflow.errors import AcquireError
from hybridflow.records import Record

__all__ = ["TOKEN_SECONDS", "Session", "Sessions", "Tokens"]

TOKEN_SECONDS = 3600
"""How long a token is good for, as with IBM's identity service."""

_MOST = 1000
"""Tokens and sessions that are remembered; the oldest go first."""


class Tokens:
    """Tokens that were given for keys."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[str, float]] = {}

    def give(self, account: str) -> str:
        """Return a new token of an account."""
        token = _jwt(secrets.token_hex())
        self._given[token] = account, time.monotonic() + TOKEN_SECONDS
        while len(self._given) > _MOST:
            del self._given[next(iter(self._given))]
        return token

    def account(self, token: str) -> str | None:
        """Return whose token it is; None: nobody's, or too old."""
        account, until = self._given.get(token, (None, 0.0))
        return account if time.monotonic() < until else None


def _jwt(secret: str) -> str:
    # IBM's clients read out of a token when it was given and when it ends. It is signed by nobody:
    # what is good is looked up here.
    now = int(time.time())
    claims = {"jti": secret, "iat": now, "exp": now + TOKEN_SECONDS}
    return ".".join((_part({"alg": "none", "typ": "JWT"}), _part(claims), secret))


def _part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


class Session(Record, frozen=True, kw_only=True):
    """A session: jobs of one user on one device, one after the other.

    Attributes
    ----------
    id
        The service's id of it.
    backend
        Name of the device.
    account
        Whose it is.
    mode
        ``"dedicated"`` or ``"batch"``.
    accepting
        Whether jobs can still be submitted.
    """

    id: str
    backend: str
    account: str
    mode: str
    accepting: bool = True


class Sessions:
    """The sessions that were opened, by id."""

    def __init__(self) -> None:
        self._known: dict[str, Session] = {}

    def open(self, backend: str, account: str, mode: str) -> Session:
        """Open one."""
        made = Session(id=uuid.uuid4().hex, backend=backend, account=account, mode=mode)
        self._known[made.id] = made
        while len(self._known) > _MOST:
            del self._known[next(iter(self._known))]
        return made

    def get(self, session_id: str, account: str) -> Session:
        """Return a session of this user.

        Raises
        ------
        AcquireError
            If there is none.
        """
        found = self._known.get(session_id)
        if found is None or found.account != account:
            raise AcquireError(f"there is no session {session_id!r}")
        return found

    def close(self, session: Session) -> None:
        """Take no more jobs for a session."""
        closed = Session(
            id=session.id,
            backend=session.backend,
            account=session.account,
            mode=session.mode,
            accepting=False,
        )
        self._known[session.id] = closed
