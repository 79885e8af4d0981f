"""Calls that wait for approval: how a round ends with them, and how it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from . import history, spending
from .errors import ApprovalPending, CallRejected
from .events import StreamFrame
from .generate import GenerateResult
from .message import Message, ToolCall
from .provider import Overrides
from .spending import Payer
from .stream import FrameByFrame, MessageStream, Round
from .tools.allowance import Allowance
from .tools.approval import Approval, Approvals, WaitingCall, approved_later, check_list, matched, waiting_calls
from .tools.base import ToolLike
from .tools.texts import ToolTexts
from .tools.toolset import is_sequential

if TYPE_CHECKING:
    from .session.keeping import Keeper

__all__ = ["Approving", "TakenUp", "ask_above", "check_waiting", "give_up", "take_up"]


class Approving(Payer, Protocol):
    """An agent, as far as its calls wait for approval."""

    chat_history: list[Message]
    texts: ToolTexts
    _keeper: Keeper
    functions: dict[str, ToolLike]
    _approvals: Approvals

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
        """The calls at the end of the history that wait for approval, in their order, for `Approval.approve`.

        Raises:
            SessionError: the agent has a session which was not restored yet.
        """
        self._keeper.check_restored()
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
            TypeError: these are no approvals.
            ValueError: `max_function_rounds` is 0, or, while iterating, one is for no call that waits: nothing was run.
        """
        return self._resumed(approvals, max_function_rounds, overrides, False, anext)

    def resume_stream(
        self, approvals: Iterable[Approval], *, max_function_rounds: int | None = 200, **overrides: Unpack[Overrides]
    ) -> Round[MessageStream]:
        """Like `resume`, each message as a stream."""
        return self._resumed(approvals, max_function_rounds, overrides, True, anext)

    def resume_frames(
        self, approvals: Iterable[Approval], *, max_function_rounds: int | None = 200, **overrides: Unpack[Overrides]
    ) -> Round[StreamFrame]:
        """Like `resume`, as one stream of frames."""
        return self._resumed(approvals, max_function_rounds, overrides, True, FrameByFrame())

    def _resumed(
        self,
        approvals: Iterable[Approval],
        max_function_rounds: int | None,
        overrides: Mapping[str, Any],
        streamed: bool,
        advance: Any,
    ) -> Round[Any]:
        check_list(approvals)
        if max_function_rounds == 0:
            raise ValueError("max_function_rounds is 1 or more here, or None: the approved calls are a round of calls")
        return self._round(None, max_function_rounds, overrides, streamed, advance, approvals=approvals)


@dataclass(frozen=True, slots=True)
class TakenUp:
    """Calls that waited and go on now, as the answer that asks for them, with what was said of them by position."""

    result: GenerateResult
    approvals: Mapping[int, Approval]


async def take_up(agent: Approving, approvals: Iterable[Approval], allowance: Allowance) -> TakenUp:
    """Take those calls out of their waiting that can go on. From now on each is run once at most.

    A call without an approval waits on, and so do all behind it, if it or they run alone.

    Raises:
        ValueError: an approval is for no call that waits. Nothing has changed.
        ApprovalPending: none of them can go on.
        UsageLimitExceeded: they are too many. They wait on.
    """
    calls = waiting_calls(agent.chat_history)
    approved = matched(approvals, calls)
    going = _going(agent, calls, approved)
    if not going:
        check_waiting(agent)
        raise ValueError("no call at the end of the history waits for approval; go on with full_round")
    asking, *earlier = _messages_with_calls(agent.chat_history)
    spending.check_calls(agent, len(going), asking)
    await _take_out(agent, [call.result for call in going.values()])
    for message in earlier:
        allowance.begins(message.tool_calls or ())
    message = asking.copy_with(tool_calls=[call.call for call in going.values()])
    said = {place: approved[position] for place, position in enumerate(going) if position in approved}
    return TakenUp(GenerateResult(None, message, None), said)


def _going(agent: Approving, calls: Sequence[WaitingCall], approved: Mapping[int, Approval]) -> dict[int, WaitingCall]:
    """Those that can go on, by their positions.

    Raises:
        ValueError: nobody can tell which of two calls with the same id goes on.
    """
    going: dict[int, WaitingCall] = {}
    for position, known in enumerate(calls):
        runs_alone = is_sequential(agent.functions, known.call)
        if runs_alone and len(going) < position:  # not before the one that waits
            break
        if known.reason == "turn" or (position in approved and approved[position].decision != "wait"):
            going[position] = known
        elif runs_alone:
            break
    ids = {known.call.id for known in going.values()}
    for position, known in enumerate(calls):
        if position not in going and known.call.id in ids:
            raise ValueError(f"several calls have the id {known.call.id}; approve or reject them together")
    return going


def _messages_with_calls(chat_history: Sequence[Message]) -> list[Message]:
    """Those since the user spoke, newest first."""
    since = takewhile(lambda message: message.role != "user", reversed(chat_history))
    return [message for message in since if message.tool_calls]


async def _take_out(agent: Approving, results: Sequence[Message]) -> None:
    """Take results out of the history, and out of the session; of neither, if that fails."""
    before = list(agent.chat_history)
    for result in results:
        history.remove(agent.chat_history, result)
    try:
        await agent._keep_up("resume")
    except BaseException:
        agent.chat_history[:] = before
        raise


async def give_up(agent: Approving) -> None:
    """The conversation goes on without the calls that wait: they were not approved, and are not run."""
    calls = waiting_calls(agent.chat_history)
    for known in calls:
        text = agent.texts.rejected(CallRejected())
        place = next(place for place, message in enumerate(agent.chat_history) if message is known.result)
        refused = Message.tool(text, known.call.id, name=known.call.name, is_tool_call_error=True)
        agent.chat_history[place] = refused
    if calls:
        await agent._keep_up("approval")


async def ask_above(agent: Approving, call: ToolCall, function: ToolLike) -> Approval:
    """What the agent says of a call that this one works for; without one the call waits."""
    parent: Approving | None = agent._parent
    if parent is None:
        return Approval.wait(call)
    return await parent._approvals.ask(parent.approve_function_call, call, function)


def check_waiting(agent: Approving) -> None:
    """Make sure that no call waits for approval.

    Raises:
        ApprovalPending: one does.
    """
    if calls := approved_later(agent.chat_history):
        raise ApprovalPending(calls)
