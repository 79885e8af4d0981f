"""Books of a conversation: what its agents say that they have done, held against what others have seen of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from errands import Worker

from kimi_agent import RequestRetried, RequestSent, StreamCompleted, TokenUsage, ToolCallFinished, ToolCallStarted
from kimi_agent.limits import Spent
from kimi_agent.testing import KimiServer

__all__ = ["Books", "Wrong"]


class Wrong(NamedTuple):
    """What does not fit, and under which name it is counted."""

    kind: str
    text: str


class Books:
    """Kept for the agents of a conversation, one after the other.

    A request that was given up may reach the server after the question that it was for. So requests are known by their
    bodies, of which no two questions have the same.

    Args:
        server: that all requests are for.
    """

    def __init__(self, server: KimiServer) -> None:
        self._server = server
        self._looked_at = 0
        self._due: Counter[bytes] = Counter()
        """Requests that were sent and have not reached the server, by body."""
        self._newest = b""
        self._asked: set[bytes] = set()
        """The bodies of a question."""
        self._reached = 0
        """Requests of a question that the server got."""
        self._answers = Spent()
        """What the answers to a question cost."""
        self._before = Spent()
        self._calls = 0
        """Those of a question that began."""
        self._running: Counter[str] = Counter()
        """Calls that began and have not finished, by id."""
        self._finished: list[ToolCallFinished] = []
        """Since they were looked at."""

    # ---- what is told ----

    def keep(self, agent: Worker) -> None:
        """Hear what an agent tells."""
        agent.on(RequestSent, self._sent)
        agent.on(RequestRetried, self._retried)
        agent.on(StreamCompleted, self._answered)
        agent.on(ToolCallStarted, self._call_began)
        agent.on(ToolCallFinished, self._call_finished)

    def begin(self, agent: Worker) -> None:
        """A question begins."""
        self._asked.clear()
        self._reached, self._calls = 0, 0
        self._answers, self._before = Spent(), agent.usage

    def _sent(self, event: RequestSent) -> None:
        self._newest = event.body.encode()
        self._asked.add(self._newest)
        self._due[self._newest] += 1

    def _retried(self, event: RequestRetried) -> None:
        self._due[self._newest] += event.attempt > 0

    def _answered(self, event: StreamCompleted) -> None:
        self._answers = self._answers.with_answer(event.usage, None)

    def _call_began(self, event: ToolCallStarted) -> None:
        self._calls += 1
        self._running[event.call.id] += 1

    def _call_finished(self, event: ToolCallFinished) -> None:
        self._running[event.call.id] -= 1
        self._finished.append(event)

    # ---- what does not fit ----

    def after_reading(self, agent: Worker, heard: Counter[str], *, stopped: bool) -> Iterator[Wrong]:
        """What is wrong when a round has ended.

        Args:
            agent: whose round.
            heard: the ids of the calls whose results its consumer heard.
            stopped: whether the consumer did stop: then calls need not finish, nor their results be heard.
        """
        yield from self._unasked()
        unfinished, self._running = self._running, Counter[str]()
        finished, self._finished = self._finished, []
        for call, number in unfinished.items():
            if number < 0 or (number and not stopped):
                yield Wrong("events that differ", f"{call} began {number:+} times more often than it finished")
        for event in finished:
            if event.message not in agent.chat_history:
                yield Wrong("events that differ", f"finished, and not in the history: {event.message}")
        if not stopped and (lost := Counter(event.call.id for event in finished) - heard):
            yield Wrong("results lost", f"finished, and not handed out: {[*lost]}")

    def after_question(self, agent: Worker, *, stopped: bool, undisturbed: bool) -> Iterator[Wrong]:
        """What is wrong when a question was answered, or given up.

        Args:
            agent: that was asked.
            stopped: whether a consumer stopped meanwhile, perhaps between an answer and the word of it.
            undisturbed: whether nothing went wrong on the way: then each request has an answer.
        """
        spent, before, answers = agent.usage, self._before, self._answers
        if undisturbed and spent.requests - before.requests != self._reached:
            yield Wrong("usage that differs", f"{spent} after {before}; {self._reached} requests reached the server")
        if not stopped and _tokens(spent) - _tokens(before) != _tokens(answers):
            yield Wrong("usage that differs", f"{spent} after {before}; the answers cost {answers}")
        if spent.tool_calls - before.tool_calls != self._calls:
            yield Wrong("usage that differs", f"{spent} after {before}; {self._calls} calls began")

    def _unasked(self) -> Iterator[Wrong]:
        requests = self._server.requests[self._looked_at :]
        self._looked_at += len(requests)
        for request in requests:
            self._due[request.raw] -= 1
            self._reached += request.raw in self._asked
            if self._due[request.raw] < 0:
                yield Wrong("requests nobody asked for", f"{request.raw.decode():.1500}")


def _tokens(spent: TokenUsage) -> int:
    return spent.input + spent.output
