"""Sub-agents: another conversation of the same agent, and an agent as a function of another one.

A fork begins where its agent is, and goes its own way: nothing that is said in one is heard in the other. What it
spends counts in its agent too, and the limits of its agent hold for it; so a fork keeps its agent alive.

A call of an agent that is a tool is a round of a fresh fork, whose parent is the agent that calls. It runs in the task
of the call, so what ends the call ends the round with all that it has under way, before the call has ended.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from inspect import signature
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypedDict, Unpack

from .errors import ApprovalPending, SubAgentError
from .events import Event, Handlers, SubAgentEvent
from .history import open_calls
from .limits import UsageLimits
from .message import Content, Message, ToolCall
from .prompt.window import Window
from .provider import ChatProvider, Overrides
from .session.keeping import Kept
from .spending import Spender
from .stream import Round
from .tools.approval import ApprovalRule, waiting_calls
from .tools.base import ToolLike
from .tools.context import context_here
from .tools.function import AIFunction
from .tools.renamed import RenamedTool
from .tools.texts import described
from .tools.toolset import by_name, merged

if TYPE_CHECKING:
    from .prompt.compaction import Compaction, Compactor
    from .session.state import Session
    from .tools.allowance import LoopGuard

__all__ = ["Changes", "Forking"]

MAX_DEPTH: Final = 8
"""How many sub-agents may be at work inside of each other."""


class Changes(TypedDict, total=False):
    """What `fork` may change: what the constructor of `Agent` takes, with the same meaning."""

    provider: ChatProvider
    system_prompt: str | None
    always_included_messages: Iterable[Message] | None
    desired_response_tokens: int | None
    chat_history: Iterable[Message] | None
    functions: Iterable[ToolLike | Callable[..., Any]] | None
    retry_attempts: int
    trim_ratio: float
    resume_interrupted: bool
    compaction: Compaction | Compactor | Iterable[Compactor]
    limits: UsageLimits | None
    session: Session | None
    strict_hooks: bool
    max_parallel_tools: int | None
    tool_timeout: float | None
    loop_guard: LoopGuard


class Forkable(Kept, Spender, Protocol):
    """What forking needs of an agent."""

    functions: dict[str, ToolLike]

    def full_round(
        self, query: Content, *, max_function_rounds: int | None = 200, **overrides: Unpack[Overrides]
    ) -> Round[Message]:
        """A question, and every message until it is answered."""
        ...


class Forking(Forkable):
    """An agent, as far as other agents come out of it."""

    _parent: Any = None
    """The agent that this one was forked from, or works for; `None` for an agent of its own."""

    def fork(self, **changes: Unpack[Changes]) -> Self:
        """Another agent of the same class that goes on from here by itself.

        It has the same provider, pinned messages and functions, a copy of the history, and the same attributes of a
        subclass: these are shared. It has handlers, turns and usage of its own, and no session. A function that forks
        its agent gets one that knows nothing of the calls that are under way. What the fork spends counts here too.

        Args:
            changes: what is to be different, as the constructor of `Agent` takes it. `functions` take the place of
                those beside the decorated methods, `system_prompt` and `always_included_messages` of their like.

        Raises:
            TypeError: there is no such argument.
            ValueError: as of the constructor.
            FunctionSpecError: as of the constructor.
            SessionError: the agent has a session which was not restored yet.
        """
        self._keeper.check_restored()
        begin = _constructor(type(self))
        fork = copy.copy(self)
        begin(fork, **_settings(self, _arguments(begin), changes))
        fork._parent = self
        fork.prompt_cache_key, fork._unknown = self.prompt_cache_key, self._unknown
        fork.functions = _functions(self, fork, changes.get("functions"))
        if "provider" not in changes:
            fork._window = _as_learnt(self._window)
        return fork

    def as_tool(
        self,
        name: str,
        desc: str,
        *,
        share_history: bool = False,
        max_rounds: int | None = 200,
        timeout: float | None = None,
        sequential: bool = False,
        approval: ApprovalRule = False,
    ) -> AIFunction:
        """This agent as a function of another one. Each call is a full round of a fresh fork; its result the answer.

        Usage, limits and events of the fork belong to the agent that calls. Whatever goes wrong in its round is an
        error result. An answer without text is `ToolTexts.empty`.

        Args:
            name: of the function.
            desc: tells the model what the agent can do.
            share_history: whether the fork begins with what was said to the agent that calls; else with the history of
                this agent, which often is empty.
            max_rounds: `max_function_rounds` of the round.
            timeout: as of `ai_function`, for the whole round.
            sequential: as of `ai_function`.
            approval: as of `ai_function`.

        Raises:
            FunctionSpecError: the name cannot be used.
            ValueError: `max_rounds` is negative.
        """
        if max_rounds is not None and max_rounds < 0:
            raise ValueError(f"max_rounds is 0 or more, or None for no limit; not {max_rounds}")

        async def ask(query: str) -> str | None:
            return await _answer(self, name, query, share_history, max_rounds)

        ask.__qualname__ = f"{type(self).__qualname__}.as_tool"
        return AIFunction(ask, name=name, desc=desc, timeout=timeout, sequential=sequential, approval=approval)


# ==== a fork ====


def _constructor(kind: type[Forking]) -> Callable[..., None]:
    """That of the class that all agents come from: subclasses may take other arguments."""
    return next(cls for cls in reversed(kind.__mro__) if Forking in cls.__bases__).__init__


@cache
def _arguments(constructor: Callable[..., None]) -> tuple[str, ...]:
    return tuple(signature(constructor).parameters)[1:]


def _settings(agent: Forking, names: Sequence[str], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a fork.

    Args:
        agent: that is forked.
        names: of all arguments.
        changes: some of them.

    Raises:
        TypeError: a change is no argument.
    """
    if unknown := [name for name in changes if name not in names]:
        raise TypeError(f"fork() takes no argument {unknown[0]!r}; there are {', '.join(names)}")
    return {
        **{name: getattr(agent, name) for name in names if hasattr(agent, name)},
        "compaction": _begun_anew(agent.compaction),
        "chat_history": _without_open_exchange(agent.chat_history),
        "strict_hooks": agent._handlers._strict,
        "session": None,
        **changes,
        **_pinned(agent.always_included_messages, changes),
        "functions": (),
    }


def _begun_anew(compaction: Compaction) -> Compaction:
    """The same compactors, without what they have learnt of a conversation."""
    anew = copy.copy(compaction)
    anew.fruitless = 0
    return anew


def _without_open_exchange(history: Sequence[Message]) -> list[Message]:
    """The history without the calls that are under way, or wait for approval, and what they have given so far."""
    places = range(len(history) - 1, -1, -1)
    newest = next((place for place in places if history[place].role == "assistant"), None)
    end: Sequence[Message] = [] if newest is None else history[newest:]
    if not (open_calls(end) or waiting_calls(end)):
        return list(history)
    return [*history[:newest], *(message for message in end[1:] if message.role != "tool")]


def _pinned(pinned: Sequence[Message], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that make the pinned messages: the system prompt is the first of them."""
    system = [message for message in pinned[:1] if message.role == "system" and message.text]
    others = changes.get("always_included_messages", pinned[len(system) :]) or ()
    if "system_prompt" in changes:
        return {"system_prompt": changes["system_prompt"], "always_included_messages": others}
    return {"system_prompt": None, "always_included_messages": [*system, *others]}


def _functions(
    agent: Forking, fork: Forking, given: Iterable[ToolLike | Callable[..., Any]] | None
) -> dict[str, ToolLike]:
    """The functions of an agent, as its fork has them.

    Args:
        agent: that is forked.
        fork: whose functions are its decorated methods so far.
        given: in place of those beside the decorated methods.

    Raises:
        FunctionSpecError: as of the constructor.
    """
    functions: dict[str, ToolLike] = {}
    for name, tool in agent.functions.items():
        method = fork.functions.get(name)
        if type(tool) is AIFunction and isinstance(method, AIFunction) and method.base is tool.base:
            method.enabled = tool.enabled
            functions[name] = method
        elif given is None:
            functions[name] = _bound_anew(tool, agent, fork)
    return functions if given is None else merged(functions, by_name(given))


def _bound_anew(tool: ToolLike, agent: Forking, fork: Forking) -> ToolLike:
    """A function that was added to an agent, for its fork: its own `enabled`, and its own `self`."""
    if isinstance(tool, RenamedTool):
        return RenamedTool(_bound_anew(tool.inner, agent, fork), tool.name)
    if not isinstance(tool, AIFunction):
        return tool
    function, inner = copy.copy(tool), tool.inner
    if isinstance(inner, MethodType) and inner.__self__ is agent:
        function._inner = MethodType(inner.__func__, fork)
    return function


def _as_learnt(window: Window) -> Window:
    """A window that begins at the same message, and knows the same of the model."""
    another = copy.copy(window)
    another.running = copy.copy(window.running)
    return another


# ==== an agent as a tool ====


async def _answer(agent: Forking, name: str, query: str, share_history: bool, max_rounds: int | None) -> str | None:
    """What an agent answers; `None` if that has no text.

    Raises:
        SubAgentError: there is no answer.
    """
    with _one_deeper(name):
        try:
            child = await _child(agent, share_history)
            async with child.full_round(query, max_function_rounds=max_rounds) as round_:
                said = [message.text async for message in round_ if message.role == "assistant"]
        except ApprovalPending as pending:
            names = ", ".join(call.name for call in pending.calls)
            raise SubAgentError(f"{name} may not call {names}: nobody could be asked for approval", name) from pending
        except Exception as error:
            raise SubAgentError(f"{name} failed: {described(error)}", name) from error
    return said[-1] if said and said[-1].strip() else None


async def _child(agent: Forking, share_history: bool) -> Forking:
    """A fork for a call. Without an agent that calls, it is the agent's own."""
    await agent._keeper.restore(agent)
    context = context_here()
    if not isinstance(parent := context.agent, Forking):
        return agent.fork()
    child = agent.fork()
    if share_history:
        child.chat_history = _without_open_exchange(parent.chat_history)
    child._parent = parent
    child._handlers = _Relay(child._handlers, context.call, parent._handlers)
    parent._handlers.follow(child, context.call)
    return child


_depth: Final[ContextVar[int]] = ContextVar("kimi_agent_sub_agents", default=0)
"""How many sub-agents this code runs inside of."""


@contextmanager
def _one_deeper(name: str) -> Generator[None]:
    if (depth := _depth.get()) >= MAX_DEPTH:
        raise SubAgentError(f"{name} was not asked: {MAX_DEPTH} sub-agents are at work inside of each other", name)
    token = _depth.set(depth + 1)
    try:
        yield
    finally:
        with suppress(ValueError):  # a task that is torn down with its loop leaves in another context
            _depth.reset(token)


class _Relay(Handlers):
    """The handlers of a sub-agent: who listens to `SubAgentEvent` of its parent is told of everything.

    Args:
        own: of the sub-agent.
        call: of the parent, that the sub-agent answers.
        above: those of the parent.
    """

    def __init__(self, own: Handlers, call: ToolCall, above: Handlers) -> None:
        super().__init__(own._strict)
        self._call, self._above = call, above

    def __contains__(self, event_type: type[Event]) -> bool:
        return super().__contains__(event_type) or SubAgentEvent in self._above

    async def hand_out(self, event: Event) -> None:
        try:
            await super().hand_out(event)
        finally:
            if SubAgentEvent in self._above:
                await self._above.emit(self._from_here(event))

    async def emit_beside(self, event: Event) -> None:
        await super().emit_beside(event)
        if SubAgentEvent in self._above:
            await self._above.emit_beside(self._from_here(event))

    def _from_here(self, event: Event) -> SubAgentEvent:
        if isinstance(event, SubAgentEvent):
            return SubAgentEvent((self._call, *event.path), event.event)
        return SubAgentEvent((self._call,), event)
