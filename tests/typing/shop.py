"""A program that fills in what the package leaves open: hooks, tools, providers, sessions. Type checkers read it."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, Unpack, assert_type

from pydantic import BaseModel

from kimi_agent import (
    Agent,
    AIFunction,
    AIParam,
    APIStatusError,
    Approval,
    ApprovalPending,
    CallableTool,
    CallableTool2,
    ChatProvider,
    ChatProviderError,
    Compaction,
    CompactionTask,
    Compactor,
    ContentPart,
    DropToolOutput,
    End,
    Event,
    ExceptionHandleResult,
    Format,
    FunctionCallException,
    FunctionCallResult,
    GenerateResult,
    GenerationKwargs,
    HandleResult,
    JournalSession,
    Kimi,
    KimiAgentError,
    Message,
    MessageStream,
    ModelRetry,
    Overrides,
    RequestRetried,
    RequestSent,
    Round,
    Session,
    SessionState,
    SimpleToolset,
    Spent,
    SQLiteSessionStore,
    StepResult,
    StreamedMessage,
    StreamedMessagePart,
    StreamFrame,
    SubAgentEvent,
    TextPart,
    Timeouts,
    TokenUsage,
    Tool,
    ToolCall,
    ToolCallFinished,
    ToolContext,
    ToolLike,
    ToolOk,
    ToolResult,
    ToolResultFuture,
    ToolReturnValue,
    Toolset,
    UsageLimits,
    ai_function,
    from_dict,
    generate,
    step,
    to_dict,
    tool_result_to_message,
)
from kimi_agent.otel import instrument
from kimi_agent.session import SessionHit, SQLiteSession, WindowState
from kimi_agent.testing import ChaosTransport, Gate, KimiServer, Reply, ScriptedKimi, call, say

# ==== an agent with every hook of its own ====


class Order(BaseModel):
    sku: str
    count: int = 1


def is_large(arguments: Any) -> bool:
    return bool(arguments)


class Shop(Agent):
    stock: dict[str, int]

    def __init__(self, provider: ChatProvider, *, stock: dict[str, int], session: Session | None = None) -> None:
        super().__init__(provider, "You sell books.", session=session, limits=UsageLimits(cost=0.5))
        self.stock = stock

    @ai_function()
    async def in_stock(self, sku: Annotated[str, AIParam("Of the book")]) -> int:
        """How many there are."""
        return self.stock[sku]

    @ai_function(name="order", approval=is_large, timeout=5, fatal=(LookupError,))
    def take_order(self, order: Order, how: Literal["post", "carrier"] = "post") -> dict[str, Any]:
        """Order a book."""
        if order.sku not in self.stock:
            raise ModelRetry(f"there is no {order.sku}")
        return {"sku": order.sku, "how": how}

    @ai_function
    async def search(self, words: list[str], context: ToolContext) -> str:
        """Search the shelves."""
        context.report("looking", fraction=0.5)
        return f"nothing about {words[0]} in {context.call_id}"

    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        return [*await super().get_prompt(include_functions, **overrides), Message.system("Be terse.")]

    async def get_enabled_functions(self) -> Sequence[ToolLike]:
        return [function for function in await super().get_enabled_functions() if function.base.name != "order"]

    async def get_model_stream(self, include_functions: bool = True, **overrides: Any) -> StreamedMessage:
        return await super().get_model_stream(include_functions, **overrides)

    async def get_model_completion(self, include_functions: bool = True, **overrides: Any) -> GenerateResult:
        return await super().get_model_completion(include_functions, **overrides)

    async def add_completion_to_history(self, completion: GenerateResult) -> Message:
        return await super().add_completion_to_history(completion)

    async def add_to_history(self, message: Message) -> None:
        await super().add_to_history(message)

    async def approve_function_call(self, call: ToolCall, function: ToolLike) -> Approval:
        return Approval.approve(call) if function.base.name == "order" else Approval.reject("Not that.", call)

    async def do_function_call(self, call: ToolCall) -> FunctionCallResult:
        return FunctionCallResult(True, Message.tool("5", call.id), ToolOk(output="5"))

    async def handle_function_call_exception(
        self, call: ToolCall, err: FunctionCallException, attempt: int
    ) -> ExceptionHandleResult:
        return ExceptionHandleResult(err.retry and attempt < 3, Message.tool(str(err), call.id))


class WrongHooks(Agent):
    async def get_prompt(self) -> list[Message]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return []

    async def add_to_history(self, message: str) -> None:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        print(message)

    def approve_function_call(self, call: ToolCall, function: ToolLike) -> Approval:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return Approval.wait()


def decorated(shop: Shop) -> None:
    """A decorated method keeps its type."""
    assert_type(shop.take_order(Order(sku="a")), dict[str, Any])
    shop.take_order("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ai_function(timout=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    ai_function(after="nobody")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


# ==== rounds ====


async def rounds(shop: Shop) -> None:
    assert_type(await shop.chat_round("q"), Message)
    assert_type(await shop.chat_round_str(["q", TextPart(text="and more")]), str)
    assert_type(shop.chat_round_stream("q"), MessageStream)
    assert_type(await shop.chat_round_stream("q"), Message)
    assert_type(shop.full_round("q"), Round[Message])
    assert_type(shop.full_round_str("q"), Round[str])
    assert_type(shop.full_round_stream("q"), Round[MessageStream])
    assert_type(shop.full_round_frames("q"), Round[StreamFrame])
    async for message in shop.full_round("q", max_function_rounds=3, temperature=0.5, tool_choice="auto"):
        assert_type(message, Message)
        assert_type(message.content, tuple[ContentPart, ...])
        assert_type(message.tool_calls, tuple[ToolCall, ...] | None)
    async with shop.full_round_stream(None) as streams:
        async for stream in streams:
            assert_type(stream, MessageStream)
            async for piece in stream:
                assert_type(piece, str)
            assert_type(await stream.message(), Message)
            assert_type(await stream.completion(), GenerateResult)
    try:
        await shop.chat_round("q")
    except ApprovalPending as pending:
        assert_type(pending.calls, tuple[ToolCall, ...])
        async for message in shop.resume([Approval.approve(call) for call in pending.calls]):
            print(message.text)
    except APIStatusError as error:
        assert_type(error.retry_after, float | None)
        known: ChatProviderError = error
        print(known)
    except KimiAgentError as error:
        print(error)


async def mistakes_of_rounds(shop: Shop) -> None:
    await shop.chat_round(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await shop.chat_round("q", temprature=0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await shop.chat_round("q", temperature="hot")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    shop.full_round("q", 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    shop.full_round("q", max_rounds=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Agent("kimi-k3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Agent(shop.provider, "s", [Message.user("q")])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    shop.fork(sytem_prompt="s")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Message(role="function")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    print(Message.user("q").txt)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    shop.on(str, print)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    shop.on(RequestSent, lambda event: event.delay)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownLambdaType]
    list(shop.full_round("q"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


def events(shop: Shop) -> None:
    def retried(event: RequestRetried) -> None:
        print(event)

    async def finished(event: ToolCallFinished) -> None:
        assert_type(event.message, Message)

    assert_type(shop.on(RequestRetried, retried), Callable[[], None])
    shop.on(ToolCallFinished, finished)
    shop.on(SubAgentEvent, lambda event: print(event.path))
    heard: list[Event] = [RequestSent("{}")]
    assert_type([to_dict(event) for event in heard], list[dict[str, Any]])
    print(from_dict({}))
    shop.on(RequestSent, retried)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def traced(shop: Shop) -> None:
    assert_type(instrument(shop, content=True), Callable[[], None])
    instrument(shop, None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def sub_agents(shop: Shop) -> None:
    assert_type(shop.fork(system_prompt="s", functions=[]), Shop)
    assert_type(shop.as_tool("ask_shop", "Ask the shop.", max_rounds=3), AIFunction)


# ==== tools ====


class Count(CallableTool):
    name: str = "count"
    description: str = "Count letters."
    parameters: dict[str, Any] = {"type": "object", "properties": {"text": {"type": "string"}}}

    async def __call__(self, text: str) -> ToolReturnValue:
        return ToolOk(output=str(len(text)))


class Buy(CallableTool2[Order]):
    name: str = "buy"
    description: str = "Buy a book."
    params: type[Order] = Order

    async def __call__(self, params: Order) -> ToolReturnValue:
        return ToolOk(output=params.sku, brief="bought", message="Thank you.")


class Clock:
    """A tool of a class that knows nothing of the package."""

    @property
    def base(self) -> Tool:
        return Tool(name="clock", description="The time.", parameters={"type": "object", "properties": {}})

    async def call(self, arguments: Any) -> ToolReturnValue:
        return ToolOk(output="noon")


class Shelf:
    """Tools of a class that knows nothing of the package."""

    @property
    def tools(self) -> list[Tool]:
        return [Clock().base]

    def handle(self, tool_call: ToolCall) -> HandleResult:
        return ToolResult(tool_call_id=tool_call.id, return_value=ToolOk(output="noon"))


class NoTool:
    async def call(self, arguments: Any) -> ToolReturnValue:
        return ToolOk(output="")


def tools(kimi: Kimi) -> None:
    tools: list[ToolLike] = [Count(), Buy(), Clock()]
    Agent(kimi, functions=[*tools, len])
    toolsets: list[Toolset] = [SimpleToolset(tools), SimpleToolset([Count()]) + Buy(), Shelf()]
    print(toolsets)
    tools.append(NoTool())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ToolOk("5")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ToolOk()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# ==== without an agent ====


async def loop(kimi: Kimi, toolset: Toolset, history: list[Message]) -> None:
    assert_type(await generate(kimi, "s", [Clock().base], history), GenerateResult)
    result = await step(kimi, "s", toolset, history, on_tool_result=lambda result: print(result.return_value.brief))
    assert_type(result, StepResult)
    assert_type(result.usage, TokenUsage | None)
    history += [tool_result_to_message(each) for each in await result.tool_results()]
    futures: Sequence[ToolResultFuture] = []
    print(futures)
    stream = await kimi.generate("s", [], history, generation_overrides={"temperature": 0.5})
    async for part in stream:
        assert_type(part, StreamedMessagePart)
    await kimi.generate("s", [], history, generation_overrides={"heat": 0.5})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# ==== a provider, a session, a compactor, a format ====


class Answer:
    id: str | None = None
    usage: TokenUsage | None = None
    finish_reason: str | None = "stop"
    trace_id: str | None = None

    async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
        yield TextPart(text="Hello.")

    async def aclose(self) -> None:
        pass


class Echo:
    name = "echo"
    model_name = "echo-1"
    context_window = 1024

    async def generate(
        self,
        system_prompt: str,
        tools: Sequence[Tool],
        history: Sequence[Message],
        *,
        generation_overrides: GenerationKwargs | None = None,
        on_event: Callable[[RequestSent | RequestRetried], Any] | None = None,
    ) -> StreamedMessage:
        return Answer()


class Deaf:
    async def generate(self, system_prompt: str, tools: Sequence[Tool], history: Sequence[Message]) -> StreamedMessage:
        return Answer()


class Memory:
    def __init__(self) -> None:
        self.state = SessionState()

    async def load(self) -> SessionState:
        return self.state

    async def append(
        self, messages: Sequence[Message], *, usage: Spent | None = None, window: WindowState | None = None
    ) -> None:
        print(len(messages))

    async def replace(self, state: SessionState, *, reason: str = "") -> None:
        self.state = state

    async def checkpoint(self, label: str) -> None:
        print(label)

    async def rollback(self, label: str) -> SessionState:
        return self.state

    async def flush(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class Newest:
    async def compact(self, history: Sequence[Message], task: CompactionTask) -> Sequence[Message] | None:
        return history[-3:] if await task.count(history) > task.budget else None


class Haiku:
    @property
    def message(self) -> Message:
        return Message.system("Answer with a haiku.")


async def what_is_left_open(kimi: Kimi, options: Overrides) -> None:
    providers: list[ChatProvider] = [kimi, Echo(), ScriptedKimi([say("x")])]
    compactors: list[Compactor] = [Newest(), DropToolOutput()]
    agent = Agent(providers[0], compaction=Compaction(compactors), session=Memory())
    await agent.chat_round("q", **options)
    wanted: Format = Haiku()
    await agent.chat_round("q", format=wanted)
    Agent(Deaf())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Agent(kimi, session=Echo())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Agent(kimi, compaction=Haiku())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def forwards(agent: Agent, **options: Unpack[Overrides]) -> Message:
    return await agent.chat_round("q", **options)


async def sessions(kimi: Kimi) -> None:
    Agent(kimi, session=JournalSession("ada.journal", fsync="always"))
    JournalSession("ada.journal", fsync="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async with SQLiteSessionStore("sessions.db") as store:
        assert_type(store.open("ada"), SQLiteSession)
        assert_type(await store.search("Oslo"), list[SessionHit])
        Agent(kimi, session=store.open("ada"))


# ==== Kimi, and its doubles ====


async def clients() -> None:
    async with Kimi("kimi-k3", timeout=Timeouts(connect=1), max_retries=2) as kimi:
        assert_type(kimi.with_generation_kwargs(temperature=0.5).with_thinking("high"), Kimi)
        kimi.with_thinking("a lot")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        kimi.with_generation_kwargs(heat=0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        Kimi("kimi-k3", "sk-key")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def scripts() -> Iterator[Reply]:
    yield say("Hello.", reasoning="A greeting.")
    yield Reply(tool_calls=[call("in_stock", sku="a")])


async def doubles() -> None:
    async with KimiServer(scripts()) as server:
        assert_type(server.requests[-1].body, dict[str, Any])
        await server.until(lambda: server.connections == 0)
    async with KimiServer(lambda body: f"{len(body)} fields") as server:
        print(server.base_url, ChaosTransport(seed=1, faults=["stall"]), Gate(3))
    ScriptedKimi([5])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    ChaosTransport(faults=["fire"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


def frames(frame: StreamFrame) -> TokenUsage | None:
    return frame.usage if isinstance(frame, End) else None
