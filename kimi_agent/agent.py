"""`Agent`: one class is one conversation.

Subclass it, decorate methods with `@ai_function`, iterate `full_round`. Every step of a round is a small async method
with a default, and may be overridden.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack
from uuid import uuid4

from loguru import logger
from typing_extensions import TypeVar

from . import approving, asking, calls, history, spending
from .errors import FunctionCallException
from .events import E, Handler, Handlers, RoundStarted, StreamFrame, ToolCallFinished
from .generate import GenerateResult
from .hooks import added
from .latecomers import at_top, declarations
from .limits import NO_LIMITS, UsageLimits, nothing_spent
from .measured import Stopwatch
from .message import Content, FrozenDict, Message, ToolCall
from .prompt.compaction import Compaction, Compactor
from .prompt.counting import cost, counter_in_time
from .prompt.window import Fit, Window
from .provider import ChatProvider, Overrides, StreamedMessage, checked
from .resume import joined
from .session.keeping import Keeper
from .session.lasting import Lasting
from .settings import check_settings, said_by_user
from .stream import FormattedMessages, FrameByFrame, MessageStream, Recording, Round, assistant_text
from .structured.output import Output, Snapshot, Snapshots
from .subagents import Forking
from .tools.allowance import Allowance, CallOutcome, LoopGuard
from .tools.approval import Approval, Approvals
from .tools.base import ToolLike
from .tools.function import functions_of
from .tools.texts import ToolTexts, tool_error_from
from .tools.toolset import (
    ExceptionHandleResult,
    FunctionCallResult,
    functions_in,
    invoke,
    merged,
    offered,
)
from .turns import Turn, Turns

if TYPE_CHECKING:
    from .session.state import Session

__all__ = ["Agent"]

Item = TypeVar("Item")
T = TypeVar("T", default=Any)
Query: TypeAlias = Content
Advance: TypeAlias = Callable[[AsyncGenerator[Any, None]], Awaitable[Item]]
Check: TypeAlias = Callable[[GenerateResult], Message | None] | None


class Agent(Lasting, Forking, approving.Approving, calls.Calling):
    """One conversation with a model, and the functions that the model may call in it.

    Args:
        provider: who answers.
        system_prompt: goes before everything else; blanks around it are cut off, and a blank one is none.
        always_included_messages: go behind the system prompt in every prompt; they are not in `chat_history`.
        desired_response_tokens: room left for the answer, half of the window at most; by default a tenth, up to 8192.
        chat_history: what has been said so far; the list is copied.
        functions: to call, beside the methods that `@ai_function` decorates: tools, and plain functions.
        retry_attempts: how often in a row the model may try again after a call went wrong.
        trim_ratio: when the history no longer fits, how much of the room the kept part may fill. The rest is free for
            new messages, so that the beginning of the prompt does not move at every turn.
        resume_interrupted: whether an answer that is cut off is continued where it stopped, as one answer.
        compaction: what makes a long history shorter before it is sent: compactors, tried in order when the prompt
            fills four fifths of the window, or a `Compaction` that says when; none unless given.
        limits: how far the conversation may go; no limits unless given.
        session: where the conversation lasts while it goes on. What is there is restored first, in place of
            `chat_history`; pinned messages that are given here are kept.
        strict_hooks: whether what a handler of `on` raises fails the round; else it is logged.
        max_parallel_tools: how many calls of a message run at a time; no bound unless given.
        tool_timeout: seconds until a call is given up, of functions without a `timeout` of their own; never by default.
        loop_guard: what becomes of a model that makes the same call again and again; `None` for nothing.

    Raises:
        FunctionSpecError: a function cannot be described to a model, or two have one name.
        TypeError: an argument is of another kind.
        ValueError: a number is out of its range.
    """

    texts: ToolTexts = ToolTexts()
    """Every sentence that this package itself puts into the conversation."""

    def __init__(
        self,
        provider: ChatProvider,
        system_prompt: str | None = None,
        *,
        always_included_messages: Iterable[Message] | None = None,
        desired_response_tokens: int | None = None,
        chat_history: Iterable[Message] | None = None,
        functions: Iterable[ToolLike | Callable[..., Any]] | None = None,
        retry_attempts: int = 1,
        trim_ratio: float = 0.75,
        resume_interrupted: bool = False,
        compaction: Compaction | Compactor | Iterable[Compactor] = (),
        limits: UsageLimits | None = None,
        session: Session | None = None,
        strict_hooks: bool = False,
        max_parallel_tools: int | None = None,
        tool_timeout: float | None = None,
        loop_guard: LoopGuard | None = LoopGuard(),  # noqa: B008 - frozen
    ) -> None:
        check_settings(locals())
        self.provider = provider
        system = [Message.system(text)] if (text := (system_prompt or "").strip()) else []
        self.always_included_messages: list[Message] = [*system, *(always_included_messages or ())]
        """The beginning of every prompt."""
        self.chat_history: list[Message] = list(chat_history or ())
        """What has been said. Change it as you like between two rounds: the next prompt shows it."""
        history.check_messages(self)
        usual = min(provider.context_window // 10, 8192)
        self.desired_response_tokens = usual if desired_response_tokens is None else desired_response_tokens
        self.retry_attempts = retry_attempts
        self.trim_ratio = trim_ratio
        self.resume_interrupted = resume_interrupted
        self.prompt_cache_key = uuid4().hex
        """Sent with each request, so that they all find the same cache; saved with the conversation."""
        self.max_parallel_tools, self.tool_timeout = max_parallel_tools, tool_timeout
        self.loop_guard: LoopGuard = loop_guard or LoopGuard(None, None)
        self.functions: dict[str, ToolLike] = merged(functions_of(self), functions_in(functions or ()))
        """What the model may call, by name."""
        self.usage = nothing_spent()
        """What the conversation has used: tokens, requests, calls, and their cost in USD."""
        self.limits = limits or NO_LIMITS
        self.compaction = compaction if isinstance(compaction, Compaction) else Compaction(compaction)
        self._window = Window()
        self._turns = Turns()
        self._keeper = Keeper(session)
        self._stopwatch = Stopwatch()
        self._pending = spending.Pending()
        self._handlers = Handlers(strict=strict_hooks)
        self._approvals = Approvals()
        self._entered = []
        self._kept: Fit | None = None
        self._recording: Recording | None = None
        """Of an answer that is not streamed, for whoever hears that it failed."""
        self._unknown = FrozenDict()

    # ==== rounds ====

    async def chat_round(self, query: Query, **overrides: Unpack[Overrides]) -> Message:
        """One question, one answer, no calls.

        The functions stay in the prompt, with `tool_choice="none"`, so that its cached beginning holds.

        Args:
            query: what the user says; `None` lets the model go on.
            overrides: for the request; see `GenerationKwargs`. `include_functions=False` leaves the functions out.

        Raises:
            TypeError: the query is nothing to say, or no request knows an override.
            ChatProviderError: the model did not answer. What the user said stays in the history; `None` tries again.
            PromptError: what the user said does not fit the window.
        """
        request, said = self._chat_request(overrides), said_by_user(query)
        async with Turn(self, self._turns).whole():
            await self._begin_round(said)
            return (await asking.model_turn(self, request)).message

    async def chat_round_str(self, query: Query, **overrides: Unpack[Overrides]) -> str:
        """Like `chat_round`, but only the text."""
        return (await self.chat_round(query, **overrides)).text

    def chat_round_stream(self, query: Query, **overrides: Unpack[Overrides]) -> MessageStream:
        """Like `chat_round`, as a stream. Nothing happens before the stream is iterated or awaited."""
        request, said = self._chat_request(overrides), said_by_user(query)

        async def produce(recording: Recording) -> GenerateResult:
            async with Turn(self, self._turns).whole():
                await self._begin_round(said)
                return await asking.model_turn(self, request, recording)

        return MessageStream("assistant", produce)

    def full_round(
        self, query: Query, *, max_function_rounds: int | None = 200, **overrides: Unpack[Overrides]
    ) -> Round[Message]:
        """A question, and every message until the model has answered it: its own and the results of its calls.

        Args:
            query: what the user says; `None` lets the model go on.
            max_function_rounds: how often the model may call functions before it has to answer without; `None`: always.
            overrides: for each request; see `GenerationKwargs`.

        Raises:
            TypeError: the query is nothing to say, or no request knows an override.
            ValueError: `max_function_rounds` is negative.
            ChatProviderError: while iterating: the model did not answer. Everything until then is in the history.
            PromptError: while iterating: the newest messages do not fit the window.
            RoundInProgressError: while iterating: called by a tool, hook or handler of this agent's running round.
        """
        return self._round(query, max_function_rounds, overrides, False, anext)

    def full_round_str(
        self,
        query: Query,
        message_formatter: Callable[[Message], str | None] = assistant_text,
        *,
        max_function_rounds: int | None = 200,
        **overrides: Unpack[Overrides],
    ) -> Round[str]:
        """Like `full_round`, but what `message_formatter` makes of each message; nothing and `""` are skipped."""
        advance = FormattedMessages(message_formatter)
        return self._round(query, max_function_rounds, overrides, False, advance)

    def full_round_stream(
        self, query: Query, *, max_function_rounds: int | None = 200, **overrides: Unpack[Overrides]
    ) -> Round[MessageStream]:
        """Like `full_round`, each message as a stream. The next step waits for the end of the stream before."""
        return self._round(query, max_function_rounds, overrides, True, anext)

    def full_round_frames(
        self, query: Query, *, max_function_rounds: int | None = 200, **overrides: Unpack[Overrides]
    ) -> Round[StreamFrame]:
        """Like `full_round`, as one stream of frames: an `End` per answer of the model, a `ToolResult` per call."""
        return self._round(query, max_function_rounds, overrides, True, FrameByFrame())

    # ==== answers of a given type ====

    async def structured(
        self,
        kind: type[T] | UnionType,
        query: Query,
        *,
        repair_attempts: int = 1,
        max_function_rounds: int | None = 200,
        **overrides: Unpack[Overrides],
    ) -> T:
        """Like `full_round`, but the answer is JSON of a type, checked, and given as an object of it.

        Args:
            kind: a pydantic model, a dataclass, or any other type that pydantic can describe as JSON.
            query: what the user says; `None` lets the model go on.
            repair_attempts: how often the model is told what is wrong with its answer, and may answer again.
            max_function_rounds: as of `full_round`.
            overrides: as of `full_round`.

        Raises:
            StructuredOutputError: the answer does not fit. It is in the history, and its text is in `raw`.
            TypeError: the type cannot be described as JSON, or the overrides have a format of their own.
        """
        output = Output[T](kind, repair_attempts, self.texts)
        asked = output.asked(overrides)
        return await output.at_end_of(self._round(query, max_function_rounds, asked, False, anext, output.check))

    def structured_stream(
        self,
        kind: type[T] | UnionType,
        query: Query,
        *,
        repair_attempts: int = 1,
        max_function_rounds: int | None = 200,
        **overrides: Unpack[Overrides],
    ) -> Round[T | Snapshot]:
        """Like `structured`, while it arrives: what there is of the JSON, again and again; the object comes last."""
        output = Output[T](kind, repair_attempts, self.texts)
        asked = output.asked(overrides)
        return self._round(query, max_function_rounds, asked, True, Snapshots(output), output.check)

    # ==== hooks: each has a default, each may be overridden ====

    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        """The messages of the next request. A query: it changes nothing.

        The default takes `always_included_messages` and as many of the newest whole exchanges as fit the window.

        Args:
            include_functions: whether the functions are in the prompt and take room.
            overrides: of the round; the instructions of a `format` stand at the end.

        Raises:
            PromptTooLong: the always included messages and the functions do not fit.
            MessageTooLong: the newest user message and the newest exchange do not fit.
        """
        await self._keeper.restore(self)
        with history.naming_what_is_no_message(self):
            return await asking.prompt(self, include_functions, overrides)

    async def compact(self) -> bool:
        """Make the history shorter now, as `compaction` says; whether that was possible."""
        async with Turn(self, self._turns).whole(is_round=False):
            return await spending.compact(self)

    async def prompt_token_len(
        self, messages: Sequence[Message], functions: Sequence[ToolLike] | None = None, **overrides: Any
    ) -> int:
        """How many tokens a prompt of these messages and functions has. The window counts by itself."""
        counter = await counter_in_time(self.provider.model_name)
        tools, declares = at_top(functions or (), messages), bool(declarations(messages))
        overhead = counter.overhead(tools, spending.asked(self, overrides), declares=declares)
        return overhead + cost(counter, messages)

    async def get_enabled_functions(self) -> Sequence[ToolLike]:
        """The functions that the model is told of. The default leaves out those whose `enabled` is false."""
        return offered(self.functions)

    async def get_model_stream(self, include_functions: bool = True, **overrides: Any) -> StreamedMessage:
        """Ask the model with the current prompt. The answer is in nobody's history; close the stream.

        Raises:
            ChatProviderError: the model could not be asked.
            PromptError: there is no prompt that fits.
        """
        return await asking.open_stream(self, include_functions, overrides)

    async def get_model_completion(self, include_functions: bool = True, **overrides: Any) -> GenerateResult:
        """Ask the model with the current prompt and wait for the whole answer. It is in nobody's history.

        Raises:
            ChatProviderError: the model did not answer.
            PromptError: there is no prompt that fits.
        """
        return await asking.whole_answer(self, self.get_model_stream(include_functions, **overrides), self._recording)

    async def add_completion_to_history(self, completion: GenerateResult) -> Message:
        """Add an answer of the model to the history, joined to its beginning if that is there, and return it."""
        begun = next(filter(history.is_begun, self.chat_history[-1:]), None)
        message = joined(begun, completion.message) if begun else completion.message
        await added(self, message)
        if begun is not None:
            history.remove(self.chat_history, begun)
            await self._keep_up("join")
        return message

    async def add_to_history(self, message: Message) -> None:
        """Add a message to `chat_history`, and to the session. A result takes its place in the order of the calls."""
        await self._keeper.restore(self)
        place = history.placed(self.chat_history, message) if message.role == "tool" else len(self.chat_history)
        self.chat_history.insert(place, message)
        await self._keeper.keep(self, message, place)

    async def approve_function_call(self, call: ToolCall, function: ToolLike) -> Approval:
        """Say whether a call may run, of a function that needs an `approval`. Asked for one call at a time.

        The default lets it wait: the round ends with `ApprovalPending`. A sub-agent asks the agent that it works for.

        Args:
            call: what the model asked for. The arguments fit.
            function: what it calls.
        """
        return await approving.ask_above(self, call, function)

    async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
        """Run one call.

        Raises:
            NoSuchFunction: there is no such function.
            ToolArgumentsError: the arguments do not fit.
            FunctionTimeout: the function took longer than it may.
            WrappedCallException: the function raised.
        """
        speaks_next = getattr(self.functions.get(call.name), "after", "assistant")
        value = await invoke(self.functions, call, self.texts, self.tool_timeout)
        return FunctionCallResult(speaks_next == "assistant", calls.result_for(self, call, value), value)

    async def handle_function_call_exception(
        self, call: ToolCall, err: FunctionCallException, attempt: int
    ) -> ExceptionHandleResult:
        """Decide what becomes of a call that went wrong.

        The default tells the model what happened and lets it try again, `retry_attempts` times in a row.

        Args:
            call: what the model asked for.
            err: what `do_function_call` raised.
            attempt: how many rounds of calls before this one went wrong in a row.
        """
        logger.opt(exception=err).debug("the call {} of {} went wrong", call.id, call.name)
        message = calls.result_for(self, call, tool_error_from(err, self.texts).copy_with(display=()))
        return ExceptionHandleResult(err.retry and attempt < self.retry_attempts, message)

    @property
    def counts_exactly(self) -> bool:
        """Whether prompts are counted as Kimi does, which is known after the first one; else they are estimated."""
        return self._window.counter.is_exact

    @property
    def cost(self) -> float | None:
        """What the conversation has cost, in USD; `None` when a price is not known."""
        return self.usage.cost

    # ==== events ====

    def on(self, event_type: type[E], handler: Handler[E]) -> Callable[[], None]:
        """Call `handler` with each event of a type; returns a function that unsubscribes it.

        Several are called in order, async ones awaited. What one raises is logged, unless there are `strict_hooks`.
        """
        return self._handlers.add(event_type, handler)

    # ==== internals: a round ====

    def _round(
        self,
        query: Query,
        max_function_rounds: int | None,
        overrides: Mapping[str, Any],
        streamed: bool,
        advance: Advance[Item],
        check: Check = None,
        approvals: Iterable[Approval] | None = None,
    ) -> Round[Item]:
        turn, allowance = Turn(self, self._turns), Allowance(max_function_rounds, self.loop_guard)
        steps = self._steps(turn, said_by_user(query), allowance, checked(overrides), streamed, check, approvals)
        return Round(turn, steps, advance)

    async def _steps(
        self,
        turn: Turn,
        said: Message | None,
        allowance: Allowance,
        request: dict[str, Any],
        streamed: bool,
        check: Check,
        approvals: Iterable[Approval] | None,
    ) -> AsyncGenerator[Any, None]:
        """The loop of a round. It cleans nothing up at its `yield`s: that is its turn's work."""
        await turn.begin()
        await self._begin_round(said, resumes=approvals is not None)
        taken_up = None if approvals is None else await approving.take_up(self, approvals, allowance)
        while True:
            asked = request if allowance.calls else {**request, "tool_choice": "none"}
            if taken_up is not None:
                result = taken_up.result
            elif streamed:
                stream = MessageStream("assistant", partial(asking.stream_turn, self, turn, asked))
                turn.opened(stream)
                yield stream
                if (result := await stream.completion_unless_closed()) is None:
                    return
            else:
                result = await asking.model_turn(self, asked)
                yield result.message
            wanted = result.message.tool_calls
            if not wanted:
                if check is None or (wrong := check(result)) is None:
                    return
                await added(self, wrong)
                continue
            if allowance.calls:
                spending.check_calls(self, len(wanted), result.message)
            outcomes: list[CallOutcome] = []
            answering = calls.Answering(self, allowance, result, taken_up.approvals if taken_up else {})
            running = turn.start(wanted, answering, self._commit, self.max_parallel_tools)
            for position in range(len(wanted)):
                outcome = await running.result(position)
                outcomes.append(outcome)
                if not outcome.waits:
                    yield MessageStream.of(outcome.message) if streamed else outcome.message
            turn.all_answered()
            approving.check_waiting(self)
            if not allowance.goes_on(outcomes):
                return
            taken_up = None

    def _chat_request(self, overrides: Overrides) -> dict[str, Any]:
        """A request that allows no calls, unless it is asked for the functions outright."""
        request = checked(overrides)
        return request if request.get("include_functions") else {"tool_choice": "none", **request}

    async def _begin_round(self, said: Message | None, *, resumes: bool = False) -> None:
        await self._keeper.begin(self)
        if not resumes:
            await approving.give_up(self)
        await self._handlers.emit(RoundStarted(said))
        if said is not None:
            await added(self, said)

    # ==== internals: a call ====

    async def _commit(self, outcome: CallOutcome) -> None:
        """A result is in the history before anybody hears of it."""
        await added(self, outcome.message)
        await self._settle()
        if outcome.duration is not None:
            finished = ToolCallFinished(outcome.call, outcome.message, outcome.duration, outcome.error_type)
            await self._handlers.emit(finished)
        if outcome.fatal is not None:
            raise outcome.fatal

    # ==== internals: what its turns and its spending need of a conversation ====

    def _runs_in_thread(self, call: ToolCall) -> bool:
        """Whether the function of a call runs in a thread, which cannot be stopped."""
        return bool(getattr(self.functions.get(call.name), "in_thread", False))
