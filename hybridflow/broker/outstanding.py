"""What a process has asked a broker for, and has not been told yet. Safe to use from any thread.

::

    threads ──add, say──► outbox ──► I/O thread (line.py)
        ▲                                │
        └── futures ◄── settle, answer ──┘

A request is kept as it was sent, until it has its outcome: it may have to be sent again.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from threading import Lock

from hybridflow.broker import protocol
from hybridflow.broker.outlook import Outlook
from hybridflow.broker.pending import ReplyFuture, copy_of
from hybridflow.broker.protocol import Expect
from hybridflow.broker.wake import Wake
from hybridflow.errors import HybridflowError, RequestError
from hybridflow.records import Description, JobState, Reply

__all__ = ["Asked", "Outstanding"]


class Asked:
    """A request that was handed over.

    Attributes
    ----------
    request_id, data
        The request's id, and the message that carries it.
    future
        Gets its outcome.
    since
        When it was handed over (``time.monotonic``).
    unwanted
        Whether it was cancelled meanwhile.
    """

    __slots__ = ("data", "future", "request_id", "since", "unwanted")

    def __init__(self, request_id: str, data: bytes) -> None:
        self.request_id = request_id
        self.future = ReplyFuture(request_id)
        self.since = time.monotonic()
        self.data = data
        self.unwanted = False


class Outstanding:
    """Requests and questions to one broker.

    Attributes
    ----------
    wake
        Wakes the I/O thread.
    closed
        Why nothing more is taken; None while that is not so.
    lost_since
        Since when there is no broker (``time.monotonic``); None while there is one.
    """

    def __init__(self) -> None:
        self.wake = Wake()
        self.closed: HybridflowError | None = None
        self.lost_since: float | None = time.monotonic()
        self._lock = Lock()
        self._outbox: deque[bytes] = deque()
        self._requests: dict[str, Asked] = {}
        self._questions: dict[str, list[Future[JobState | None]]] = {}
        self._expected: dict[int, Future[Outlook]] = {}
        self._numbers = itertools.count()
        self._description: Future[Description] = Future()

    # For any thread

    def description(self) -> "Future[Description]":
        """Return the resource's description, or the one to come.

        Raises
        ------
        HybridflowError
            If nothing more will come.
        """
        with self._lock:
            if self.closed is not None:
                raise copy_of(self.closed)
            return self._description

    def add(self, asked: Asked) -> None:
        """Hand a request over.

        Raises
        ------
        RequestError
            If one with the same id is under way.
        HybridflowError
            If nothing more is taken.
        """
        with self._lock:
            if self.closed is not None:
                raise copy_of(self.closed)
            if asked.request_id in self._requests:
                raise RequestError(f"a request {asked.request_id} is already under way")
            self._requests[asked.request_id] = asked
            self._outbox.append(asked.data)
        self.wake.signal()

    def say(self, data: bytes) -> None:
        """Send a message, if there is still somebody to hear it."""
        with self._lock:
            if self.closed is None:
                self._outbox.append(data)
        self.wake.signal()

    def question(self, request_id: str) -> "Future[JobState | None] | None":
        """Return the answer to come to a question about a request; None: nobody can be asked."""
        answer: Future[JobState | None] = Future()
        with self._lock:
            if self.lost_since is not None:
                return None
            self._questions.setdefault(request_id, []).append(answer)
        return answer

    def expect(self) -> "tuple[int, Future[Outlook]]":
        """Ask what is to be expected of a request; return the question's number, and the answer.

        Raises
        ------
        HybridflowError
            If nothing more is taken.
        """
        answer: Future[Outlook] = Future()
        with self._lock:
            if self.closed is not None:
                raise copy_of(self.closed)
            number = next(self._numbers)
            self._expected[number] = answer
            self._outbox.append(protocol.encode(Expect(number)))
        self.wake.signal()
        return number, answer

    def foretell(self, number: int, outlook: Outlook | None) -> None:
        """Answer such a question; None: nobody waits for it any more."""
        with self._lock:
            answer = self._expected.pop(number, None)
        if answer is not None and outlook is not None:
            answer.set_result(outlook)

    def close(self, error: HybridflowError) -> None:
        """Take nothing more; the I/O thread then fails what is outstanding with the error."""
        with self._lock:
            if self.closed is not None:
                return
            self.closed = error
        self.wake.signal()

    # For the I/O thread

    def __bool__(self) -> bool:
        """Whether somebody waits for an outcome."""
        return bool(self._requests)

    def messages(self) -> Iterable[bytes]:
        """Take out what is to be sent."""
        while self._outbox:
            yield self._outbox.popleft()

    def settle(self, request_id: str, outcome: Reply | HybridflowError) -> None:
        """Give a request its outcome."""
        with self._lock:
            asked = self._requests.pop(request_id, None)
        if asked is not None:
            asked.future.settle(outcome)
        self.answer(request_id, None)

    def fail_all(self, error: HybridflowError) -> None:
        """Fail all that is outstanding, each with a copy of the error."""
        with self._lock:
            requests = list(self._requests)
        for request_id in requests:
            self.settle(request_id, copy_of(error))
        self.answer_all()

    def send_again(self, request_id: str) -> None:
        """Send a request once more, if it is still wanted."""
        with self._lock:
            asked = self._requests.get(request_id)
            if asked is not None and not asked.unwanted:
                self._outbox.append(asked.data)

    def answer(self, request_id: str, state: JobState | None) -> None:
        """Answer the questions about a request."""
        if not self._questions:
            return
        with self._lock:
            waiting = self._questions.pop(request_id, [])
        for answer in waiting:
            answer.set_result(state)

    def answer_all(self) -> None:
        """Answer all questions: nothing is known."""
        with self._lock:
            questions = list(self._questions)
        for request_id in questions:
            self.answer(request_id, None)

    def found(self, description: Description) -> None:
        """Note that there is a broker, and what it says of its resource."""
        with self._lock:
            if self._description.done():
                self._description = Future()
            self._description.set_result(description)
            self.lost_since = None

    def lost(self) -> None:
        """Note that there is no broker any more."""
        with self._lock:
            self.lost_since = self.lost_since or time.monotonic()
        self.answer_all()

    def everything(self) -> list[Asked]:
        """Return all requests, to be sent anew; what was to be sent is forgotten.

        Questions that are still open are put once more.
        """
        with self._lock:
            self._outbox.clear()
            self._outbox.extend(protocol.encode(Expect(number)) for number in self._expected)
            return list(self._requests.values())

    def waiting_since(self, latest: float) -> list[Asked]:
        """Return the requests that have waited for a broker since `latest` or longer."""
        with self._lock:
            if self.lost_since is None or self.lost_since > latest:
                return []
            return [asked for asked in self._requests.values() if asked.since <= latest]
