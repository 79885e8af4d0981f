"""Whatever happens in whatever order, the history can be sent and nothing finished is lost.

Each example draws a script, functions that finish, fail or wait in some order, a way to consume the round, and a moment
at which it is broken off; then looks at what is left. `KIMI_AGENT_FUZZ` is ten times the number of examples.
"""

import asyncio
import gc
import os
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from rounds import turns_of_the_loop

from kimi_agent import Agent, KimiAgentError, Message, ai_function
from kimi_agent.history import problems
from kimi_agent.testing import Delivery, Failure, Reply, ScriptedKimi, call, say
from kimi_agent.testing.checks import check_request

EXAMPLES = int(os.environ.get("KIMI_AGENT_FUZZ", "1200")) // 10
BEHAVIOURS = ["ok", "fail", "slow", "slower", "never", "cancels itself"]
ENDINGS = ["run to the end", "break", "cancel", "close", "raise", "newer round"]


@dataclass(frozen=True)
class Plan:
    """One example: what the model does, how the caller reads, when and how the round ends."""

    turns: list[list[str]]
    method: str
    ending: str
    after: int
    """Items (for a break) or event-loop turns (for a cancel) before the end comes."""
    hook_waits: bool
    failing_turn: int | None


plans = st.builds(
    Plan,
    turns=st.lists(st.lists(st.sampled_from(BEHAVIOURS), min_size=1, max_size=4), max_size=3),
    method=st.sampled_from(["full_round", "full_round_str", "full_round_stream", "full_round_frames"]),
    ending=st.sampled_from(ENDINGS),
    after=st.integers(0, 12),
    hook_waits=st.booleans(),
    failing_turn=st.none() | st.integers(0, 2),
)


class Chaotic(Agent):
    """Its one function does what it is told; what it finished is written down."""

    def __init__(self, plan: Plan, provider: ScriptedKimi) -> None:
        super().__init__(provider, retry_attempts=3)
        self.plan = plan
        self.finished: list[str] = []

    @ai_function()
    async def act(self, behaviour: str, tag: str) -> str:
        match behaviour:
            case "fail":
                raise ValueError(tag)
            case "slow" | "slower":
                for _ in range(3 if behaviour == "slow" else 9):
                    await asyncio.sleep(0)
            case "never":
                await asyncio.Event().wait()
            case "cancels itself":
                raise asyncio.CancelledError
            case _:
                pass
        self.finished.append(tag)
        return f"done {tag}"

    async def add_to_history(self, message: Message) -> None:
        if self.plan.hook_waits:
            await asyncio.sleep(0)
        await super().add_to_history(message)


def script(plan: Plan) -> list[Any]:
    """The model's turns: calls with unique tags, then an answer; one of them may be a failure."""
    steps: list[Any] = [
        Reply(
            f"turn {number}",
            tool_calls=[call("act", behaviour=b, tag=f"{number}.{place}") for place, b in enumerate(behaviours)],
            delivery=Delivery(gate=lambda _: asyncio.sleep(0)),
        )
        for number, behaviours in enumerate(plan.turns)
    ]
    steps.append(say("the end"))
    if plan.failing_turn is not None:
        steps.insert(min(plan.failing_turn, len(steps)), Failure(500, "server_error", "no"))
    return [*steps, *(say("spare") for _ in range(6))]


class Stop(Exception):
    """What the caller's own code raises."""


async def consume(agent: Chaotic, plan: Plan) -> None:
    """Read the round as the plan says."""
    round_ = getattr(agent, plan.method)("go")
    seen = 0
    async for item in round_:
        if plan.method == "full_round_stream" and seen % 2:
            async for _ in item:
                pass
        seen += 1
        if seen > plan.after:
            match plan.ending:
                case "break":
                    break
                case "raise":
                    raise Stop
                case "close":
                    await round_.aclose()
                case "newer round":
                    agent.provider = ScriptedKimi([say("newer")])
                    await agent.chat_round("newer")
                    break
                case _:
                    pass


async def run(plan: Plan) -> None:
    agent = Chaotic(plan, ScriptedKimi(script(plan)))
    task = asyncio.create_task(consume(agent, plan))
    # A function that never returns needs an end from outside, whatever the plan says.
    await turns_of_the_loop(plan.after * 7 if plan.ending == "cancel" else 400)
    task.cancel()
    await asyncio.wait([task])
    check_end(task)
    del task  # it holds its exception, which holds the round
    gc.collect(1)
    check_history(agent)
    await turns_of_the_loop(30)
    check_history(agent)
    assert len(asyncio.all_tasks()) == 1
    await the_agent_can_go_on(agent)


def check_end(task: asyncio.Task[None]) -> None:
    assert task.cancelled() or isinstance(task.exception(), (KimiAgentError, Stop, type(None)))


def check_history(agent: Chaotic) -> None:
    """It can be sent, results stand in the order of the calls, and every finished one is there."""
    history = agent.chat_history
    assert problems(history) == []
    messages = [{"role": m.role, "content": m.text, "tool_call_id": m.tool_call_id} for m in history]
    assert [m["role"] for m in messages[:1]] in ([], ["user"])
    results = [message.text for message in history if message.role == "tool"]
    missing = [tag for tag in agent.finished if f"done {tag}" not in results]
    assert missing == []
    for position, message in enumerate(history):
        if message.tool_calls:
            answers = history[position + 1 : position + 1 + len(message.tool_calls)]
            assert [answer.tool_call_id for answer in answers] == [wanted.id for wanted in message.tool_calls]


async def the_agent_can_go_on(agent: Chaotic) -> None:
    provider = agent.provider = ScriptedKimi([say("still here")])
    async with asyncio.timeout(5):
        assert await agent.chat_round_str("and now?") == "still here"
    body = provider.requests[-1].body
    assert check_request(dict(body)) is None


@settings(max_examples=EXAMPLES)
@given(plans)
@example(Plan([["ok", "never"]], "full_round", "cancel", 3, False, None))
@example(Plan([["ok", "slow"]], "full_round_stream", "break", 0, True, None))
@example(Plan([["slower", "ok"]], "full_round_frames", "newer round", 2, True, None))
def test_whatever_happens_the_history_can_be_sent_and_nothing_finished_is_lost(plan: Plan):
    asyncio.run(run(plan))


@settings(max_examples=60)
@given(st.integers(0, 60), st.booleans(), st.booleans())
def test_a_cancel_at_any_turn_of_the_loop_leaves_a_history_that_can_be_sent(
    moment: int, streamed: bool, hook_waits: bool
):
    method = "full_round_stream" if streamed else "full_round"
    asyncio.run(run(Plan([["ok", "slower"], ["slow"]], method, "cancel", moment, hook_waits, None)))
