"""Calls that wait for approval: how a round ends with them, and how it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

from . import history
from .errors import ApprovalPending
from .events import StreamFrame
from .generate import GenerateResult
from .message import Message, ToolCall
from .provider import Overrides
from .stream import FrameByFrame, MessageStream, Round
from .tools.approval import Approval, Approvals, approved_later, matched, waiting_calls, waits_for
from .tools.base import ToolLike
from .tools.toolset import is_sequential

__all__ = ["Approving", "TakenUp", "ask_above", "check_waiting", "take_up"]


class Approving(Protocol):
    """An agent, as far as its calls wait for approval."""

    chat_history: list[Message]
    functions: dict[str, ToolLike]
    _approvals: Approvals
    _parent: Any
    """The agent that this one works for, if it is a sub-agent."""

    async def _keep_up(self, reason: str) -> None:
        """The history was changed as a whole: the session has to hear of it."""
        ...

    def _round(
        self,
        query: Any,
        max_function_rounds: int | None,
        overrides: Mapping[str, Any],
        streamed: bool,
        advance: Any,
        check: Any = None,
        approvals: Iterable[Approval] | None = None,
    ) -> Round[Any]:
        """A round that begins with calls."""
        ...

    async def approve_function_call(self, call: ToolCall, function: ToolLike) -> Approval:
        """The hook that says whether a call may run that has to be approved."""
        ...

    @property
    def waiting_calls(self) -> tuple[ToolCall, ...]:
        """The calls at the end of the history that wait for approval, in their order."""
        return approved_later(self.chat_history)

    def resume(
        self,
        approvals: Iterable[Approval],
        *,
        max_function_rounds: int | None = 200,
        **overrides: Unpack[Overrides],
    ) -> Round[Message]:
        """Go on with a round that ended with `ApprovalPending`, like `full_round`, also in another process.

        Calls that are approved now are run, and no others. Rejected ones are answered with the feedback. While some
        still wait, the round ends with `ApprovalPending` again.

        Args:
            approvals: each names its call: `Approval.approve(call)`, `Approval.reject("too expensive", call)`.
            max_function_rounds: as of `full_round`.
            overrides: as of `full_round`.

        Raises:
            ValueError: while iterating: one is for no call that waits; nothing was run.
        """
        return self._round(None, max_function_rounds, overrides, False, anext, approvals=approvals)

    def resume_stream(
        self, approvals: Iterable[Approval], *, max_function_rounds: int | None = 200, **overrides: Unpack[Overrides]
    ) -> Round[MessageStream]:
        """Like `resume`, each message as a stream."""
        return self._round(None, max_function_rounds, overrides, True, anext, approvals=approvals)

    def resume_frames(
        self, approvals: Iterable[Approval], *, max_function_rounds: int | None = 200, **overrides: Unpack[Overrides]
    ) -> Round[StreamFrame]:
        """Like `resume`, as one stream of frames."""
        return self._round(None, max_function_rounds, overrides, True, FrameByFrame(), approvals=approvals)


@dataclass(frozen=True, slots=True)
class TakenUp:
    """Calls that waited and go on now, as the answer that asks for them, with what was said of them by position."""

    result: GenerateResult
    approvals: Mapping[int, Approval]


async def take_up(agent: Approving, approvals: Iterable[Approval]) -> TakenUp:
    """Take those calls out of their waiting that can go on. From now on each is run once at most.

    A call without an approval waits on, and so do all behind it, if it runs alone.

    Raises:
        ValueError: an approval is for no call that waits. Nothing has changed.
        ApprovalPending: none of them can go on.
    """
    waiting = waiting_calls(agent.chat_history)
    approved = matched(approvals, [call for call, _ in waiting])
    going: dict[int, tuple[ToolCall, Message]] = {}
    for position, (call, message) in enumerate(waiting):
        decided = position in approved and approved[position].decision != "wait"
        if decided or (waits_for(message) == "turn" and position not in approved):
            going[position] = call, message
        elif is_sequential(agent.functions, call):
            break
    if not going:
        check_waiting(agent)
        raise ValueError("no call at the end of the history waits for approval; go on with full_round")
    for _, message in going.values():
        history.remove(agent.chat_history, message)
    await agent._keep_up("resume")
    asking = next(message for message in reversed(agent.chat_history) if message.role == "assistant")
    message = asking.copy_with(tool_calls=[call for call, _ in going.values()])
    said = {place: approved[position] for place, position in enumerate(going) if position in approved}
    return TakenUp(GenerateResult(None, message, None), said)


async def ask_above(agent: Approving, call: ToolCall, function: ToolLike) -> Approval:
    """What the agent says of a call that this one works for; without one the call waits."""
    parent: Approving | None = agent._parent
    if parent is None:
        return Approval.wait(call)
    async with parent._approvals.one_at_a_time():
        return await parent.approve_function_call(call, function)


def check_waiting(agent: Approving) -> None:
    """Make sure that no call waits for approval.

    Raises:
        ApprovalPending: one does.
    """
    if calls := approved_later(agent.chat_history):
        raise ApprovalPending(calls)
