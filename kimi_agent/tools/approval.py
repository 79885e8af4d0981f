"""Whether a call may run: who has to say so, what he says, and how a call waits for it in the history.

A call that waits has a result, which says so: the history can be sent at any time. `extra` of that message tells why it
waits; it is saved and never sent. Whatever is not approved is not run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import sha256
from inspect import isawaitable
from typing import Any, Final, Literal, Self, TypeAlias, cast, get_args
from uuid import uuid4
from weakref import WeakKeyDictionary

from loguru import logger

from ..history import calls_of, paired
from ..message import Message, ToolCall, Value
from .base import Tool, ToolLike
from .renamed import inner_of

__all__ = [
    "Approval",
    "ApprovalRule",
    "Approvals",
    "Approver",
    "WaitingCall",
    "approved_later",
    "check_list",
    "matched",
    "must_be_approved",
    "waiting",
    "waiting_calls",
]

ApprovalRule: TypeAlias = bool | Callable[[Mapping[str, Any]], bool | Awaitable[bool]]
"""Whether calls of a function have to be approved, or a function of the checked arguments that says so."""

Approver: TypeAlias = Callable[[ToolCall, ToolLike], "Approval | Awaitable[Approval]"]
"""Says whether a call may run."""


class Approval(Value):
    """Whether a call may run, and which one. `Approval.approve(call)` and its siblings make one.

    One that names its call holds for this very call: for its id, its function and its arguments, and for this time that
    it waits. JSON keeps it.

    Args:
        decision: `approve`, `approve_for_session`, `reject`, or `wait` for a later decision.
        feedback: for the model, why it was rejected.
        call_id: of the call that it is for.
        digest: of the name and the arguments of that call, and of its waiting.
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
    told = f"{call.name}\0{call.arguments}\0{call.extra.get(_NONCE, '')}".encode(errors="surrogatepass")
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
        self._for_all: dict[int, Tool] = {}
        """The definitions of functions that were approved once for all, by identity: a name may be another's later."""
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._mark = object()

    async def ask(self, approver: Approver, call: ToolCall, tool: ToolLike) -> Approval:
        """Ask whether a call may run, unless its function was approved once for all.

        A person answers one question after the other. Who asks from within a question does not wait for its end.

        Raises:
            TypeError: what the approver says is no approval.
            Exception: what the approver raises.
        """
        if self._mark in _asking.get():
            return await self._asked(approver, call, tool)
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            token = _asking.set(_asking.get() | {self._mark})
            try:
                return await self._asked(approver, call, tool)
            finally:
                with suppress(ValueError):  # a task that is torn down with its loop leaves in another context
                    _asking.reset(token)

    async def _asked(self, approver: Approver, call: ToolCall, tool: ToolLike) -> Approval:
        if id(_definition(tool)) in self._for_all:
            return Approval.approve(call)
        said: Any = approver(call, tool)
        approval = _checked(await said if isawaitable(said) else said, call)
        self.take(approval, tool)
        return approval

    def take(self, approval: Approval, tool: ToolLike) -> None:
        """Remember what is approved once for all."""
        if approval.decision == "approve_for_session":
            known = _definition(tool)
            self._for_all[id(known)] = known


_asking: Final[ContextVar[frozenset[object]]] = ContextVar("kimi_agent_asking", default=frozenset())
"""Who is being asked, while this code runs: an approver may let another agent judge, which asks him again."""


def _definition(tool: ToolLike) -> Tool:
    """That of the tool itself, which all agents of its class share."""
    return inner_of(tool).base


def _checked(said: object, call: ToolCall) -> Approval:
    if not isinstance(said, Approval):
        raise TypeError(f"the approval of {call.name!r} is {said!r}; say Approval.approve() or Approval.reject()")
    if said.is_bound and not said.is_for(call):
        return Approval.reject("what was approved is another call")
    return said


# ==== calls that wait ====

_REASON: Final = "waits_for"
_NONCE: Final = "waiting"
Reason = Literal["approval", "turn"]
"""A call waits until it is approved, or until a call before it has run, which waits."""


def waiting(call: ToolCall, reason: Reason, text: str) -> Message:
    """The result of a call that waits."""
    extra = {_REASON: reason, _NONCE: uuid4().hex}
    return Message.tool(text, call.id, name=call.name, is_tool_call_error=True).copy_with(extra=extra)


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A call that waits, and the result that says so."""

    call: ToolCall
    result: Message

    @property
    def reason(self) -> Reason:
        """What it waits for."""
        return cast(Reason, self.result.extra[_REASON])

    @property
    def asked(self) -> ToolCall:
        """The call as an approval names it: this waiting, and no other of the same call in another turn."""
        return self.call.copy_with(extra={**self.call.extra, _NONCE: self.result.extra.get(_NONCE, "")})


def waiting_calls(history: Sequence[Message]) -> list[WaitingCall]:
    """The calls at the end of a history that wait, in their order."""
    results: list[Message] = []
    for message in reversed(history):
        if message.role != "tool":
            return [
                WaitingCall(call, result)
                for call, result in paired(calls_of(message), reversed(results))
                if result is not None and result.extra.get(_REASON) in get_args(Reason)
            ]
        results.append(message)
    return []


def approved_later(history: Sequence[Message]) -> tuple[ToolCall, ...]:
    """The calls at the end of a history that wait for approval, as an approval names them."""
    return tuple(call.asked for call in waiting_calls(history) if call.reason == "approval")


def check_list(approvals: object) -> None:
    """Make sure that these may be approvals: `None` would be a round like any other.

    Raises:
        TypeError: they are not.
    """
    if isinstance(approvals, Approval) or not isinstance(approvals, Iterable):
        raise TypeError(f"{approvals!r} is no list of approvals; write [Approval.approve(call)]")


def matched(approvals: Iterable[Approval], waiting: Sequence[WaitingCall]) -> dict[int, Approval]:
    """Approvals by the position of their call. Each is for one call.

    Raises:
        TypeError: one is no approval.
        ValueError: one names no call, or none that waits for approval.
    """
    calls = {place: known.asked for place, known in enumerate(waiting) if known.reason == "approval"}
    found: dict[int, Approval] = {}
    for approval in approvals:
        if not isinstance(approval, Approval):
            raise TypeError(
                f"{approval!r} is no Approval; make one with Approval.approve(call) or Approval.reject(...)"
            )
        if not approval.is_bound:
            raise ValueError("an approval has to name its call: Approval.approve(call), Approval.reject(text, call)")
        place = next((place for place, call in calls.items() if approval.is_for(call)), None)
        if place is None:
            known = ", ".join(f"{call.id} ({call.name})" for call in calls.values()) or "none"
            raise ValueError(
                f"no call {approval.call_id} waits for this approval; those of agent.waiting_calls do: {known}"
            )
        if place in found:
            raise ValueError(f"there are two approvals of the call {approval.call_id}; give one")
        found[place] = approval
    return found
