"""Approvals: who is asked for what, what runs and what does not, and a round that goes on in another process."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from rounds import results

from kimi_agent import (
    Agent,
    AIFunction,
    Approval,
    ApprovalPending,
    CallableTool,
    CallableTool2,
    FunctionSpecError,
    JournalSession,
    Message,
    RoundFinished,
    SessionError,
    SimpleToolset,
    ToolCall,
    ToolCallStarted,
    ToolOk,
    ToolReturnValue,
    ToolTexts,
    UsageLimitExceeded,
    UsageLimits,
    ai_function,
    step,
)
from kimi_agent.history import problems
from kimi_agent.testing import Call, Reply, ScriptedKimi, call, say


class Files(Agent):
    """Removing has to be approved, and writing outside of /tmp; reading has not."""

    def __init__(self, script: Any, says: Any = None, **options: Any) -> None:
        super().__init__(ScriptedKimi(script), **options)
        self.ran: list[str] = []
        self.asked: list[str] = []
        self.says = says or {}

    @ai_function(approval=True)
    async def remove(self, path: str, force: bool = False) -> str:
        self.ran.append(f"remove {path}")
        return f"{path} is gone"

    @ai_function(approval=lambda arguments: not arguments["path"].startswith("/tmp/"))
    async def write(self, path: str = "/etc/hosts") -> str:
        self.ran.append(f"write {path}")
        return f"{path} is written"

    @ai_function()
    async def read(self, path: str) -> str:
        self.ran.append(f"read {path}")
        return f"text of {path}"

    @ai_function(approval=True, sequential=True)
    async def swap(self, path: str) -> str:
        self.ran.append(f"swap {path}")
        return f"{path} is swapped"

    async def approve_function_call(self, call: ToolCall, function: Any) -> Approval:
        self.asked.append(f"{call.name} {call.args.get('path')}")
        said = self.says.get(call.args.get("path"))
        return await super().approve_function_call(call, function) if said is None else said


def asks(*calls: Any) -> Reply:
    return Reply(tool_calls=list(calls))


async def waits(agent: Agent, query: str = "go") -> tuple[list[Message], ApprovalPending]:
    """The messages of a round that ends with calls that wait."""
    told: list[Message] = []
    with pytest.raises(ApprovalPending) as caught:
        async for message in agent.full_round(query):
            told.append(message)
    return told, caught.value


async def texts(round_: Any) -> list[str]:
    return [message.text async for message in round_]


# ==== in one process ====


async def test_a_call_that_is_approved_runs() -> None:
    agent = Files([call("remove", path="/a"), say("Done.")], {"/a": Approval.approve()})
    assert await texts(agent.full_round("go")) == ["", "/a is gone", "Done."]
    assert (agent.ran, agent.asked) == (["remove /a"], ["remove /a"])


async def test_a_call_that_is_rejected_does_not_run_and_the_model_reads_why() -> None:
    agent = Files([call("remove", path="/a"), say("All right.")], {"/a": Approval.reject("Ask Ada first.")})
    _, refused, answer = await texts(agent.full_round("go"))
    assert (
        refused
        == "Not run: the user did not approve this call. Do not repeat it unasked. The user says: Ask Ada first."
    )
    assert (answer, agent.ran) == ("All right.", [])


async def test_a_rejection_spends_no_attempt() -> None:
    script = [call("remove", path=f"/{number}") for number in range(4)]
    says = {f"/{number}": Approval.reject() for number in range(4)}
    agent = Files([*script, say("I give up.")], says, retry_attempts=0)
    assert (await texts(agent.full_round("go")))[-1] == "I give up."
    assert len(agent.asked) == 4


async def test_approved_once_for_all_is_asked_once() -> None:
    script = [asks(call("remove", path="/a"), call("remove", path="/b")), call("remove", path="/c"), say("Done.")]
    agent = Files(script, {"/a": Approval.approve_for_session()})
    await texts(agent.full_round("go"))
    assert (agent.asked, agent.ran) == (["remove /a"], ["remove /a", "remove /b", "remove /c"])


async def test_what_is_approved_once_for_all_is_the_function_and_no_other() -> None:
    agent = Files([asks(call("remove", path="/a"), call("write", path="/b"))], {"/a": Approval.approve_for_session()})
    _, pending = await waits(agent)
    assert [known.name for known in pending.calls] == ["write"]


async def test_a_rule_decides_by_checked_arguments_whether_anybody_is_asked() -> None:
    agent = Files([call("write", path="/tmp/x"), say("ok"), call("write"), say("no")], {})
    await texts(agent.full_round("go"))
    assert (agent.asked, agent.ran) == ([], ["write /tmp/x"])
    _, pending = await waits(agent)
    assert pending.calls[0].arguments == "{}"  # its default is /etc/hosts


@pytest.mark.parametrize("rule", [lambda arguments: 1 / 0, lambda arguments: None, lambda arguments: "no"])
async def test_a_rule_that_fails_or_says_nothing_clear_means_that_somebody_is_asked(rule: Any) -> None:
    ran: list[str] = []

    def pay(amount: int) -> None:
        ran.append("paid")

    agent = Agent(ScriptedKimi([call("pay", amount=1)]), functions=[AIFunction(pay, approval=rule)])
    await waits(agent)
    assert not ran


async def test_a_rule_may_be_async_and_sees_converted_values() -> None:
    seen: list[Mapping[str, Any]] = []

    async def dear(arguments: Mapping[str, Any]) -> bool:
        seen.append(arguments)
        return arguments["amount"] > 10

    def pay(amount: int, to: list[str], note: str = "-") -> str:
        return f"{amount} to {to}"

    pay_tool = AIFunction(pay, approval=dear)
    agent = Agent(ScriptedKimi([call("pay", amount="7", to='["Ada"]'), say("ok")]), functions=[pay_tool])
    assert "7 to ['Ada']" in await texts(agent.full_round("go"))
    assert seen == [{"amount": 7, "to": ["Ada"], "note": "-"}]


async def test_arguments_that_do_not_fit_are_told_to_the_model_and_nobody_is_asked() -> None:
    agent = Files([call("remove", file="/a"), asks(call("remove", path="/b")), say("ok")], {"/b": Approval.approve()})
    _, wrong, *_ = await texts(agent.full_round("go"))
    assert "path: missing" in wrong
    assert agent.asked == ["remove /b"]


async def test_arguments_that_are_no_json_never_run_whatever_a_subclass_makes_of_them() -> None:
    class Generous(Files):
        async def do_function_call(self, call: ToolCall) -> Any:
            return await super().do_function_call(
                call.copy_with(function={"name": call.name, "arguments": '{"path": "/"}'})
            )

    agent = Generous([asks(call("remove", arguments="{path: /a")), say("ok")])
    await texts(agent.full_round("go"))
    assert not agent.ran


async def test_an_approval_of_another_call_is_none() -> None:
    other = ToolCall(id="remove_0", function=ToolCall.FunctionBody(name="remove", arguments='{"path": "/b"}'))
    agent = Files([call("remove", path="/a"), say("ok")], {"/a": Approval.approve(other)})
    assert "did not approve" in (await texts(agent.full_round("go")))[1]
    assert not agent.ran


@pytest.mark.parametrize("said", [True, None, "yes"])
async def test_what_is_no_approval_ends_the_round_and_runs_nothing(said: Any) -> None:
    class Odd(Files):
        async def approve_function_call(self, call: ToolCall, function: Any) -> Any:
            return said

    agent = Odd([asks(call("read", path="/r"), call("remove", path="/a"))])
    with pytest.raises(TypeError, match=r"the approval of 'remove' is .*; say Approval.approve\(\)"):
        await texts(agent.full_round("go"))
    assert agent.ran == ["read /r"]
    assert problems(agent.chat_history) == []
    assert results(agent) == ["text of /r", ToolTexts().not_run()]


async def test_a_hook_that_raises_ends_the_round_and_runs_nothing() -> None:
    class Broken(Files):
        async def approve_function_call(self, call: ToolCall, function: Any) -> Approval:
            raise ConnectionError("nobody is there")

    agent = Broken([asks(call("remove", path="/a"))])
    with pytest.raises(ConnectionError):
        await texts(agent.full_round("go"))
    assert (agent.ran, results(agent)) == ([], [ToolTexts().not_run()])


async def test_one_call_is_asked_about_at_a_time_in_order_while_others_run() -> None:
    asking: list[str] = []
    answer = asyncio.Event()

    class Slow(Files):
        async def approve_function_call(self, call: ToolCall, function: Any) -> Approval:
            asking.append(call.args["path"])
            await answer.wait()
            return Approval.approve()

    agent = Slow([asks(call("remove", path="/a"), call("remove", path="/b"), call("read", path="/r")), say("ok")])
    round_ = asyncio.create_task(texts(agent.full_round("go")))
    while "read /r" not in agent.ran:
        await asyncio.sleep(0)
    assert (asking, agent.ran) == (["/a"], ["read /r"])
    answer.set()
    await round_
    assert asking == ["/a", "/b"]


async def test_a_round_that_is_cancelled_while_somebody_thinks_runs_nothing() -> None:
    thinking = asyncio.Event()

    class Slow(Files):
        async def approve_function_call(self, call: ToolCall, function: Any) -> Approval:
            thinking.set()
            await asyncio.Event().wait()
            raise AssertionError

    agent = Slow([asks(call("remove", path="/a")), say("ok")])
    round_ = asyncio.create_task(texts(agent.full_round("go")))
    await thinking.wait()
    round_.cancel()
    await asyncio.wait([round_])
    assert (agent.ran, results(agent)) == ([], [ToolTexts().not_run()])


# ==== waiting ====


async def test_a_round_ends_with_the_calls_that_wait_and_the_others_have_run() -> None:
    agent = Files([asks(call("remove", path="/a"), call("read", path="/r"), call("remove", path="/b"))])
    finished: list[str] = []
    agent.on(RoundFinished, lambda event: finished.append(event.outcome))
    told, pending = await waits(agent)
    assert [message.text for message in told] == ["", "text of /r"]
    assert [known.args["path"] for known in pending.calls] == ["/a", "/b"]
    assert agent.waiting_calls == pending.calls
    assert "remove" in str(pending)
    assert finished == ["waiting"]
    assert problems(agent.chat_history) == []
    assert results(agent) == [ToolTexts().waits_for_approval(), "text of /r", ToolTexts().waits_for_approval()]


async def test_what_is_approved_later_runs_and_nothing_else() -> None:
    agent = Files([asks(call("remove", path="/a"), call("read", path="/r"), call("remove", path="/b")), say("Done.")])
    _, pending = await waits(agent)
    one, two = pending.calls
    started: list[str] = []
    agent.on(ToolCallStarted, lambda event: started.append(event.call.args["path"]))
    agent.asked.clear()
    said = [Approval.reject("keep it", two), Approval.approve(one)]
    round_ = agent.resume(said)
    messages = [message async for message in round_]
    assert [message.text for message in messages][:1] == ["/a is gone"]
    assert messages[-1].text == "Done."
    assert (agent.ran, started, agent.asked) == (["read /r", "remove /a"], ["/a"], [])
    assert [message.role for message in agent.chat_history] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "tool",
        "assistant",
    ]
    assert "keep it" in results(agent)[2]
    assert agent.waiting_calls == ()


async def test_a_call_without_an_approval_waits_on() -> None:
    agent = Files([asks(call("remove", path="/a"), call("remove", path="/b")), say("Done.")])
    _, pending = await waits(agent)
    told: list[str] = []
    with pytest.raises(ApprovalPending) as again:
        async for message in agent.resume([Approval.approve(pending.calls[1])]):
            told.append(message.text)
    assert told == ["/b is gone"]
    assert again.value.calls == pending.calls[:1]
    assert agent.provider.requests if hasattr(agent.provider, "requests") else True
    assert await texts(agent.resume([Approval.approve(pending.calls[0])])) == ["/a is gone", "Done."]
    assert agent.ran == ["remove /b", "remove /a"]


async def test_nothing_approved_is_nothing_run() -> None:
    agent = Files([asks(call("remove", path="/a"))])
    _, pending = await waits(agent)
    before = list(agent.chat_history)
    for said in ([], [Approval.wait(pending.calls[0])]):
        with pytest.raises(ApprovalPending):
            await texts(agent.resume(said))
    assert (agent.chat_history, agent.ran) == (before, [])


async def test_an_approval_holds_for_these_arguments_only() -> None:
    agent = Files([asks(call("remove", path="/a"))])
    _, pending = await waits(agent)
    changed = pending.calls[0].copy_with(function={"name": "remove", "arguments": '{"path": "/"}'})
    before = list(agent.chat_history)
    for wrong in (Approval.approve(changed), Approval.approve(pending.calls[0].copy_with(id="remove_9"))):
        with pytest.raises(
            ValueError, match=r"no call remove_\d waits for this approval; those .* do: remove_0 \(remove\)"
        ):
            await texts(agent.resume([wrong]))
    with pytest.raises(ValueError, match="has to name its call"):
        await texts(agent.resume([Approval.approve()]))
    with pytest.raises(TypeError, match="is no Approval"):
        await texts(agent.resume(["yes"]))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="two approvals of the call remove_0"):
        await texts(agent.resume([Approval.approve(pending.calls[0])] * 2))
    assert (agent.chat_history, agent.ran) == (before, [])


async def test_calls_with_one_id_are_decided_together_and_each_has_its_own_approval() -> None:
    calls = tuple(
        ToolCall(id="x", function={"name": "remove", "arguments": f'{{"path": "{path}"}}'}) for path in ("/a", "/b")
    )
    agent = Files([call("remove", path="/c")])
    await waits(agent)
    waiting_ = agent.chat_history.pop()
    agent.chat_history[-1] = agent.chat_history[-1].copy_with(tool_calls=calls)
    agent.chat_history += [
        waiting_.copy_with(tool_call_id="x", extra={**waiting_.extra, "waiting": n}) for n in ("1", "2")
    ]
    one, two = agent.waiting_calls
    with pytest.raises(ValueError, match="several calls have the id x; approve or reject them together"):
        await texts(agent.resume([Approval.approve(one)]))
    agent.provider = ScriptedKimi([say("Done.")])
    await texts(agent.resume([Approval.reject("no", two), Approval.approve(one)]))
    assert agent.ran == ["remove /a"]
    assert [text.partition(":")[0] for text in results(agent)] == ["/a is gone", "Not run"]


async def test_the_same_call_object_twice_is_two_calls() -> None:
    agent = Files([Reply(tool_calls=[Call("remove", '{"path": "/a"}', "x")] * 2), say("Done.")])
    _, pending = await waits(agent)
    one, two = pending.calls
    await texts(agent.resume([Approval.reject("no", two), Approval.approve(one)]))
    assert agent.ran == ["remove /a"]


async def test_an_approval_holds_for_one_waiting_and_not_for_the_same_call_in_a_later_turn() -> None:
    agent = Files([call("remove", path="/a"), say("Done."), call("remove", path="/a"), say("Done.")])
    _, pending = await waits(agent)
    approval = Approval.approve(pending.calls[0])
    await texts(agent.resume([approval]))
    _, again = await waits(agent)
    assert again.calls[0].id == pending.calls[0].id
    with pytest.raises(ValueError, match="no call remove_0 waits for this approval"):
        await texts(agent.resume([approval]))
    assert agent.ran == ["remove /a"]


@pytest.mark.parametrize("kind", ["resume", "resume_stream", "resume_frames"])
async def test_what_is_no_list_of_approvals_is_no_resumption(kind: str) -> None:
    agent = Files([call("remove", path="/a")])
    _, pending = await waits(agent)
    for wrong in (None, Approval.approve(pending.calls[0])):
        with pytest.raises(TypeError, match="is no list of approvals"):
            getattr(agent, kind)(wrong)
    with pytest.raises(ValueError, match="max_function_rounds is 1 or more"):
        getattr(agent, kind)([], max_function_rounds=0)
    assert agent.waiting_calls == pending.calls


async def test_a_limit_or_a_session_that_fails_leaves_the_calls_waiting() -> None:
    agent = Files([call("remove", path="/a"), say("Done.")])
    _, pending = await waits(agent)
    said = [Approval.approve(pending.calls[0])]
    agent.limits = UsageLimits(tool_calls=0)
    with pytest.raises(UsageLimitExceeded):
        await texts(agent.resume(said))
    agent.limits = UsageLimits()
    keep_up, agent._keep_up = agent._keep_up, raising(OSError("the disk is full"))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk"):
        await texts(agent.resume(said))
    agent._keep_up = keep_up  # type: ignore[method-assign]
    assert (agent.waiting_calls, agent.ran) == (pending.calls, [])
    assert await texts(agent.resume(said)) == ["/a is gone", "Done."]


def raising(error: Exception) -> Any:
    async def fails(*_: Any) -> None:
        raise error

    return fails


async def test_a_call_that_runs_alone_does_not_overtake_one_that_waits() -> None:
    class Shop(Files):
        @ai_function(sequential=True)
        async def settle(self, path: str) -> str:
            self.ran.append(f"settle {path}")
            return "settled"

    agent = Shop([asks(call("remove", path="/1"), call("settle", path="/2"), call("read", path="/3")), say("Done.")])
    _, pending = await waits(agent)
    assert (agent.ran, [known.name for known in pending.calls]) == ([], ["remove"])
    await texts(agent.resume([Approval.approve(pending.calls[0])]))
    assert agent.ran == ["remove /1", "settle /2", "read /3"]


async def test_a_model_that_repeats_itself_through_approvals_is_stopped_all_the_same() -> None:
    agent = Files([*[call("remove", path="/a")] * 9, say("Done.")])
    _, pending = await waits(agent)
    calls = pending.calls
    for _ in range(8):
        try:
            await texts(agent.resume([Approval.approve(known) for known in calls]))
        except ApprovalPending as again:
            calls = again.calls
            continue
        break
    assert len(agent.ran) == 5
    assert "Reminder" in results(agent)[2]
    assert "call 6 with the same arguments" in results(agent)[5]


async def test_a_fork_knows_nothing_of_calls_that_wait() -> None:
    agent = Files([call("remove", path="/a")])
    _, pending = await waits(agent)
    fork = agent.fork()
    assert (fork.waiting_calls, [message.role for message in fork.chat_history]) == ((), ["user"])
    with pytest.raises(ValueError, match="waits"):
        await texts(fork.resume([Approval.approve(pending.calls[0])]))


# ==== who is asked about what ====


async def test_what_was_approved_is_the_function_and_not_its_name() -> None:
    """An approval for the whole session holds for a function: another one of its name is asked about."""
    agent = Files(
        [call("remove", path="/a"), say("ok"), call("remove", path="/b")], {"/a": Approval.approve_for_session()}
    )
    await texts(agent.full_round("go"))

    def worse(path: str) -> str:
        raise AssertionError

    agent.functions["remove"] = AIFunction(worse, name="remove", approval=True)
    await waits(agent)

    ran: list[str] = []

    def wipe(path: str) -> str:
        ran.append(path)
        return "gone"

    trusting = SimpleToolset([AIFunction(remove, approval=True)], approve=lambda *_: Approval.approve_for_session())
    wanted = ToolCall(id="1", function={"name": "remove", "arguments": '{"path": "/a"}'})
    assert not (await trusting.handle(wanted)).return_value.is_error
    strict = SimpleToolset([AIFunction(wipe, name="remove", approval=True)], approve=lambda *_: Approval.reject())
    with pytest.raises(FunctionSpecError, match="ask somebody else for approval"):
        trusting.without("remove") | strict
    trusting.remove("remove")
    trusting += AIFunction(wipe, name="remove", approval=lambda _: True)
    assert (await trusting.handle(wanted)).return_value.output == "gone"  # asked again, and approved again


async def test_a_function_that_is_exchanged_while_its_call_waits_for_a_place_is_asked_for_anew() -> None:
    class Swapping(Files):
        @ai_function()
        async def busy(self) -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            self.functions["remove"] = AIFunction(remove, approval=True)

    agent = Swapping(
        [asks(call("busy"), call("remove", path="/a")), say("ok")], {"/a": Approval.approve()}, max_parallel_tools=1
    )
    await texts(agent.full_round("go"))
    assert agent.asked == ["remove /a", "remove /a"]


async def test_a_hook_may_let_another_agent_judge() -> None:
    class Judged(Files):
        async def approve_function_call(self, call: ToolCall, function: Any) -> Approval:
            self.asked.append(call.name)
            if call.name == "swap":
                return Approval.approve()
            judge = self.fork(provider=ScriptedKimi([asks(Call("swap", '{"path": "/j"}')), say("fine")]))
            assert await texts(judge.full_round("ok?")) == ["", "/j is swapped", "fine"]
            return Approval.approve()

    agent = Judged([call("remove", path="/a"), say("ok")])
    async with asyncio.timeout(10):
        assert await texts(agent.full_round("go")) == ["", "/a is gone", "ok"]
    assert agent.asked == ["remove", "swap"]


async def test_an_approval_that_is_set_on_a_renamed_tool_stays_with_it() -> None:
    ran: list[str] = []

    class Plain:
        base = AIFunction(remove).base
        approval = False

        async def call(self, arguments: Any) -> ToolReturnValue:
            ran.append("ran")
            return ToolOk(output="gone")

    tools = SimpleToolset([Plain()]).prefixed("fs_")
    tools["fs_remove"].approval = True  # type: ignore[attr-defined]
    for functions, name in ((tools, "fs_remove"), (tools.prefixed("my_"), "my_fs_remove")):
        agent = Agent(ScriptedKimi([call(name, path="/a")]), functions=functions)
        for each in (agent, agent.fork(provider=ScriptedKimi([call(name, path="/a")]))):
            await waits(each)
    assert ran == []
    with pytest.raises(AttributeError):
        SimpleToolset([AIFunction(remove)]).prefixed("fs_")["fs_remove"].approval = True  # type: ignore[attr-defined]


async def test_a_sub_agent_is_approved_for_the_session_of_the_agent_that_it_works_for() -> None:
    asked: list[str] = []

    class Boss(Agent):
        async def approve_function_call(self, call: ToolCall, function: Any) -> Approval:
            asked.append(call.name)
            return Approval.approve_for_session()

    scout = Files([call("remove", path="/a"), say("gone"), call("remove", path="/b"), say("gone")])
    boss = Boss(
        ScriptedKimi([*[call("ask_scout", query="go"), say("ok")] * 2]),
        functions=[scout.as_tool("ask_scout", "Scout.")],
    )
    await texts(boss.full_round("one"))
    await texts(boss.full_round("two"))
    assert asked == ["remove"]


async def test_a_toolset_that_runs_its_tools_in_its_own_way_is_not_taken_apart_silently() -> None:
    for options in ({"approve": lambda *_: Approval.approve()}, {"tool_timeout": 3}, {"max_parallel_tools": 1}):
        toolset = SimpleToolset([remove], **options)
        with pytest.raises(FunctionSpecError, match="an agent runs its functions itself"):
            Agent(ScriptedKimi(), functions=toolset)
        Agent(ScriptedKimi(), functions=[*toolset])


async def test_whoever_goes_on_without_approving_has_not_approved() -> None:
    agent = Files([asks(call("remove", path="/a")), say("Fine.")])
    _, pending = await waits(agent)
    assert await texts(agent.full_round("Never mind.")) == ["Fine."]
    assert agent.waiting_calls == ()
    assert results(agent) == ["Not run: the user did not approve this call. Do not repeat it unasked."]
    with pytest.raises(ValueError, match="no call remove_0"):
        await texts(agent.resume([Approval.approve(pending.calls[0])]))
    with pytest.raises(ValueError, match="no call at the end of the history waits"):
        await texts(agent.resume([]))
    assert agent.ran == []


async def test_calls_behind_one_that_runs_alone_wait_for_it() -> None:
    reply = asks(call("read", path="/1"), call("swap", path="/2"), call("read", path="/3"), call("remove", path="/4"))
    agent = Files([reply, say("Done.")])
    _, pending = await waits(agent)
    assert [known.name for known in pending.calls] == ["swap"]
    assert agent.ran == ["read /1"]
    held = ToolTexts().waits_for_turn()
    assert results(agent) == ["text of /1", ToolTexts().waits_for_approval(), held, held]
    with pytest.raises(ApprovalPending) as again:
        await texts(agent.resume([Approval.approve(pending.calls[0])]))
    assert agent.ran == ["read /1", "swap /2", "read /3"]
    assert [known.name for known in again.value.calls] == ["remove"]
    assert await texts(agent.resume([Approval.reject(call=again.value.calls[0])])) == [results(agent)[3], "Done."]


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_resumed_round_that_is_cut_off_runs_nothing_twice(cut: int) -> None:
    agent = Files([asks(call("remove", path="/a"), call("remove", path="/b")), say("Done."), say("Next.")])
    _, pending = await waits(agent)
    task = asyncio.create_task(texts(agent.resume([Approval.approve(known) for known in pending.calls])))
    for _ in range(cut):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert problems(agent.chat_history) == []
    assert len(agent.ran) == len(set(agent.ran))
    if agent.waiting_calls:
        assert not agent.ran
    else:
        with pytest.raises(ValueError, match="waits"):
            await texts(agent.resume([Approval.approve(pending.calls[0])]))
    ran = list(agent.ran)
    await agent.chat_round("And now?")
    assert agent.ran == ran
    for path in ("/a", "/b"):
        assert (f"remove {path}" in ran) >= any(f"{path} is gone" in text for text in results(agent))


@pytest.mark.parametrize("kind", ["resume_stream", "resume_frames"])
async def test_a_round_goes_on_as_a_stream_or_frames(kind: str) -> None:
    agent = Files([asks(call("remove", path="/a")), say("Done.")])
    with pytest.raises(ApprovalPending) as caught:
        async for stream in agent.full_round_stream("go"):
            await stream
    said = [Approval.approve(known) for known in caught.value.calls]
    got = [item async for item in getattr(agent, kind)(said)]
    if kind == "resume_stream":
        assert [stream.role for stream in got] == ["tool", "assistant"]
    else:
        assert type(got[0]).__name__ == "ToolResult"
        assert got[-1].message.text == "Done."
    assert agent.ran == ["remove /a"]


# ==== in another process ====


async def test_a_saved_conversation_goes_on_with_approvals_that_were_written_down(tmp_path: Path) -> None:
    agent = Files([asks(call("remove", path="/a"), call("remove", path="/b"))], prompt := None)
    assert prompt is None
    _, pending = await waits(agent)
    agent.save(tmp_path / "talk.json")
    written = [
        Approval.approve(pending.calls[0]).model_dump_json(),
        Approval.reject("no", pending.calls[1]).model_dump_json(),
    ]

    again = Files([say("Done.")])
    again.load(tmp_path / "talk.json")
    assert again.waiting_calls == pending.calls
    messages = await texts(again.resume(map(Approval.model_validate_json, written)))
    assert (messages[0], messages[-1], again.ran) == ("/a is gone", "Done.", ["remove /a"])
    assert [message.role for message in again.chat_history] == ["user", "assistant", "tool", "tool", "assistant"]


APPROVED = """
import asyncio, sys
from kimi_agent import Agent, Approval, JournalSession, ai_function
from kimi_agent.testing import ScriptedKimi, say

class Files(Agent):
    @ai_function(approval=True)
    async def remove(self, path: str) -> str:
        print("removing", path, flush=True)
        if sys.argv[2] == "die":
            import os
            os._exit(9)
        return f"{path} is gone"

async def main():
    async with Files(ScriptedKimi([say("Done.")]), session=JournalSession(sys.argv[1])) as agent:
        said = [Approval.model_validate_json(text) for text in sys.argv[3:]]
        async for message in agent.resume(said):
            print(message.role, message.text, flush=True)

asyncio.run(main())
"""


async def another_process(*arguments: str) -> str:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", APPROVED, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, complaints = await child.communicate()
    return printed.decode() + complaints.decode()


async def test_another_process_runs_what_was_approved_and_one_that_died_leaves_it_run_once(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    async with Files(
        [asks(call("remove", path="/a"), call("remove", path="/b"))], session=JournalSession(path)
    ) as agent:
        _, pending = await waits(agent)
    one, two = (Approval.approve(known).model_dump_json() for known in pending.calls)
    assert (await another_process(str(path), "die", one)).splitlines() == ["removing /a"]
    # what had begun is not done a second time; what still waits may go on
    printed = await another_process(str(path), "live", one)
    assert "no call remove_0" in printed
    assert "removing" not in printed
    printed = await another_process(str(path), "live", two)
    assert printed.splitlines() == ["removing /b", "tool /b is gone", "assistant Done."]


async def test_what_waits_is_not_known_before_the_session_is_restored(tmp_path: Path) -> None:
    async with Files([call("remove", path="/a")], session=JournalSession(tmp_path / "talk")) as agent:
        await waits(agent)
    again = Files([say("Done.")], session=JournalSession(tmp_path / "talk"))
    with pytest.raises(SessionError, match="restored"):
        _ = again.waiting_calls
    async with again:
        assert len(again.waiting_calls) == 1


async def test_a_kill_before_anything_was_approved_leaves_the_calls_waiting(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    async with Files([asks(call("remove", path="/a"))], session=JournalSession(path)) as agent:
        await waits(agent)
    async with Files([say("Done.")], session=JournalSession(path)) as again:
        assert [known.args for known in again.waiting_calls] == [{"path": "/a"}]
        assert await texts(again.resume([Approval.approve(known) for known in again.waiting_calls])) == [
            "/a is gone",
            "Done.",
        ]


def test_an_approval_is_a_value_that_json_keeps() -> None:
    known = ToolCall(id="a_0", function=ToolCall.FunctionBody(name="a", arguments='{"x": "\ud800"}'))
    for approval in (
        Approval.approve(known),
        Approval.reject("no", known),
        Approval.approve_for_session(),
        Approval.wait(),
    ):
        assert Approval.model_validate(json.loads(approval.model_dump_json())) == approval
    assert Approval.approve(known).is_for(known)
    assert not Approval.approve().is_for(known)


@pytest.mark.parametrize("rule", ["yes", 1, None])
def test_an_option_that_is_no_rule_is_refused(rule: Any) -> None:
    with pytest.raises(FunctionSpecError, match="approval is true, false, or a function"):
        ai_function(approval=rule)(lambda self: None)


# ==== without an agent ====


class Remove(CallableTool):
    name: str = "remove"
    description: str = "Remove a file."
    parameters: dict[str, Any] = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    approval: bool = True

    async def __call__(self, path: str) -> ToolReturnValue:
        return ToolOk(output=f"{path} is gone")


class Path_(BaseModel):
    path: str = "/a"


class Remove2(CallableTool2[Path_]):
    name: str = "remove"
    description: str = "Remove a file."
    params: type[Path_] = Path_
    approval = staticmethod(lambda arguments: arguments["path"] != "/tmp")

    async def __call__(self, params: Path_) -> ToolReturnValue:
        return ToolOk(output=f"{params.path} is gone")


def remove(path: str) -> str:
    """Remove a file."""
    return f"{path} is gone"


@pytest.mark.parametrize(
    "tool", [Remove(), Remove2(), AIFunction(remove, approval=True)], ids=["one", "two", "function"]
)
async def test_a_toolset_runs_nothing_that_nobody_approved(tool: Any) -> None:
    asked: list[str] = []

    async def approve(call: ToolCall, function: Any) -> Approval:
        asked.append(call.args["path"])
        return {"/a": Approval.approve(), "/b": Approval.reject("keep it")}.get(call.args["path"], Approval.wait())

    reply = asks(*(call("remove", path=path) for path in ("/a", "/b", "/c")))
    history = [Message.user("go")]
    alone = await (await step(ScriptedKimi([reply]), "", SimpleToolset([tool]), history)).tool_results()
    assert all("nobody can do that here" in result.return_value.message for result in alone)
    toolset = SimpleToolset([tool], approve=approve)
    given = await (await step(ScriptedKimi([reply]), "", toolset, history)).tool_results()
    assert [result.return_value.is_error for result in given] == [False, True, True]
    assert "keep it" in given[1].return_value.message
    assert asked == ["/a", "/b", "/c"]


async def test_a_renamed_tool_has_to_be_approved_all_the_same() -> None:
    toolset = SimpleToolset([AIFunction(remove, approval=True)]).prefixed("fs_")
    agent = Agent(ScriptedKimi([call("fs_remove", path="/a")]), functions=toolset)
    _, pending = await waits(agent)
    assert pending.calls[0].name == "fs_remove"
    result = await toolset.handle(pending.calls[0])
    assert result.return_value.is_error


async def test_what_the_program_calls_itself_is_approved_by_that() -> None:
    agent = Files([])
    assert (await agent.call_tool("remove", {"path": "/a"})).return_value.output == "/a is gone"
    assert agent.asked == []
