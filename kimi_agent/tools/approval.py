"""Whether a call may run: who has to say so, what he says, and how a call waits for it in the history.

A call that waits has a result, which says so: the history can be sent at any time. `extra` of that message tells why it
waits; it is saved and never sent. Whatever is not approved is not run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from inspect import isawaitable
from typing import Any, Final, Literal, Self, TypeAlias, cast
from weakref import WeakKeyDictionary

from loguru import logger

from ..history import calls_of
from ..message import Message, ToolCall, Value
from .base import ToolLike

__all__ = [
    "Approval",
    "ApprovalRule",
    "Approvals",
    "Approver",
    "approved_later",
    "matched",
    "must_be_approved",
    "waiting",
    "waiting_calls",
    "waits_for",
]

ApprovalRule: TypeAlias = bool | Callable[[Mapping[str, Any]], bool | Awaitable[bool]]
"""Whether calls of a function have to be approved, or a function of the checked arguments that says so."""

Approver: TypeAlias = Callable[[ToolCall, ToolLike], "Approval | Awaitable[Approval]"]
"""Says whether a call may run."""


class Approval(Value):
    """Whether a call may run, and which one. `Approval.approve(call)` and its siblings make one.

    One that names its call holds for this very call: for its id, its function and its arguments. JSON keeps it.

    Args:
        decision: `approve`, `approve_for_session`, `reject`, or `wait` for a later decision.
        feedback: for the model, why it was rejected.
        call_id: of the call that it is for.
        digest: of the name and the arguments of that call.
    """

    decision: Literal["approve", "approve_for_session", "reject", "wait"]
    feedback: str = ""
    call_id: str | None = None
    digest: str | None = None

    @classmethod
    def approve(cls, call: ToolCall | None = None) -> Self:
        """The call may run."""
        return cls._of("approve", call)

    @classmethod
    def approve_for_session(cls, call: ToolCall | None = None) -> Self:
        """The call may run, and so may all later calls of its function by this agent, until the program ends."""
        return cls._of("approve_for_session", call)

    @classmethod
    def reject(cls, feedback: str = "", call: ToolCall | None = None) -> Self:
        """The call must not run. The model reads `feedback`, and goes on."""
        return cls._of("reject", call, feedback)

    @classmethod
    def wait(cls, call: ToolCall | None = None) -> Self:
        """Nobody can say yet. The round ends with `ApprovalPending`."""
        return cls._of("wait", call)

    @classmethod
    def _of(cls, decision: str, call: ToolCall | None, feedback: str = "") -> Self:
        bound = (None, None) if call is None else (call.id, _digest(call))
        return cls(decision=cast(Any, decision), feedback=feedback, call_id=bound[0], digest=bound[1])

    @property
    def is_bound(self) -> bool:
        """Whether it names its call."""
        return self.call_id is not None and self.digest is not None

    @property
    def is_given(self) -> bool:
        """Whether the call may run."""
        return self.decision in ("approve", "approve_for_session")

    def is_for(self, call: ToolCall) -> bool:
        """Whether it names this call, with these arguments."""
        return self.call_id == call.id and self.digest == _digest(call)


def _digest(call: ToolCall) -> str:
    told = f"{call.name}\0{call.arguments}".encode(errors="surrogatepass")
    return sha256(told).hexdigest()


# ==== does it need one? ====


async def must_be_approved(tool: ToolLike, arguments: Any) -> bool:
    """Whether somebody has to approve a call. A rule that fails means that somebody has to.

    Args:
        tool: that is called.
        arguments: as JSON gives them.

    Raises:
        ToolArgumentsError: the arguments do not fit. Nobody is asked about a call that cannot run.
    """
    rule: ApprovalRule = getattr(tool, "approval", False)
    if rule is False:
        return False
    check = getattr(tool, "check_arguments", None)
    checked = arguments if check is None else await check(arguments)
    if rule is True:
        return True
    try:
        needed: Any = rule(checked)
        needed = await needed if isawaitable(needed) else needed
    except Exception as error:
        logger.opt(exception=error).warning("the approval rule of {} raised; somebody has to approve", tool.base.name)
        return True
    return needed is not False


# ==== asking for it ====


class Approvals:
    """Asks for approvals, one at a time, and remembers what was approved once for all."""

    def __init__(self) -> None:
        self._for_all: set[str] = set()
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    def one_at_a_time(self) -> asyncio.Lock:
        """Whoever asks holds it: a person answers one question after the other."""
        return self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    async def ask(self, approver: Approver, call: ToolCall, tool: ToolLike) -> Approval:
        """Ask whether a call may run, unless its function was approved once for all.

        Raises:
            TypeError: what the approver says is no approval.
            Exception: what the approver raises.
        """
        async with self.one_at_a_time():
            if call.name in self._for_all:
                return Approval.approve(call)
            said: Any = approver(call, tool)
            approval = _checked(await said if isawaitable(said) else said, call)
            self.take(approval, call)
            return approval

    def take(self, approval: Approval, call: ToolCall) -> None:
        """Remember what is approved once for all."""
        if approval.decision == "approve_for_session":
            self._for_all.add(call.name)


def _checked(said: object, call: ToolCall) -> Approval:
    if not isinstance(said, Approval):
        raise TypeError(f"the approval of {call.name!r} is {said!r}; say Approval.approve() or Approval.reject()")
    if said.is_bound and not said.is_for(call):
        return Approval.reject("what was approved is another call")
    return said


# ==== calls that wait ====

_KEY: Final = "waits_for"
Reason = Literal["approval", "turn"]
"""A call waits until it is approved, or until the call before it has run, which waits."""


def waiting(call: ToolCall, reason: Reason, text: str) -> Message:
    """The result of a call that waits."""
    return Message.tool(text, call.id, name=call.name, is_tool_call_error=True).copy_with(extra={_KEY: reason})


def waits_for(message: Message) -> Reason | None:
    """What the call of this result waits for; `None` if it does not wait."""
    reason = message.extra.get(_KEY) if message.role == "tool" else None
    return reason if reason in ("approval", "turn") else None


def waiting_calls(history: Sequence[Message]) -> list[tuple[ToolCall, Message]]:
    """The calls at the end of a history that wait, with the results that say so, in their order."""
    results: list[Message] = []
    for message in reversed(history):
        if message.role != "tool":
            return _waiting_of(calls_of(message), results[::-1])
        results.append(message)
    return []


def _waiting_of(calls: Iterable[ToolCall], results: list[Message]) -> list[tuple[ToolCall, Message]]:
    found: list[tuple[ToolCall, Message]] = []
    for call in calls:
        result = next((result for result in results if result.tool_call_id == call.id), None)
        if result is not None:
            results.remove(result)
            if waits_for(result):
                found.append((call, result))
    return found


def approved_later(history: Sequence[Message]) -> tuple[ToolCall, ...]:
    """The calls at the end of a history that wait for approval, in their order."""
    return tuple(call for call, message in waiting_calls(history) if waits_for(message) == "approval")


def matched(approvals: Iterable[Approval], calls: Sequence[ToolCall]) -> dict[int, Approval]:
    """Approvals by the position of their call. Each is for one call.

    Raises:
        ValueError: one names no call, or none of these.
    """
    found: dict[int, Approval] = {}
    for approval in approvals:
        if not isinstance(approval, Approval):
            raise ValueError(
                f"{approval!r} is no Approval; make one with Approval.approve(call) or Approval.reject(...)"
            )
        if not approval.is_bound:
            raise ValueError("an approval has to name its call: Approval.approve(call), Approval.reject(text, call)")
        place = next((n for n, call in enumerate(calls) if n not in found and approval.is_for(call)), None)
        if place is None:
            known = ", ".join(f"{call.id} ({call.name})" for call in calls) or "none"
            raise ValueError(f"no call {approval.call_id} with these arguments waits for approval; waiting: {known}")
        found[place] = approval
    return found
