"""What both doubles of Kimi share: the script, the checks, the persona, and the number and cost of an answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from inspect import isawaitable
from typing import Any, cast

from .checks import check_request
from .chunks import Envelope, PrefixCache, events
from .language import Written, read, said_at_once, streamed
from .persona import persona
from .script import Answer, Body, Call, Delivery, Failure, RawBody, Recorded, Reply, ScriptSource, Step

__all__ = ["Double", "headers", "own_headers"]


class Double:
    """Answers decoded chat requests.

    Args:
        script: one step for each request, one text for one request, or a function for all of them; without one the
            persona answers.
        delivery: how streamed answers travel that do not say it themselves.
        check: refuse what Kimi refuses. A refused request uses up no step.

    Raises:
        TypeError: what is given is no script, or one of its steps is none.
        ValueError: a text of the script has a mistake.
    """

    def __init__(self, script: ScriptSource | None, delivery: Delivery, check: bool) -> None:
        source: ScriptSource = persona if script is None else script
        self._steps: deque[Step] | None = None if callable(source) else deque(_proofread(source))
        self._every: Callable[[Body], Any] | None = source if callable(source) else None
        self._delivery = delivery
        self._check = check
        self._cache = PrefixCache()
        self._asked = 0

    def assert_complete(self) -> None:
        """Make sure that the whole script was asked for.

        Raises:
            AssertionError: it was not; the text names what is left.
        """
        if self._steps:
            left = "\n".join(f"  {step!r}" for step in self._steps)
            raise AssertionError(f"{len(self._steps)} scripted answers were not asked for:\n{left}")

    async def _answer(self, body: Body, *, check: bool = True) -> tuple[Answer | Written, Envelope]:
        """The answer to a request, and what has to be known to send it."""
        self._asked += 1
        refusal = check_request(body) if self._check and check else None
        answer = refusal or await self._next(body)
        if isinstance(answer, Written) and not body.get("stream"):
            answer = await said_at_once(answer)
        prompt, cached = self._cache.read(body) if isinstance(answer, Reply | Written) else (0, 0)
        return answer, Envelope(self._asked, str(body.get("model")), prompt, cached, _wants_usage(body))

    async def _next(self, body: Body) -> Answer | Written:
        if self._every is not None:
            return await _resolved(self._every, body)
        if not self._steps:
            return Failure(500, "server_error", f"the script is exhausted: it has no answer to request {self._asked}")
        return await _resolved(self._steps.popleft(), body)

    def _events(self, answer: Reply | Recorded | Written, envelope: Envelope) -> tuple[list[bytes], Delivery]:
        if isinstance(answer, Written):
            return streamed(answer, envelope, self._delivery)
        delivery = answer.delivery or self._delivery
        return events(answer, envelope, delivery), delivery


def headers(answer: Answer | Written, envelope: Envelope) -> dict[str, str]:
    """What Kimi sends beside an answer to a chat request. Names are in lower case."""
    ids = {"msh-request-id": f"request-{envelope.number}", "x-trace-id": f"trace-{envelope.number}"}
    return ids | own_headers(answer)


def own_headers(answer: Answer | Written) -> dict[str, str]:
    """What an answer says of its headers. Names are in lower case."""
    match answer:
        case Failure(retry_after=int() | str() as retry_after):
            return {"retry-after": str(retry_after)}
        case RawBody():
            return {name.lower(): value for name, value in answer.headers.items()}
        case _:
            return {}


def _proofread(script: Iterable[Step]) -> Iterator[Step]:
    """The steps as they are, once it is sure that their texts can be read."""
    for number, step in enumerate(_steps_of(script), start=1):
        if isinstance(step, str):
            try:
                read(step)
            except ValueError as error:
                raise ValueError(f"step {number} of the script: {error}") from None
        elif not callable(step):
            _check_line(step, f"step {number} of the script is", "a step is a function,")
        yield step


def _steps_of(script: Iterable[Step]) -> Iterator[Step]:
    try:
        return iter([script] if isinstance(script, str) else script)
    except TypeError:
        raise TypeError(f"a script is a list of steps, a text, or a function, not {script!r}") from None


def _check_line(line: object, told: str, expected: str) -> None:
    if not isinstance(line, Answer | Call | str):
        raise TypeError(f"{told} {line!r}; {expected} a Reply, a text, or what else docs/testing.md lists")


async def _resolved(step: Step, body: Body) -> Answer | Written:
    """A step as an answer: functions are called, a call becomes a reply, a text is read."""
    if callable(step):
        made = step(body)
        step = await made if isawaitable(made) else made
        _check_line(step, "a function of the script gave", "it has to give")
    if isinstance(step, str):
        return read(step)
    return Reply(tool_calls=(step,)) if isinstance(step, Call) else step


def _wants_usage(body: Body) -> bool:
    options: Any = body.get("stream_options")
    return isinstance(options, dict) and bool(cast(Body, options).get("include_usage"))
