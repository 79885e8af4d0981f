"""Forks and agents that are tools: they go their own way, and their parent pays, limits and hears what they do."""

import asyncio
import gc
import inspect
import json
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_agent import (
    Agent,
    AIFunction,
    DropToolOutput,
    FunctionSpecError,
    JournalSession,
    Kimi,
    Message,
    PromptTooLong,
    RequestSent,
    RoundFinished,
    RoundStarted,
    ServerError,
    SessionError,
    Spent,
    StreamCompleted,
    StreamFrameReceived,
    StreamInterruptedError,
    StreamStarted,
    SubAgentEvent,
    SummarizeHistory,
    TokenUsage,
    ToolCallFinished,
    ToolCallStarted,
    ToolProgress,
    ToolReturnValue,
    UsageLimitExceeded,
    UsageLimits,
    ai_function,
    from_dict,
    model_info,
    to_dict,
)
from kimi_agent.errors import SubAgentError
from kimi_agent.history import problems
from kimi_agent.limits import cost_of
from kimi_agent.subagents import MAX_DEPTH, Changes
from kimi_agent.testing import Delivery, Failure, Gate, KimiServer, Reply, ScriptedKimi, call, say
from kimi_agent.tools.allowance import LoopGuard
from kimi_agent.tools.context import ToolContext

USAGE = TokenUsage(input_other=1_000, output=100, input_cache_read=9_000)


def paid(text: str = "", *calls: Any, **more: Any) -> Reply:
    """An answer that costs `USAGE`."""
    return Reply(text, tool_calls=calls, usage=USAGE, **more)


class Roles:
    """A script by who asks, which the system prompt says: steps in their order, or one function of the request."""

    def __init__(self, **steps: Any) -> None:
        self.steps = {who: list(given) if isinstance(given, list) else given for who, given in steps.items()}
        self.asked: list[str] = []

    def __call__(self, body: Any) -> Any:
        who = body["messages"][0]["content"]
        self.asked.append(who)
        steps = self.steps[who]
        step = steps.pop(0) if isinstance(steps, list) else steps
        return step(body) if callable(step) else step


class Booked(Agent):
    """Writes down what every answer of it and of its forks cost, before anybody else can do anything about it."""

    booked: list[TokenUsage | None] | None = None

    async def add_completion_to_history(self, completion: Any) -> Message:
        if self.booked is not None:
            self.booked.append(completion.usage)
        return await super().add_completion_to_history(completion)


def booked(kind: type[Booked], provider: Any, who: str, book: list[TokenUsage | None], **options: Any) -> Any:
    agent = kind(provider, who, **options)
    agent.booked = book
    return agent


def assert_books_agree(agent: Agent, book: list[TokenUsage | None]) -> None:
    """The agent has paid for every answer once, and has nothing under way."""
    known = [usage for usage in book if usage is not None]
    total = sum(known[1:], start=known[0]) if known else TokenUsage(input_other=0, output=0)
    used = agent.usage
    assert (used.input_other, used.output, used.input_cache_read) == (
        total.input_other,
        total.output,
        total.input_cache_read,
    )
    assert used.requests == len(book)
    assert not agent._pending._least


async def ended(agent: Agent, query: str = "Go.", **options: Any) -> list[Message]:
    return [message async for message in agent.full_round(query, **options)]


def results_of(agent: Agent) -> list[str]:
    return [message.text for message in agent.chat_history if message.role == "tool"]


async def assert_nothing_runs() -> None:
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Counter(Agent):
    """A subclass that takes other arguments than `Agent`, and keeps something of its own."""

    def __init__(self, start: int, provider: Any, *, log: list[str]) -> None:
        super().__init__(provider, "You count.")
        self.count = start
        self.log = log
        self.made = True

    @ai_function()
    async def add(self, number: int) -> int:
        """Add to the count."""
        self.count += number
        return self.count

    @ai_function()
    async def note(self, text: str) -> None:
        """Write something down."""
        self.log.append(text)

    @ai_function(enabled=False)
    def reset(self) -> None:
        """Begin at 0."""
        self.count = 0

    @staticmethod
    @ai_function()
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number


# ==== a fork ====


async def test_a_fork_goes_on_from_here_and_both_go_their_own_way() -> None:
    provider = ScriptedKimi([say("Hello, Ada."), say("In the fork."), say("In the first.")])
    agent = Agent(provider, "You are terse.", always_included_messages=[Message.user("I am Ada.")])
    await agent.chat_round("Hello.")
    fork = agent.fork()
    assert await fork.chat_round_str("One.") == "In the fork."
    assert [message.text for message in agent.chat_history] == ["Hello.", "Hello, Ada."]
    assert await agent.chat_round_str("Two.") == "In the first."
    assert [message.text for message in fork.chat_history] == ["Hello.", "Hello, Ada.", "One.", "In the fork."]
    assert fork.always_included_messages == agent.always_included_messages
    fork.always_included_messages.append(Message.user("I am Bob."))
    assert len(agent.always_included_messages) == 2
    assert provider.requests[1].history[:4] == (*agent.always_included_messages, *agent.chat_history[:2])


async def test_the_prompt_of_a_fork_begins_with_the_same_bytes_and_finds_the_same_cache() -> None:
    bodies: list[str] = []
    agent = Counter(0, ScriptedKimi(lambda body: say("Yes.")), log=[])
    agent.functions["late"] = AIFunction(len_of, name="late")
    agent.on(RequestSent, lambda event: bodies.append(event.body))
    await agent.chat_round("One?")
    fork = agent.fork()
    fork.on(RequestSent, lambda event: bodies.append(event.body))
    await fork.chat_round("Two?")
    first, second = map(json.loads, bodies)
    assert first["prompt_cache_key"] == second["prompt_cache_key"]
    assert json.dumps(first["tools"]) == json.dumps(second["tools"])
    end = bodies[0].index("One?")
    assert bodies[1].startswith(bodies[0][:end])


def len_of(text: str) -> int:
    """How long a text is."""
    return len(text)


async def test_a_fork_is_of_the_same_class_without_its_constructor_and_shares_its_attributes() -> None:
    agent = Counter(5, ScriptedKimi([]), log=(log := []))
    agent.made = False
    fork = agent.fork()
    assert type(fork) is Counter
    assert not fork.made
    assert fork.log is log
    fork.count = 9
    assert agent.count == 5


async def test_methods_of_a_fork_are_its_own() -> None:
    agent = Counter(0, ScriptedKimi([]), log=[])
    fork = agent.fork()
    await fork.call_tool("add", {"number": 3})
    assert (agent.count, fork.count) == (0, 3)
    assert await fork.call_tool_raw("double", {"number": 4}) == "8"
    assert list(fork.functions) == list(agent.functions)
    assert [tool.base for tool in fork.functions.values()] == [tool.base for tool in agent.functions.values()]


async def test_functions_that_were_added_removed_or_switched_are_so_in_the_fork_and_then_apart() -> None:
    agent = Counter(0, ScriptedKimi([]), log=[])
    functions: Any = agent.functions
    functions["subtract"] = AIFunction(Subtracting.of(agent), name="subtract")
    del functions["note"]
    functions["add"].enabled, functions["reset"].enabled = False, True
    fork = agent.fork()
    changed: Any = fork.functions
    assert list(changed) == ["add", "reset", "double", "subtract"]
    assert [tool.base.name for tool in await fork.get_enabled_functions()] == ["reset", "double", "subtract"]
    await fork.call_tool("subtract", {"number": 2})
    assert (agent.count, fork.count) == (0, -2)
    changed["subtract"].enabled = changed["reset"].enabled = False
    changed["add"].enabled = True
    del changed["double"]
    assert [tool.base.name for tool in await agent.get_enabled_functions()] == ["reset", "double", "subtract"]


class Subtracting:
    """A method of an agent that its class does not decorate."""

    @staticmethod
    def of(agent: Counter) -> Callable[..., Any]:
        async def subtract(self: Counter, number: int) -> int:
            self.count -= number
            return self.count

        return subtract.__get__(agent)


async def test_a_tool_that_guards_a_function_stays_in_the_way_of_it() -> None:
    class Guard:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        @property
        def base(self) -> Any:
            return self.inner.base

        async def call(self, arguments: Any) -> ToolReturnValue:
            return ToolReturnValue(is_error=True, output="no")

    agent = Counter(0, ScriptedKimi([]), log=[])
    agent.functions["add"] = guard = Guard(agent.functions["add"])
    fork = agent.fork()
    assert fork.functions["add"] is guard
    assert await fork.call_tool_raw("add", {"number": 1}) == "no"
    assert "add" not in agent.fork(functions=[]).functions


async def test_given_functions_take_the_place_of_those_beside_the_methods() -> None:
    agent = Counter(0, ScriptedKimi([]), log=[])
    agent.functions["one"] = AIFunction(len_of, name="one")
    del agent.functions["note"]
    fork = agent.fork(functions=[AIFunction(len_of, name="two")])
    assert list(fork.functions) == ["add", "reset", "double", "two"]
    with pytest.raises(FunctionSpecError, match="two functions named 'add'"):
        agent.fork(functions=[AIFunction(len_of, name="add")])


ARGUMENTS = list(inspect.signature(Agent.__init__).parameters)[1:]
GIVEN: dict[str, Any] = {
    "desired_response_tokens": 77,
    "retry_attempts": 4,
    "trim_ratio": 0.5,
    "resume_interrupted": True,
    "limits": UsageLimits(requests=3),
    "max_parallel_tools": 2,
    "tool_timeout": 9.0,
    "loop_guard": LoopGuard(remind=2, stop=3),
}


def test_every_argument_of_the_constructor_is_one_of_fork() -> None:
    assert set(Changes.__annotations__) == set(ARGUMENTS)


@pytest.mark.parametrize("name", GIVEN)
def test_a_fork_has_what_its_agent_was_given_unless_it_gets_another(name: str) -> None:
    given: Any = {name: GIVEN[name]}
    agent = Agent(ScriptedKimi([]), **given)
    assert getattr(agent.fork(), name) == GIVEN[name]
    plain = Agent(ScriptedKimi([]))
    assert getattr(plain.fork(**given), name) == GIVEN[name] != getattr(plain, name)


def test_what_is_special_is_carried_over_and_can_be_changed() -> None:
    agent = Agent(ScriptedKimi([]), strict_hooks=True, compaction=DropToolOutput(older_than=2), chat_history=[ONE])
    agent.compaction.fruitless = 1
    fork = agent.fork()
    assert fork._handlers._strict
    assert fork.compaction.compactors == agent.compaction.compactors
    assert fork.compaction.fruitless == 0
    other = agent.fork(
        provider=(provider := ScriptedKimi([])), strict_hooks=False, compaction=[], chat_history=None, limits=None
    )
    assert other.provider is provider
    assert not other._handlers._strict
    assert other.compaction.compactors == ()
    assert other.chat_history == []


ONE = Message.user("One.")


def test_a_change_that_is_none_is_named() -> None:
    agent = Agent(ScriptedKimi([]))
    with pytest.raises(TypeError, match=r"fork\(\) takes no argument 'temperature'; there are provider, system_prompt"):
        agent.fork(temperature=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "wrong", [{"trim_ratio": 0}, {"retry_attempts": -1}, {"desired_response_tokens": -1}, {"tool_timeout": 0}]
)
def test_a_change_is_checked_as_the_constructor_checks_it(wrong: Any) -> None:
    with pytest.raises(ValueError) as told:
        Agent(ScriptedKimi([]), **wrong)
    with pytest.raises(ValueError) as also_told:
        Agent(ScriptedKimi([])).fork(**wrong)
    assert str(also_told.value) == str(told.value)


def test_the_system_prompt_and_the_pinned_messages_are_changed_apart() -> None:
    agent = Agent(ScriptedKimi([]), "Be terse.", always_included_messages=[ONE])

    def pinned(**changes: Any) -> list[str]:
        return [message.text for message in agent.fork(**changes).always_included_messages]

    assert pinned() == ["Be terse.", "One."]
    assert pinned(system_prompt=" Be kind. ") == ["Be kind.", "One."]
    assert pinned(system_prompt=None) == ["One."]
    assert pinned(always_included_messages=[Message.user("Two.")]) == ["Be terse.", "Two."]
    assert pinned(system_prompt="Be kind.", always_included_messages=None) == ["Be kind."]
    without = Agent(ScriptedKimi([]), always_included_messages=[ONE]).fork(system_prompt="New.")
    assert [message.text for message in without.always_included_messages] == ["New.", "One."]


def test_attributes_of_a_subclass_that_are_called_like_arguments_are_no_arguments() -> None:
    class Mine(Agent):
        session = "of the web"
        system_prompt = "not this one"

    agent = Mine(ScriptedKimi([]), "This one.")
    assert agent.fork().always_included_messages == [Message.system("This one.")]


async def test_a_fork_out_of_a_function_leaves_out_the_calls_that_are_under_way() -> None:
    forks: list[Agent] = []
    first_is_done = asyncio.Event()

    class Forking(Agent):
        @ai_function()
        async def first(self) -> str:
            return "first"

        @ai_function()
        async def ask_fork(self) -> str:
            await first_is_done.wait()
            forks.append(fork := self.fork())
            return await fork.chat_round_str("And you?")

    provider = ScriptedKimi(
        [Reply(tool_calls=[call("first"), call("ask_fork")]), say("I am the fork."), say("The end.")]
    )
    agent = Forking(provider)
    agent.on(ToolCallFinished, lambda event: first_is_done.set())
    assert (await ended(agent))[-1].text == "The end."
    assert [message.text for message in forks[0].chat_history] == ["Go.", "And you?", "I am the fork."]
    assert results_of(agent) == ["first", "I am the fork."]
    assert not problems(agent.chat_history)


async def test_what_was_said_beside_open_calls_stays_and_old_open_calls_are_no_matter() -> None:
    asking = Message.assistant(tool_calls=[CALL])
    note = Message.user("A note.")
    assert Agent(ScriptedKimi([]), chat_history=[ONE, asking, note]).fork().chat_history == [ONE, note]
    old = [ONE, asking, note, Message.assistant("Later.")]
    assert Agent(ScriptedKimi([]), chat_history=old).fork().chat_history == old


CALL: Any = Message.assistant(tool_calls=[{"id": "a", "function": {"name": "look", "arguments": "{}"}}]).tool_calls[0]  # type: ignore[index,list-item]  # pyright: ignore


async def test_the_window_of_a_fork_begins_where_that_of_its_agent_does() -> None:
    said = [Message.user("why " * 300) if turn % 2 == 0 else Message.assistant("so " * 300) for turn in range(40)]
    agent = Agent(ScriptedKimi(lambda body: say("Yes."), context_window=9_000), chat_history=said)
    await agent.chat_round("Well?")
    fork = agent.fork()
    start = agent._window.start_in(agent.chat_history)
    assert start > 0
    assert fork._window.start_in(fork.chat_history) == start
    assert await fork.get_prompt() == await agent.get_prompt()
    fork._window.move_to(fork.chat_history, start + 4)
    await fork.chat_round("why " * 5_000)
    assert agent._window.start_in(agent.chat_history) == start
    assert agent._window.running.last is agent.chat_history[-1]
    assert fork._window.running.last is fork.chat_history[-1]
    assert agent.fork(provider=ScriptedKimi([]))._window.start_in(said) == 0


async def test_a_fork_has_no_session_unless_it_gets_one(tmp_path: Any) -> None:
    provider = ScriptedKimi(lambda body: say("Yes."))
    agent = Agent(provider, "Be terse.", session=JournalSession(tmp_path / "first.jsonl"))
    with pytest.raises(SessionError, match="not restored yet"):
        agent.fork()
    async with agent:
        await agent.chat_round("One?")
        await agent.fork().chat_round("Not to be kept.")
        fork = agent.fork(session=JournalSession(tmp_path / "second.jsonl"))
        async with fork:
            await fork.chat_round("Two?")
    for name, said in (("first", ["One?", "Yes."]), ("second", ["One?", "Yes.", "Two?", "Yes."])):
        again = Agent(provider, session=JournalSession(tmp_path / f"{name}.jsonl"))
        async with again:
            assert [message.text for message in again.chat_history] == said
    assert agent.usage.requests == 3


async def test_a_fork_enters_by_itself_and_a_forgotten_one_closes_nothing() -> None:
    async with KimiServer(lambda body: say("Yes.")) as server:
        kimi = Kimi(base_url=server.base_url, api_key=server.api_key)
        async with Agent(kimi) as agent:
            await agent.chat_round("One?")
            assert server.connections == 1
            fork = agent.fork()
            await fork.chat_round("Two?")
            del fork
            gc.collect()
            async with agent.fork() as another:
                await another.chat_round("Three?")
            assert server.connections == 1
            await agent.chat_round("Four?")
        await server.until(lambda: server.connections == 0)
        assert len(server.requests) == 4


def test_a_fork_keeps_its_agent_and_not_the_other_way_round() -> None:
    agent = Agent(ScriptedKimi([]))
    fork = weakref.ref(agent.fork())
    gc.collect()
    assert fork() is None
    child = agent.fork()
    parent = weakref.ref(agent)
    del agent
    gc.collect()
    assert parent() is child._parent is not None


async def test_a_round_of_a_fork_may_run_beside_that_of_its_agent() -> None:
    gate = Gate()
    provider = ScriptedKimi([Reply("First.", delivery=Delivery(gate=gate)), say("Second.")])
    agent = Agent(provider)
    first = asyncio.create_task(agent.chat_round_str("One?"))
    await gate.reached()
    assert await agent.fork().chat_round_str("Two?") == "Second."
    gate.open()
    assert await first == "First."


# ==== what forks spend ====


async def test_what_forks_of_forks_spend_counts_in_all_of_the_line_at_once() -> None:
    agent = Agent(ScriptedKimi(lambda body: paid("Yes.")))
    child = agent.fork()
    grandchild = child.fork()
    sibling = agent.fork()
    for one in (grandchild, child, sibling, agent):
        await one.chat_round("Well?")
    assert [each.usage.requests for each in (agent, child, grandchild, sibling)] == [4, 2, 1, 1]
    assert agent.cost == pytest.approx(4 * cost_of_one())
    assert agent.usage.input == 4 * USAGE.input


async def test_each_is_charged_by_the_prices_of_who_asked() -> None:
    agent = Agent(ScriptedKimi(lambda body: paid("Yes.")))
    cheap = agent.fork(provider=ScriptedKimi(lambda body: paid("Yes."), model="kimi-k2.6"))
    await agent.chat_round("One?")
    first = agent.cost or 0.0
    await cheap.chat_round("Two?")
    assert cheap.cost
    assert cheap.cost != first
    assert agent.cost == pytest.approx(first + cheap.cost)


async def test_an_answer_that_broke_off_makes_the_cost_unknown_in_all_of_the_line() -> None:
    broken = paid("A long answer that breaks.", delivery=Delivery(stop_after=150))
    agent = Agent(ScriptedKimi([broken]))
    child = agent.fork().fork()
    with pytest.raises(StreamInterruptedError):
        await child.chat_round("Well?")
    assert (agent.usage.requests, agent.cost) == (1, None)


async def test_an_answer_that_broke_off_in_a_hook_counts_once() -> None:
    class Drafting(Agent):
        async def get_model_completion(self, include_functions: bool = True, **overrides: Any) -> Any:
            if self._parent is None:
                await self.fork().chat_round("Draft.")
            return await super().get_model_completion(include_functions, **overrides)

    agent = Drafting(ScriptedKimi([paid("A long answer that breaks.", delivery=Delivery(stop_after=150))]))
    with pytest.raises(StreamInterruptedError):
        await agent.chat_round("Well?")
    assert agent.usage.requests == 1
    assert not agent._pending._least


async def test_an_answer_that_is_continued_counts_each_request_in_all_of_the_line() -> None:
    broken = paid("A long answer that breaks off.", delivery=Delivery(stop_after=400))
    agent = Agent(ScriptedKimi([broken, paid("and goes on.")]))
    child = agent.fork(resume_interrupted=True)
    await child.chat_round("Well?")
    assert agent.usage == child.usage
    assert agent.usage.requests == 2
    assert not agent._pending._least


async def test_summaries_of_a_fork_count_and_are_limited_in_all_of_the_line() -> None:
    said = [Message.user(f"Question {turn}. " + "why " * 60) for turn in range(60)]
    provider = ScriptedKimi(lambda body: paid("Briefly."), context_window=4_000)
    agent = Agent(provider, chat_history=said)
    child = agent.fork(compaction=SummarizeHistory())
    await child.chat_round("And now?")
    assert agent.usage == child.usage
    assert agent.usage.requests == len(provider.requests) > 1
    poor = Agent(provider, chat_history=said, limits=UsageLimits(requests=1))
    with pytest.raises(UsageLimitExceeded, match="for an agent and all its forks, the limit requests=1"):
        await poor.fork(compaction=SummarizeHistory(), limits=None).chat_round("And now?")
    assert poor.usage.requests <= 1
    assert not poor._pending._least


async def test_a_summary_that_fails_leaves_nothing_under_way() -> None:
    said = [Message.user(f"Question {turn}. " + "why " * 60) for turn in range(60)]
    provider = ScriptedKimi([Failure(500, "server_error"), paid("Because.")], context_window=4_000)
    agent = Agent(provider, chat_history=said)
    child = agent.fork(compaction=SummarizeHistory())
    assert await child.chat_round_str("And now?") == "Because."
    assert agent.usage.requests == 1
    assert not agent._pending._least
    assert not child._pending._least


async def test_forks_in_event_loops_of_threads_count_too() -> None:
    class Threaded(Agent):
        @ai_function()
        def think(self, number: int) -> str:
            """Think in a thread."""
            return asyncio.run(self.fork(provider=ScriptedKimi(lambda body: paid("Thought."))).chat_round_str("Think."))

    calls = [call("think", number=number) for number in range(8)]
    agent = Threaded(ScriptedKimi([paid("", *calls), paid("Done.")]))
    assert (await ended(agent))[-1].text == "Done."
    assert agent.usage.requests == 10
    assert agent.usage.input == 10 * USAGE.input


# ==== limits of the line ====


async def test_a_limit_of_an_agent_holds_for_its_forks_and_says_whose_it_is() -> None:
    agent = Agent(ScriptedKimi(lambda body: paid("Yes.")), limits=UsageLimits(requests=2))
    grandchild = agent.fork(limits=None).fork()
    await agent.chat_round("One?")
    await grandchild.chat_round("Two?")
    with pytest.raises(UsageLimitExceeded, match="for an agent and all its forks, the limit requests=2 is"):
        await grandchild.chat_round("Three?")
    with pytest.raises(UsageLimitExceeded, match=r"^the limit requests=2"):
        await agent.chat_round("Four?")
    assert agent.usage.requests == 2


async def test_forks_side_by_side_do_not_ask_more_often_than_the_limit_allows() -> None:
    gates = [Gate() for _ in range(8)]
    waiting = iter(gates)
    provider = ScriptedKimi(lambda body: paid("Yes.", delivery=Delivery(gate=next(waiting))))
    agent = Agent(provider, limits=UsageLimits(requests=3))
    tasks = [asyncio.create_task(agent.fork(limits=None).chat_round("Well?")) for _ in gates]
    for gate in gates[:3]:
        await gate.reached()
        gate.open()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(outcome, UsageLimitExceeded) for outcome in outcomes) == 5
    assert len(provider.requests) == agent.usage.requests == 3
    assert not agent._pending._least


async def test_requests_that_failed_or_were_cancelled_leave_their_place_to_others() -> None:
    gate = Gate()
    provider = ScriptedKimi([Failure(500, "server_error"), paid("Never.", delivery=Delivery(gate=gate)), paid("Yes.")])
    agent = Agent(provider, limits=UsageLimits(requests=1))
    with pytest.raises(ServerError):
        await agent.fork().chat_round("One?")
    task = asyncio.create_task(agent.fork().chat_round("Two?"))
    await gate.reached()
    with pytest.raises(UsageLimitExceeded):
        await agent.fork().chat_round("Meanwhile?")
    task.cancel()
    await asyncio.wait([task])
    await agent.fork().chat_round("Three?")
    assert agent.usage.requests == 1


async def test_a_stream_that_is_asked_for_by_hand_takes_no_place_for_ever() -> None:
    agent = Agent(ScriptedKimi(lambda body: paid("Yes.")), limits=UsageLimits(requests=1), chat_history=[ONE])
    fork = agent.fork()
    stream = await fork.get_model_stream()
    await stream.aclose()  # type: ignore[attr-defined]
    assert not agent._pending._least
    await agent.chat_round("Well?")


async def test_a_limit_on_the_cost_counts_what_forks_have_under_way() -> None:
    gate = Gate()
    provider = ScriptedKimi([paid("Yes.", delivery=Delivery(gate=gate))])
    agent = Agent(provider, chat_history=[Message.user("word " * 20_000)])
    first = agent.fork()
    task = asyncio.create_task(first.chat_round("One?"))
    await gate.reached()
    (least,) = agent._pending._least.values()
    assert least.cost
    agent.limits = UsageLimits(cost=1.5 * least.cost)
    with pytest.raises(UsageLimitExceeded, match="the limit cost="):
        await agent.fork(limits=None).chat_round("Two?")
    gate.open()
    await task
    assert len(provider.requests) == 1


# ==== an agent as a tool ====


def team(script: Any, **options: Any) -> tuple[Any, Any, Any, list[TokenUsage | None]]:
    """A boss that may ask a scout: the provider, the two, and what their answers cost."""
    provider, book = ScriptedKimi(script), []
    scout = booked(Booked, provider, "scout", book)
    boss = booked(Booked, provider, "boss", book, functions=[scout.as_tool("ask_scout", "Looks around.")], **options)
    return provider, boss, scout, book


def ask(*queries: str, name: str = "ask_scout") -> Reply:
    return paid("", *(call(name, query=query) for query in queries))


async def test_a_call_is_a_round_of_a_fresh_fork_and_its_answer_the_result() -> None:
    def look(body: Any) -> Any:
        said = [message["content"] for message in body["messages"]]
        return paid(f"Seen: {said[1:]}")

    provider, boss, scout, book = team(Roles(boss=[ask("North?"), ask("South?"), paid("Done.")], scout=look))
    assert (await ended(boss))[-1].text == "Done."
    assert results_of(boss) == ["Seen: ['North?']", "Seen: ['South?']"]
    assert scout.chat_history == []
    assert scout.usage == Spent()
    assert_books_agree(boss, book)
    assert boss.usage.requests == len(provider.requests) == 5
    function = boss.functions["ask_scout"]
    assert function.base.description == "Looks around."
    assert list(function.json_schema["properties"]) == ["query"]
    assert "description" not in function.json_schema["properties"]["query"]


async def test_a_history_of_its_own_comes_before_the_question() -> None:
    seen: list[Any] = []
    provider = ScriptedKimi(
        Roles(boss=[ask("North?"), paid("Done.")], scout=lambda body: seen.append(body) or say("!"))
    )
    scout = Agent(provider, "scout", chat_history=[Message.user("You know the woods."), Message.assistant("I do.")])
    boss = Agent(provider, "boss", functions=[scout.as_tool("ask_scout", "Looks.")])
    await ended(boss)
    assert [message["content"] for message in seen[0]["messages"]] == [
        "scout",
        "You know the woods.",
        "I do.",
        "North?",
    ]


async def test_a_shared_history_is_that_of_the_caller_before_the_call() -> None:
    seen: list[Any] = []
    script = Roles(
        boss=[paid("I am listening."), ask("North?"), paid("Done.")], scout=lambda body: seen.append(body) or say("!")
    )
    provider = ScriptedKimi(script)
    scout = Agent(provider, "scout", chat_history=[Message.user("Not heard.")])
    boss = Agent(provider, "boss", functions=[scout.as_tool("ask_scout", "Looks.", share_history=True)])
    await ended(boss, "There are woods.")
    await ended(boss, "Look around.")
    assert [message["content"] for message in seen[0]["messages"]] == [
        "scout",
        "There are woods.",
        "I am listening.",
        "Look around.",
        "North?",
    ]
    assert len(scout.chat_history) == 1


@pytest.mark.parametrize("text", ["", " \n"])
async def test_the_last_answer_counts_and_one_without_text_says_that_there_is_none(text: str) -> None:
    class Scout(Agent):
        @ai_function(after="user")
        async def leave(self) -> str:
            """End it."""
            return "left"

    provider = ScriptedKimi(Roles(boss=[ask("North?"), paid("Done.")], scout=[paid(text, call("leave"))]))
    boss = Agent(provider, "boss", functions=[Scout(provider, "scout").as_tool("ask_scout", "Looks.")])
    await ended(boss)
    assert results_of(boss) == [boss.texts.empty()]
    assert boss.chat_history[-2].is_tool_call_error is None


async def test_rounds_of_calls_are_limited_as_said() -> None:
    class Scout(Agent):
        @ai_function()
        async def look(self, number: int) -> str:
            """Look around."""
            return "trees"

    numbers = iter(range(9))

    def scouting(body: Any) -> Any:
        if body.get("tool_choice") == "none":
            return paid("Only trees.")
        return paid("", call("look", number=next(numbers)))

    provider = ScriptedKimi(Roles(boss=[ask("North?"), paid("Done.")], scout=scouting))
    scout = Scout(provider, "scout")
    boss = Agent(provider, "boss", functions=[scout.as_tool("ask_scout", "Looks.", max_rounds=2)])
    await ended(boss)
    assert results_of(boss) == ["Only trees."]
    assert next(numbers) == 2
    with pytest.raises(ValueError, match="max_rounds is 0 or more"):
        scout.as_tool("ask_scout", "Looks.", max_rounds=-1)
    with pytest.raises(FunctionSpecError):
        scout.as_tool("not a name", "Looks.")


async def test_calls_side_by_side_are_forks_apart() -> None:
    both = asyncio.Barrier(3)

    async def look(body: Any) -> Any:
        await both.wait()
        return paid("Seen " + body["messages"][-1]["content"])

    _, boss, _, book = team(Roles(boss=[ask("A", "B", "C"), paid("Done.")], scout=look))
    await ended(boss)
    assert results_of(boss) == ["Seen A", "Seen B", "Seen C"]
    assert_books_agree(boss, book)
    assert boss.usage.requests == 5


async def test_without_an_agent_that_calls_the_agent_itself_pays() -> None:
    scout = Agent(ScriptedKimi(lambda body: paid("Trees.")), "scout")
    tool = scout.as_tool("ask_scout", "Looks.")
    assert await tool(query="North?") == "Trees."
    assert (await tool.call({"query": "South?"})).output == "Trees."
    assert scout.usage.requests == 2
    assert scout.chat_history == []


async def test_a_program_may_call_it_and_the_agent_whose_function_it_is_pays() -> None:
    _, boss, scout, book = team(Roles(scout=lambda body: paid("Trees.")))
    assert await boss.call_tool_raw("ask_scout", {"query": "North?"}) == "Trees."
    assert_books_agree(boss, book)
    assert (boss.usage.requests, scout.usage.requests) == (1, 0)


async def test_the_agent_may_have_a_session_and_is_restored_first(tmp_path: Any) -> None:
    seen: list[Any] = []
    provider = ScriptedKimi(
        Roles(boss=[ask("North?"), paid("Done.")], scout=lambda body: seen.append(body) or say("!"))
    )
    async with Agent(provider, "scout", session=JournalSession(tmp_path / "scout.jsonl")) as before:
        await before.chat_round("You know the woods.")
    scout = Agent(provider, "scout", session=JournalSession(tmp_path / "scout.jsonl"))
    boss = Agent(provider, "boss", functions=[scout.as_tool("ask_scout", "Looks.")])
    await ended(boss)
    assert [message["content"] for message in seen[1]["messages"]][1:] == ["You know the woods.", "!", "North?"]
    assert len(scout.chat_history) == 2


# ==== sub-agents of sub-agents ====


async def test_sub_agents_of_sub_agents_add_up_at_the_top() -> None:
    script = Roles(
        boss=[ask("A", "B", name="ask_lead"), paid("Done.")],
        lead=lambda body: ask("X", "Y") if body["messages"][-1]["role"] == "user" else paid("Led."),
        scout=lambda body: paid("Seen."),
    )
    provider, book = ScriptedKimi(script), []
    scout = booked(Booked, provider, "scout", book)
    lead = booked(Booked, provider, "lead", book, functions=[scout.as_tool("ask_scout", "Looks.")])
    boss = booked(Booked, provider, "boss", book, functions=[lead.as_tool("ask_lead", "Leads.")])
    await ended(boss)
    assert script.asked.count("scout") == 4
    assert boss.usage.requests == len(provider.requests) == 10
    assert_books_agree(boss, book)
    assert boss.usage.input == 10 * USAGE.input


async def test_an_agent_may_be_its_own_tool_and_the_depth_is_bounded() -> None:
    provider = ScriptedKimi(lambda body: ask("Deeper.", name="think") if body["messages"][-1]["role"] == "user" else
                            paid(body["messages"][-1]["content"]))  # fmt: skip
    agent = Agent(provider, "boss", retry_attempts=0)
    agent.functions["think"] = agent.as_tool("think", "Thinks.")
    messages = await ended(agent)
    assert messages[-1].text.endswith(f"think was not asked: {MAX_DEPTH} sub-agents are at work inside of each other")
    assert len(provider.requests) == agent.usage.requests == 2 * (MAX_DEPTH + 1)


async def test_agents_may_call_each_other_in_a_circle() -> None:
    script = Roles(
        first=[ask("1", name="ask_second"), paid("First, inside."), paid("First.")],
        second=[ask("2", name="ask_first"), paid("Second.")],
    )
    provider = ScriptedKimi(script)
    first, second = Agent(provider, "first"), Agent(provider, "second")
    first.functions["ask_second"] = second.as_tool("ask_second", "The second.")
    second.functions["ask_first"] = first.as_tool("ask_first", "The first.")
    assert (await ended(first))[-1].text == "First."
    assert results_of(first) == ["Second."]
    assert script.asked == ["first", "second", "first", "second", "first"]


# ==== what is spent on the way ====


async def test_every_answer_counts_at_once_and_not_at_the_end() -> None:
    spent: list[int] = []

    class Scout(Agent):
        @ai_function()
        async def look(self, number: int) -> str:
            """Look around."""
            spent.append(boss.usage.requests)
            return "trees"

    scouting = [paid("", call("look", number=1)), paid("", call("look", number=2)), paid("Trees.")]
    provider = ScriptedKimi(Roles(boss=[ask("North?"), paid("Done.")], scout=scouting))
    boss = Agent(provider, "boss", functions=[Scout(provider, "scout").as_tool("ask_scout", "Looks.")])
    await ended(boss)
    assert spent == [2, 3]
    assert boss.usage.requests == 5


async def test_calls_of_sub_agents_count_and_are_limited() -> None:
    class Scout(Agent):
        @ai_function()
        async def look(self, number: int) -> str:
            """Look around."""
            return "trees"

    def provider() -> ScriptedKimi:
        scouting = [paid("", call("look", number=1), call("look", number=2)), paid("Trees.")]
        return ScriptedKimi(Roles(boss=[ask("North?"), paid("Done.")], scout=scouting))

    kimi = provider()
    boss = Agent(kimi, "boss", functions=[Scout(kimi, "scout").as_tool("ask_scout", "Looks.")])
    await ended(boss)
    assert boss.usage.tool_calls == 3
    kimi = provider()
    scout = Scout(kimi, "scout")
    poor = Agent(kimi, "boss", functions=[scout.as_tool("ask_scout", "Looks.")], limits=UsageLimits(tool_calls=2))
    await ended(poor)
    assert "UsageLimitExceeded: for an agent and all its forks, the limit tool_calls=2" in results_of(poor)[0]
    assert poor.usage.tool_calls == 1


async def test_a_limit_of_the_parent_stops_its_sub_agents_and_then_itself() -> None:
    provider, boss, _, book = team(
        Roles(boss=[ask("A"), ask("B"), paid("Never.")], scout=lambda body: paid("Seen.")),
        limits=UsageLimits(requests=3),
    )
    with pytest.raises(UsageLimitExceeded, match=r"^the limit requests=3"):
        await ended(boss)
    assert results_of(boss)[0] == "Seen."
    assert "ask_scout failed: UsageLimitExceeded: for an agent and all its forks" in results_of(boss)[1]
    assert boss.usage.requests == len(provider.requests) == 3
    assert_books_agree(boss, book)
    assert not problems(boss.chat_history)


async def test_a_limit_on_the_cost_stops_sub_agents_after_the_answer_that_goes_beyond_it() -> None:
    price = cost_of_one()
    limits = UsageLimits(cost=3.5 * price)
    _, boss, _, _ = team(Roles(boss=[ask(*"ABCDEF")], scout=lambda body: paid("Seen.")), limits=limits)
    boss.max_parallel_tools = 1
    with pytest.raises(UsageLimitExceeded):
        await ended(boss)
    assert boss.usage.requests == 4
    assert [text == "Seen." for text in results_of(boss)] == [True] * 3 + [False] * 3


def cost_of_one() -> float:
    cost = cost_of(USAGE, model_info("kimi-k3").prices)
    assert cost
    return cost


async def test_limits_of_its_own_hold_for_each_call() -> None:
    class Scout(Agent):
        @ai_function()
        async def look(self) -> str:
            """Look around."""
            return "trees"

    provider = ScriptedKimi(Roles(boss=[ask("A", "B"), paid("Done.")], scout=lambda body: paid("", call("look"))))
    scout = Scout(provider, "scout", limits=UsageLimits(requests=2))
    boss = Agent(provider, "boss", functions=[scout.as_tool("ask_scout", "Looks.")])
    await ended(boss)
    assert all("ask_scout failed: UsageLimitExceeded: the limit requests=2" in text for text in results_of(boss))
    assert boss.usage.requests == 6


@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_sub_agents_spend_lasts_in_the_session_of_their_parent(tmp_path: Any, cancelled: bool) -> None:
    gate = Gate()
    scouting = [paid("Seen."), paid("Seen, too.", delivery=Delivery(gate=gate))]
    provider, boss, _, _ = team(
        Roles(boss=[ask("A"), ask("B"), paid("Done.")], scout=scouting), session=JournalSession(tmp_path / "boss.jsonl")
    )
    async with boss:
        task = asyncio.create_task(ended(boss))
        await gate.reached()
        if cancelled:
            task.cancel()
        gate.open()
        await asyncio.wait([task])
    async with Agent(provider, session=JournalSession(tmp_path / "boss.jsonl")) as again:
        assert again.usage == boss.usage
        assert again.usage.requests == (3 if cancelled else 5)


# ==== what goes wrong ====


async def test_a_failure_is_an_error_result_and_siblings_go_on() -> None:
    def scouting(body: Any) -> Any:
        asked = body["messages"][-1]["content"]
        return Failure(400, "invalid_request_error", "no such place") if asked == "B" else paid(f"Seen {asked}")

    _, boss, _, book = team(Roles(boss=[ask("A", "B", "C"), paid("Done.")], scout=scouting))
    assert (await ended(boss))[-1].text == "Done."
    first, wrong, third = results_of(boss)
    assert (first, third) == ("Seen A", "Seen C")
    assert "ask_scout failed: BadRequestError" in wrong
    assert "no such place" in wrong
    assert [message.is_tool_call_error for message in boss.chat_history if message.role == "tool"] == [None, True, None]
    assert_books_agree(boss, book)


async def test_the_hook_for_errors_gets_the_error_with_its_cause() -> None:
    errors: list[Any] = []

    class Boss(Agent):
        async def handle_function_call_exception(self, call: Any, err: Any, attempt: int) -> Any:
            errors.append(err.original)
            return await super().handle_function_call_exception(call, err, attempt)

    provider = ScriptedKimi(Roles(boss=[ask("A"), paid("Done.")], scout=[Failure(400, "invalid_request_error", "no")]))
    await ended(Boss(provider, "boss", functions=[Agent(provider, "scout").as_tool("ask_scout", "Looks.")]))
    (error,) = errors
    assert isinstance(error, SubAgentError)
    assert error.name == "ask_scout"
    assert type(error.__cause__).__name__ == "BadRequestError"


async def test_a_prompt_that_does_not_fit_is_an_error_result() -> None:
    provider = ScriptedKimi(Roles(boss=[ask("A"), paid("Done.")]))
    small = ScriptedKimi([], context_window=50)
    scout = Agent(small, "scout " * 500)
    boss = Agent(provider, "boss", functions=[scout.as_tool("ask_scout", "Looks.")])
    await ended(boss)
    assert f"ask_scout failed: {PromptTooLong.__name__}" in results_of(boss)[0]


async def test_an_error_that_ends_the_round_of_a_sub_agent_ends_only_that() -> None:
    class Scout(Agent):
        @ai_function(fatal=(ZeroDivisionError,))
        async def look(self) -> str:
            """Look around."""
            raise ZeroDivisionError("the woods are on fire")

    provider = ScriptedKimi(Roles(boss=[ask("A"), paid("Done.")], scout=[paid("", call("look"))]))
    boss = Agent(provider, "boss", functions=[Scout(provider, "scout").as_tool("ask_scout", "Looks.")])
    assert (await ended(boss))[-1].text == "Done."
    assert "ask_scout failed: ZeroDivisionError: the woods are on fire" in results_of(boss)[0]


async def test_a_call_that_waits_for_approval_ends_the_round_of_a_sub_agent_with_an_error() -> None:
    class Scout(Agent):
        @ai_function(approval=True)
        async def burn(self) -> str:
            """Burn it down."""
            raise AssertionError("nobody approved")

    provider = ScriptedKimi(Roles(boss=[ask("A"), paid("Done.")], scout=[paid("", call("burn"))]))
    boss = Agent(provider, "boss", functions=[Scout(provider, "scout").as_tool("ask_scout", "Looks.")])
    assert (await ended(boss))[-1].text == "Done."
    assert "ask_scout may not call burn: nobody could be asked for approval" in results_of(boss)[0]


async def test_approvals_of_a_sub_agent_are_asked_of_the_agent_that_it_works_for() -> None:
    from kimi_agent.tools.approval import Approval

    asked: list[str] = []

    class Scout(Agent):
        @ai_function(approval=True)
        async def burn(self) -> str:
            """Burn it down."""
            return "burnt"

    class Boss(Agent):
        async def approve_function_call(self, call: Any, function: Any) -> Any:
            asked.append(call.name)
            return Approval.approve(call)

    provider = ScriptedKimi(Roles(boss=[ask("A"), paid("Done.")], scout=[paid("", call("burn")), paid("It is burnt.")]))
    boss = Boss(provider, "boss", functions=[Scout(provider, "scout").as_tool("ask_scout", "Looks.")])
    await ended(boss)
    assert asked == ["burn"]
    assert results_of(boss) == ["It is burnt."]


# ==== events ====


async def test_events_of_sub_agents_come_with_their_path_and_in_order() -> None:
    script = Roles(
        boss=[ask("A", name="ask_lead"), paid("Done.")], lead=[ask("X"), paid("Led.")], scout=[paid("Seen.")]
    )
    provider = ScriptedKimi(script)
    lead = Agent(provider, "lead", functions=[Agent(provider, "scout").as_tool("ask_scout", "Looks.")])
    boss = Agent(provider, "boss", functions=[lead.as_tool("ask_lead", "Leads.")])
    told: list[Any] = []
    for kind in (SubAgentEvent, ToolCallStarted, ToolCallFinished):
        boss.on(kind, told.append)
    await ended(boss)
    assert isinstance(told[0], ToolCallStarted)
    assert isinstance(told[-1], ToolCallFinished)
    paths = [tuple(call.name for call in event.path) for event in told[1:-1]]
    assert set(paths) == {("ask_lead",), ("ask_lead", "ask_scout")}
    assert not any(isinstance(event.event, SubAgentEvent) for event in told[1:-1])
    kinds = [(len(event.path), type(event.event)) for event in told[1:-1]]
    interesting = (RoundStarted, StreamCompleted, ToolCallStarted, ToolCallFinished, RoundFinished)
    assert [(depth, kind) for depth, kind in kinds if kind in interesting] == [
        (1, RoundStarted),
        (1, StreamCompleted),
        (1, ToolCallStarted),
        (2, RoundStarted),
        (2, StreamCompleted),
        (2, RoundFinished),
        (1, ToolCallFinished),
        (1, StreamCompleted),
        (1, RoundFinished),
    ]
    assert (2, StreamFrameReceived) in kinds
    assert (2, RequestSent) in kinds
    assert told[1].path[0] is told[0].call


async def test_progress_of_a_function_of_a_sub_agent_is_heard_above() -> None:
    class Scout(Agent):
        @ai_function()
        async def look(self, context: ToolContext) -> str:
            """Look around."""
            context.report("half of it", fraction=0.5)
            return "trees"

    provider = ScriptedKimi(Roles(boss=[ask("A"), paid("Done.")], scout=[paid("", call("look")), paid("Trees.")]))
    boss = Agent(provider, "boss", functions=[Scout(provider, "scout").as_tool("ask_scout", "Looks.")])
    told: list[Any] = []
    boss.on(SubAgentEvent, told.append)
    await ended(boss)
    (progress,) = [event.event for event in told if isinstance(event.event, ToolProgress)]
    assert (progress.call.name, progress.text, progress.fraction) == ("look", "half of it", 0.5)


async def test_events_of_sub_agents_come_back_from_json() -> None:
    _, boss, _, _ = team(Roles(boss=[ask("A"), paid("Done.")], scout=[paid("Seen.", reasoning="Hm.")]))
    told: list[Any] = []
    boss.on(SubAgentEvent, told.append)
    await ended(boss)
    assert told
    assert [from_dict(json.loads(json.dumps(to_dict(event)))) for event in told] == told
    nested = SubAgentEvent(told[0].path, told[0])
    assert from_dict(json.loads(json.dumps(to_dict(nested)))) == nested


@pytest.mark.parametrize("event", [None, "a", {}, {"type": "Append", "text": "a"}])
def test_what_is_no_event_is_none_of_a_sub_agent(event: Any) -> None:
    with pytest.raises(ValueError, match="this is no SubAgentEvent: event"):
        from_dict({"type": "SubAgentEvent", "path": [], "event": event})


async def test_without_a_listener_nothing_is_made_and_one_that_comes_later_hears_the_rest() -> None:
    gate = Gate(before=2)
    _, boss, _, _ = team(
        Roles(boss=[ask("A"), paid("Done.")], scout=[paid("Seen, and more. " * 9, delivery=Delivery(gate=gate))])
    )
    children: list[Agent] = []
    begin = Booked._begin_round

    async def seen(self: Agent, *query: Any, **options: Any) -> None:
        children.append(self)
        await begin(self, *query, **options)  # type: ignore[arg-type]

    Booked._begin_round = seen  # type: ignore[method-assign]
    try:
        task = asyncio.create_task(ended(boss))
        await gate.reached()
        child = children[-1]
        assert StreamFrameReceived not in child._handlers
        assert RequestSent not in child._handlers
        told: list[Any] = []
        unsubscribe = boss.on(SubAgentEvent, told.append)
        assert StreamFrameReceived in child._handlers
        gate.open()
        await task
        unsubscribe()
        assert StreamFrameReceived not in child._handlers
    finally:
        Booked._begin_round = begin  # type: ignore[method-assign]
    assert {type(event.event) for event in told} >= {StreamFrameReceived, StreamCompleted, RoundFinished}
    assert not {type(event.event) for event in told} & {RoundStarted, StreamStarted}


async def test_events_of_forks_by_hand_are_theirs_alone() -> None:
    agent = Agent(ScriptedKimi([say("Yes.")]))
    told: list[Any] = []
    agent.on(SubAgentEvent, told.append)
    await agent.fork().chat_round("Well?")
    assert told == []


async def test_what_a_strict_handler_raises_fails_the_sub_agent_and_else_nothing() -> None:
    def fail(event: SubAgentEvent) -> None:
        raise RuntimeError("I cannot hear it")

    for strict, expected in ((False, "Seen."), (True, "ask_scout failed: RuntimeError: I cannot hear it")):
        _, boss, _, _ = team(Roles(boss=[ask("A"), paid("Done.")], scout=[paid("Seen.")]), strict_hooks=strict)
        boss.on(SubAgentEvent, fail)
        assert (await ended(boss))[-1].text == "Done."
        assert expected in results_of(boss)[0]


# ==== cancellation ====


class Slow(Booked):
    """Its functions take a while, and say when they have cleaned up."""

    cleaned: list[str]
    running: int = 0

    @ai_function()
    async def dig(self, name: str) -> str:
        """Dig for something."""
        log = self.cleaned
        log.append(f"{name} begins")
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        finally:
            log.append(f"{name} ends")
        return f"{name}: gold"


def deep_team(book: list[TokenUsage | None], log: list[str]) -> Booked:
    """A boss with two leads side by side, each with two scouts side by side, each with two slow calls."""

    def asked_first(body: Any) -> bool:
        return body["messages"][-1]["role"] == "user"

    script = Roles(
        boss=lambda body: ask("A", "B", name="ask_lead") if asked_first(body) else paid("Done."),
        lead=lambda body: ask("X", "Y") if asked_first(body) else paid("Led."),
        scout=lambda body: (
            paid("", call("dig", name="left"), call("dig", name="right")) if asked_first(body) else paid("Dug.")
        ),
    )
    provider = ScriptedKimi(script)
    scout = booked(Slow, provider, "scout", book)
    scout.cleaned = log
    lead = booked(Booked, provider, "lead", book, functions=[scout.as_tool("ask_scout", "Looks.")])
    return booked(Booked, provider, "boss", book, functions=[lead.as_tool("ask_lead", "Leads.")])


async def test_whenever_the_round_is_cancelled_everything_below_ends_before_it() -> None:
    steps, ended_by_itself = 0, False
    while not ended_by_itself:
        book: list[TokenUsage | None] = []
        log: list[str] = []
        boss = deep_team(book, log)
        at_the_end: list[Any] = []
        boss.on(RoundFinished, lambda event, log=log, end=at_the_end: end.append((event.outcome, list(log))))
        task = asyncio.create_task(ended(boss))
        for _ in range(steps):
            await asyncio.sleep(0)
        ended_by_itself = task.done()
        task.cancel()
        await asyncio.wait([task])
        begun = [line.split()[0] for line in log if line.endswith("begins")]
        assert sorted(begun) == sorted(line.split()[0] for line in log if line.endswith("ends"))
        if at_the_end:
            assert at_the_end == [("completed" if ended_by_itself else "closed", log)]
        assert not problems(boss.chat_history)
        assert_books_agree(boss, book)
        await assert_nothing_runs()
        steps += 1
    assert steps > 20
    assert boss.usage.requests == 2 + 2 * 2 + 4 * 2
    assert len(log) == 16


@pytest.mark.parametrize("leave", ["break", "aclose", "timeout", "close from another task"])
async def test_however_the_round_is_left_everything_below_ends_with_it(leave: str) -> None:
    stuck = asyncio.Event()
    log: list[str] = []

    class Scout(Agent):
        @ai_function()
        async def wait(self) -> str:
            """Wait for ever."""
            stuck.set()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                log.append("cleaned up")
            return "never"

    provider = ScriptedKimi(Roles(boss=[ask("A", name="quick"), ask("A")], scout=[paid("", call("wait"))]))

    async def quick(query: str) -> str:
        """Quick."""
        return "quick"

    boss = Agent(provider, "boss", functions=[quick, Scout(provider, "scout").as_tool("ask_scout", "Looks.")])
    round_ = boss.full_round("Go.")

    async def read() -> None:
        async for _ in round_:
            pass

    match leave:
        case "break":
            async with round_:
                async for message in round_:
                    if message.tool_calls and message.tool_calls[0].name == "ask_scout":
                        reading = asyncio.create_task(anext(round_))
                        await stuck.wait()
                        reading.cancel()
                        await asyncio.wait([reading])
                        break
        case "aclose" | "close from another task":
            task = asyncio.create_task(read())
            await stuck.wait()
            await round_.aclose()
            await task
        case _:
            task = asyncio.create_task(read())
            await stuck.wait()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(task, 0.001)
    assert log == ["cleaned up"]
    assert "Interrupted" in results_of(boss)[1]
    assert not problems(boss.chat_history)
    await assert_nothing_runs()


async def test_a_round_that_is_dropped_ends_what_is_below_too() -> None:
    never = asyncio.Event()
    cleaned: list[str] = []

    class Scout(Booked):
        @ai_function()
        async def wait(self) -> str:
            """Wait for ever."""
            try:
                await never.wait()
            finally:
                cleaned.append("cleaned up")
            return "never"

    def scouting(body: Any) -> Any:
        return paid("Seen.") if body["messages"][-1]["content"] == "A" else paid("", call("wait"))

    provider, book = ScriptedKimi(Roles(boss=[ask("A", "B"), paid("Later.")], scout=scouting)), []
    scout = booked(Scout, provider, "scout", book)
    boss = booked(Booked, provider, "boss", book, functions=[scout.as_tool("ask_scout", "Looks.")])
    async for message in boss.full_round("Go."):
        if message.role == "tool":
            break
    assert await boss.chat_round_str("And now?") == "Later."
    assert cleaned == ["cleaned up"]
    assert "Interrupted" in results_of(boss)[1]
    assert not problems(boss.chat_history)
    assert_books_agree(boss, book)
    await assert_nothing_runs()


async def test_a_cancelled_round_lets_go_of_the_stream_of_its_sub_agent() -> None:
    gate = Gate()
    script = Roles(boss=[ask("A")], scout=[paid("Never.", delivery=Delivery(gate=gate))])
    async with KimiServer(script) as server:
        async with Kimi(base_url=server.base_url, api_key=server.api_key) as kimi:
            boss = Agent(kimi, "boss", functions=[Agent(kimi, "scout").as_tool("ask_scout", "Looks.")])
            task = asyncio.create_task(ended(boss))
            await gate.reached()
            task.cancel()
            await asyncio.wait([task])
            await server.until(lambda: server.connections == 0)
            gate.open()
    assert boss.usage.requests == 1
    assert not boss._pending._least
    assert not problems(boss.chat_history)


behaviours = st.sampled_from(["ok", "fail", "break off", "tool", "tool fails"])


@settings(max_examples=60)
@given(calls=st.lists(behaviours, min_size=1, max_size=4), steps=st.none() | st.integers(0, 60), most=st.integers(1, 9))
def test_whatever_sub_agents_do_the_books_agree_and_nothing_is_left(
    calls: list[str], steps: int | None, most: int
) -> None:
    async def run() -> None:
        broken = 0

        def scouting(body: Any) -> Any:
            nonlocal broken
            last = body["messages"][-1]
            if last["role"] == "tool":
                return paid("Seen.")
            match last["content"]:
                case "fail":
                    return Failure(400, "invalid_request_error", "no")
                case "break off":
                    broken += 1
                    return paid("A long answer that breaks.", delivery=Delivery(stop_after=150))
                case "tool" | "tool fails" as name:
                    return paid("", call("dig", name="left"), call("dig" if name == "tool" else "none", name="right"))
                case _:
                    return paid("Seen.")

        script = Roles(boss=[ask(*calls), paid("Done.")], scout=scouting)
        provider, book = ScriptedKimi(script), []
        scout = booked(Slow, provider, "scout", book)
        scout.cleaned = []
        limits = UsageLimits(requests=most)
        boss = booked(Booked, provider, "boss", book, functions=[scout.as_tool("ask_scout", "Looks.")], limits=limits)
        task = asyncio.create_task(ended(boss))
        for _ in range(steps or 0):
            await asyncio.sleep(0)
        if steps is not None:
            task.cancel()
        await asyncio.wait([task])
        assert not problems(boss.chat_history)
        assert boss.usage.requests <= most
        assert len(book) <= boss.usage.requests <= len(book) + broken
        assert len(provider.requests) - script.asked.count("scout") <= 2
        assert boss.usage.input == len(book) * USAGE.input
        assert (boss.usage.cost is None) == (boss.usage.requests > len(book))
        assert not boss._pending._least
        await assert_nothing_runs()

    asyncio.run(run())


# ==== streams, and the client they share ====


@pytest.mark.parametrize("method", ["full_round_str", "full_round_stream", "full_round_frames"])
async def test_sub_agents_work_in_every_kind_of_round(method: str) -> None:
    _, boss, _, book = team(Roles(boss=[ask("A", "B"), paid("Done.")], scout=lambda body: paid("Seen.")))
    async for item in getattr(boss, method)("Go."):
        if method == "full_round_stream":
            await item.message()
    assert results_of(boss) == ["Seen.", "Seen."]
    assert_books_agree(boss, book)


@pytest.mark.parametrize("method", ["full_round", "full_round_stream"])
async def test_with_one_request_at_a_time_parent_and_children_do_not_block_each_other(method: str) -> None:
    most: list[int] = []

    def asked_first(body: Any) -> bool:
        most.append(server.connections)
        return body["messages"][-1]["role"] == "user"

    script = Roles(
        boss=lambda body: ask("A", "B", "C", name="ask_lead") if asked_first(body) else paid("Done."),
        lead=lambda body: ask("X", "Y") if asked_first(body) else paid("Led."),
        scout=lambda body: asked_first(body) and paid("Seen."),
    )
    async with KimiServer(script) as server:
        kimi = Kimi(base_url=server.base_url, api_key=server.api_key, max_concurrency=1)
        lead = Agent(kimi, "lead", functions=[Agent(kimi, "scout").as_tool("ask_scout", "Looks.")])
        boss = Agent(kimi, "boss", functions=[lead.as_tool("ask_lead", "Leads.")])
        async with boss:
            async with asyncio.timeout(20):
                async for item in getattr(boss, method)("Go."):
                    if method == "full_round_stream":
                        await item.message()
    assert len(server.requests) == boss.usage.requests == 2 + 3 * 2 + 6
    assert max(most) == 1
