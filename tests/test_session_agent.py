"""An agent with a session: what is written when, what becomes of a write that fails, and how a conversation goes on."""

import asyncio
import gc
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kimi_agent import (
    Agent,
    ChatProviderError,
    End,
    Kimi,
    Message,
    RoundFinished,
    RoundInProgressError,
    RoundStarted,
    SessionConflictError,
    SessionError,
    SessionRestored,
    SummarizeHistory,
    ToolCall,
    ai_function,
)
from kimi_agent.history import placed, problems
from kimi_agent.limits import Spent
from kimi_agent.session import JournalSession, Session, SessionState, SQLiteSessionStore, WindowState
from kimi_agent.testing import Failure, KimiServer, Reply, ScriptedKimi, call, say


class Memory:
    """A session that forgets nothing until the process ends, and fails or waits where a test wants it to."""

    def __init__(self, state: SessionState | None = None) -> None:
        self.state = state or SessionState()
        self.log: list[str] = []
        self.flushed = 0
        self.closed = 0
        self.fail_at: set[int] = set()
        self.labels: dict[str, SessionState] = {}
        self._writes = 0

    async def _write(self, what: str) -> None:
        number, self._writes = self._writes, self._writes + 1
        await asyncio.sleep(0)
        if number in self.fail_at:
            raise SessionError("the disk is full")
        self.log.append(what)

    async def load(self) -> SessionState:
        await asyncio.sleep(0)
        return self.state

    async def append(
        self, messages: Sequence[Message], *, usage: Spent | None = None, window: WindowState | None = None
    ) -> None:
        await self._write(f"append {' '.join(message.role for message in messages)}".strip())
        said = list(self.state.chat_history)
        for message in messages:
            said.insert(placed(said, message) if message.role == "tool" else len(said), message)
        self.state = _changed(self.state, chat_history=tuple(said), usage=usage or self.state.usage)

    async def replace(self, state: SessionState, *, reason: str = "") -> None:
        await self._write(f"replace {reason}".strip())
        self.state = state

    async def checkpoint(self, label: str) -> None:
        await self._write(f"checkpoint {label}")
        self.labels[label] = self.state

    async def rollback(self, label: str) -> SessionState:
        if label not in self.labels:
            raise SessionError(f"there is no checkpoint {label!r}")
        await self._write(f"rollback {label}")
        self.state = self.labels[label]
        return self.state

    async def flush(self) -> None:
        self.flushed += 1

    async def aclose(self) -> None:
        self.closed += 1


def _changed(state: SessionState, **changes: Any) -> SessionState:
    fields = {name: getattr(state, name) for name in SessionState.__dataclass_fields__}
    return SessionState(**{**fields, **changes})


class Tools(Agent):
    gate: asyncio.Event

    @ai_function()
    async def quick(self) -> str:
        """At once."""
        return "quick"

    @ai_function()
    async def slow(self) -> str:
        """When the gate opens."""
        await self.gate.wait()
        return "slow"


CALLS = Reply(tool_calls=[call("slow"), call("quick")])


def tools(script: list[Any], **options: Any) -> Tools:
    agent = Tools(ScriptedKimi(script), **options)
    agent.gate = asyncio.Event()
    return agent


def roles(messages: Sequence[Message]) -> list[str]:
    return [message.role for message in messages]


def test_the_protocol_is_what_it_says():
    assert isinstance(Memory(), Session)


# ==== what is written, and when ====


@pytest.mark.parametrize("method", ["full_round", "full_round_stream"])
async def test_a_message_is_in_the_session_before_it_is_handed_out(method: str):
    session = Memory()
    agent = tools([CALLS, say("done")], session=session)
    agent.gate.set()
    seen = 0
    async for item in getattr(agent, method)("go"):
        message = await item if method == "full_round_stream" else item
        seen += 1
        assert any(known is message for known in session.state.chat_history)
    assert seen == 4
    assert session.log == [
        "replace begin",
        "append user",
        "append assistant",
        *["append tool"] * 2,
        "append assistant",
        "append",
    ]
    assert session.flushed == 1
    assert session.state.chat_history == tuple(agent.chat_history)
    assert session.state.usage == agent.usage


async def test_a_result_does_not_wait_for_its_slow_sibling():
    session = Memory()
    agent = tools([CALLS, say("done")], session=session)
    round_ = agent.full_round("go")
    await anext(round_)
    reader = asyncio.create_task(anext(round_))
    while "append tool" not in session.log:
        await asyncio.sleep(0)
    assert [message.text for message in session.state.chat_history[2:]] == ["quick"]
    agent.gate.set()
    assert (await reader).text == "slow"
    assert [message.text for message in session.state.chat_history[2:]] == ["slow", "quick"]
    await round_.aclose()


async def test_what_a_dropped_round_leaves_is_in_the_session_with_the_next_one():
    session = Memory()
    agent = tools([CALLS, say("hello")], session=session)
    async for _ in agent.full_round("go"):
        break
    await agent.chat_round("and now?")
    assert session.state.chat_history == tuple(agent.chat_history)
    assert problems(session.state.chat_history) == []


async def test_an_edit_between_two_rounds_is_written_with_the_next_one():
    session = Memory()
    agent = Agent(ScriptedKimi([say("a"), say("b")]), "Be terse.", session=session)
    await agent.chat_round("1")
    del agent.chat_history[0]
    agent.always_included_messages.append(Message.system("Be kind."))
    await agent.chat_round("2")
    assert session.log.count("replace edit") == 1
    assert session.state.chat_history == tuple(agent.chat_history)
    assert session.state.always_included_messages == tuple(agent.always_included_messages)


async def test_a_compaction_is_written_at_once():
    session = Memory()
    said = [Message.user("word " * 100), Message.assistant("yes " * 100)] * 20
    kimi = ScriptedKimi([say("A summary.")], context_window=8_000)
    async with Agent(kimi, session=session, chat_history=said, compaction=SummarizeHistory(keep_last=1)) as agent:
        assert await agent.compact()
        assert session.log == ["replace begin", "replace compaction"]
        assert session.state.chat_history == tuple(agent.chat_history)
        assert len(agent.chat_history) < 10


async def test_a_loaded_file_takes_the_place_of_the_session(tmp_path: Path):
    other = Agent(ScriptedKimi([]), chat_history=[Message.user("old")])
    other.save(tmp_path / "old.json")
    session = Memory()
    agent = Agent(ScriptedKimi([say("a"), say("b")]), session=session)
    await agent.chat_round("1")
    agent.load(tmp_path / "old.json")
    await agent.chat_round("2")
    assert [message.text for message in session.state.chat_history] == ["old", "2", "b"]


async def test_a_round_that_only_works_on_the_history_is_told_as_none():
    told: list[Any] = []
    agent = Agent(ScriptedKimi([]), session=Memory())
    agent.on(RoundStarted, told.append)
    agent.on(RoundFinished, told.append)
    await agent.checkpoint("a")
    await agent.rollback("a")
    assert told == []


# ==== going on ====


def _call(name: str, call_id: str = "c1") -> ToolCall:
    return ToolCall(id=call_id, function=ToolCall.FunctionBody(name=name, arguments="{}"))


OPEN = SessionState(
    (Message.system("Be terse."),),
    (
        Message.user("go"),
        Message.assistant(tool_calls=[_call("quick"), _call("slow", "c2")]),
        Message.tool("quick", "c1"),
    ),
    prompt_cache_key="key",
)


@pytest.mark.parametrize("way", ["async with", "first round", "add_to_history"])
async def test_a_conversation_goes_on_and_an_unfinished_exchange_is_closed(way: str):
    session = Memory(OPEN)
    told: list[SessionRestored] = []
    agent = tools([say("done")], session=session)
    agent.on(SessionRestored, told.append)
    if way == "async with":
        async with agent:
            pass
        assert session.closed == 1
    elif way == "first round":
        await agent.chat_round(None)
    else:
        await agent.add_to_history(Message.user("and?"))
    assert told == [SessionRestored(messages=4, repaired=1)]
    assert agent.chat_history[3].tool_call_id == "c2"
    assert agent.chat_history[3].is_tool_call_error
    assert session.log[0] == "replace restore"
    assert session.state.chat_history == tuple(agent.chat_history)
    assert agent.always_included_messages == [Message.system("Be terse.")]
    assert agent.prompt_cache_key == "key"


async def test_the_programs_own_pinned_messages_are_kept():
    session = Memory(OPEN)
    async with Agent(ScriptedKimi([]), "Be verbose.", session=session) as agent:
        assert agent.always_included_messages == [Message.system("Be verbose.")]
    assert session.state.always_included_messages == (Message.system("Be verbose."),)


async def test_a_history_that_is_given_begins_a_new_session_and_gives_way_to_an_old_one():
    session = Memory()
    async with Agent(ScriptedKimi([]), chat_history=[Message.user("given")], session=session):
        assert [message.text for message in session.state.chat_history] == ["given"]
    async with Agent(ScriptedKimi([]), chat_history=[Message.user("other")], session=session) as agent:
        assert [message.text for message in agent.chat_history] == ["given"]


async def test_going_back_to_a_checkpoint():
    session = Memory()
    agent = Agent(ScriptedKimi([say("a"), say("b"), say("c")]), session=session)
    await agent.chat_round("1")
    await agent.checkpoint("before")
    await agent.chat_round("2")
    await agent.rollback("before")
    assert [message.text for message in agent.chat_history] == ["1", "a"]
    await agent.chat_round("3")
    assert [message.text for message in session.state.chat_history] == ["1", "a", "3", "c"]
    with pytest.raises(SessionError, match="no checkpoint 'other'"):
        await agent.rollback("other")
    with pytest.raises(ValueError, match="has no session"):
        await Agent(ScriptedKimi([])).checkpoint("x")


# ==== writes that fail ====


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("number", range(8))
async def test_whichever_write_fails_the_history_is_whole_and_the_next_round_catches_up(number: int, streamed: bool):
    session = Memory()
    session.fail_at = {number}
    agent = tools([CALLS, say("done"), say("hello"), say("hello")], session=session)
    agent.gate.set()
    failed = 0
    try:
        async for _ in agent.full_round_stream("go") if streamed else agent.full_round("go"):
            pass
    except SessionError:
        failed = 1
    assert failed == (number < 7)
    session.fail_at = set()
    await agent.chat_round("and now?")
    assert problems(agent.chat_history) == []
    assert session.state.chat_history == tuple(agent.chat_history)


async def test_a_session_that_cannot_be_read_is_an_error_of_the_round_and_may_be_read_later():
    class Unreadable(Memory):
        broken = True

        async def load(self) -> SessionState:
            if self.broken:
                raise SessionError("cannot read it")
            return await super().load()

    session = Unreadable(OPEN)
    agent = tools([say("done")], session=session)
    with pytest.raises(SessionError, match="cannot read it"):
        await agent.chat_round("go")
    assert agent.chat_history == []
    session.broken = False
    await agent.chat_round("go")
    assert roles(agent.chat_history)[:2] == ["user", "assistant"]


# ==== cancelled anywhere ====


@pytest.mark.parametrize("kind", ["memory", "journal", "sqlite"])
async def test_a_cancel_at_any_moment_loses_nothing_that_was_handed_out(kind: str, tmp_path: Path):
    moment = 0
    while True:
        open_again = _sessions(kind, tmp_path / f"{moment}")
        yielded: list[Message] = []
        finished = await _cancelled_after(moment, open_again, yielded)
        session = open_again()
        state = await session.load()
        await session.aclose()
        assert all(message in state.chat_history for message in yielded)
        async with tools([say("hello")], session=open_again()) as agent:
            assert problems(agent.chat_history) == []
            await agent.chat_round("and now?")
        if finished:
            return
        moment += 1 + moment // 6


def _sessions(kind: str, path: Path) -> Callable[[], Any]:
    if kind == "memory":
        session = Memory()
        return lambda: session
    if kind == "journal":
        return lambda: JournalSession(path, fsync="never")
    return lambda: SQLiteSessionStore(path).open("ada")


async def _cancelled_after(steps: int, open_again: Callable[[], Any], yielded: list[Message]) -> bool:
    """Cancel a round after so many steps of the event loop; whether it had finished."""

    async def work() -> None:
        async with tools([CALLS, say("done")], session=open_again()) as agent:
            agent.gate.set()
            async for message in agent.full_round("go"):
                yielded.append(message)

    task = asyncio.create_task(work())
    for _ in range(steps):
        if task.done():
            return True
        await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return False
    return True


def test_a_session_serves_two_event_loops_in_a_row(tmp_path: Path):
    agent = Agent(ScriptedKimi([say("a"), say("b")]), session=JournalSession(tmp_path / "a", fsync="never"))
    asyncio.run(agent.chat_round("1"))  # pyright: ignore[reportArgumentType]
    asyncio.run(agent.chat_round("2"))  # pyright: ignore[reportArgumentType]
    assert [message.text for message in agent.chat_history] == ["1", "a", "2", "b"]


async def test_the_running_count_and_the_cut_go_on(tmp_path: Path):
    for session in (lambda: JournalSession(tmp_path / "a"), lambda: SQLiteSessionStore(tmp_path / "b").open("ada")):
        async with Agent(ScriptedKimi([say("a")], context_window=4_000), session=session()) as agent:
            agent.chat_history += [Message.user("word " * 900), Message.assistant("yes")] * 4
            await agent.chat_round("1")
            before = agent._window
            assert before.start_in(agent.chat_history) > 0
        async with Agent(ScriptedKimi([say("b")], context_window=4_000), session=session()) as again:
            assert again._window.start_in(again.chat_history) == before.start_in(agent.chat_history)
            assert again._window.running.anchor == before.running.anchor
            assert again.usage == agent.usage


# ==== others who write, and other orders ====


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
async def test_after_a_conflict_the_next_round_goes_on_from_what_the_other_one_wrote(kind: str, tmp_path: Path):
    open_again = _sessions(kind, tmp_path / "one")
    loser = Agent(ScriptedKimi([say("a1"), say("a2"), say("a3")]), "Mine.", session=(session := open_again()))
    await loser.chat_round("q1")
    await session.aclose()  # lets go of the journal's lock
    async with Agent(ScriptedKimi([say("b1")]), session=open_again()) as winner:
        await winner.chat_round("important")
    with pytest.raises(SessionConflictError):
        await loser.chat_round("q2")
    await loser.chat_round("q3")
    said = ["q1", "a1", "important", "b1", "q3", loser.chat_history[-1].text]
    assert [message.text for message in loser.chat_history] == said
    await session.aclose()
    assert [message.text for message in (await open_again().load()).chat_history] == said
    assert loser.always_included_messages == [Message.system("Mine.")]


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
async def test_entering_again_takes_up_what_another_one_wrote_meanwhile(kind: str, tmp_path: Path):
    open_again = _sessions(kind, tmp_path / "one")
    agent = Agent(ScriptedKimi([say("a1"), say("a2")]), session=open_again())
    async with agent:
        await agent.chat_round("q1")
    async with Agent(ScriptedKimi([say("b1")]), session=open_again()) as other:
        await other.chat_round("meanwhile")
    async with agent:
        assert [message.text for message in agent.chat_history] == ["q1", "a1", "meanwhile", "b1"]
        await agent.chat_round("q2")


async def test_what_is_edited_while_the_session_is_left_is_kept_when_nobody_else_wrote():
    session = Memory()
    agent = Agent(ScriptedKimi([say("a1")]), session=session)
    async with agent:
        await agent.chat_round("q1")
    agent.chat_history.pop()
    async with agent:
        assert [message.text for message in agent.chat_history] == ["q1"]
    assert [message.text for message in session.state.chat_history] == ["q1"]


async def test_what_is_edited_last_is_written_on_leaving(tmp_path: Path):
    session = Memory()
    async with Agent(ScriptedKimi([say("a")]), session=session) as agent:
        await agent.chat_round("secret")
        agent.chat_history.clear()
        agent.prompt_cache_key = "mine"
    assert session.state.chat_history == ()
    assert session.state.prompt_cache_key == "mine"


async def test_leaving_an_inner_block_keeps_the_session():
    session = Memory()
    agent = Agent(ScriptedKimi([say("a")]), session=session)
    async with agent:
        async with agent:
            pass
        assert session.closed == 0
    assert session.closed == 1


async def test_a_file_that_is_loaded_first_takes_the_place_of_an_old_session(tmp_path: Path):
    Agent(ScriptedKimi([]), chat_history=[Message.user("from file")]).save(tmp_path / "f.json")
    session = Memory(OPEN)
    agent = Agent(ScriptedKimi([say("a")]), session=session)
    agent.load(tmp_path / "f.json")
    await agent.chat_round("go")
    assert [message.text for message in session.state.chat_history] == ["from file", "go", "a"]


async def test_before_the_session_is_restored_nothing_is_saved_and_a_prompt_restores(tmp_path: Path):
    agent = tools([], session=Memory(OPEN))
    with pytest.raises(SessionError, match="within `async with agent`"):
        agent.save(tmp_path / "empty.json")
    assert not (tmp_path / "empty.json").exists()
    assert len(await agent.get_prompt()) == 5


async def test_a_checkpoint_before_the_first_round_has_what_was_given():
    agent = Agent(
        ScriptedKimi([say("a"), say("b")]), "Be terse.", chat_history=[Message.user("given")], session=Memory()
    )
    await agent.checkpoint("start")
    await agent.chat_round("q")
    await agent.rollback("start")
    assert [message.text for message in agent.chat_history] == ["given"]
    assert agent.always_included_messages == [Message.system("Be terse.")]


async def test_a_rollback_brings_back_neither_the_old_system_prompt_nor_what_was_spent():
    session = Memory()
    async with Agent(ScriptedKimi([say("a")]), "Old.", session=session) as agent:
        await agent.chat_round("q")
        await agent.checkpoint("x")
    async with Agent(ScriptedKimi([say("b")]), "New.", session=session) as agent:
        await agent.chat_round("q2")
        spent = agent.usage
        await agent.rollback("x")
        assert agent.always_included_messages == [Message.system("New.")]
        assert agent.usage == spent
        assert [message.text for message in agent.chat_history] == ["q", "a"]


async def test_a_checkpoint_in_the_middle_of_a_round_is_refused_and_harms_nothing():
    agent = tools([CALLS, say("done")], session=Memory())
    agent.gate.set()
    async for _ in agent.full_round("go"):
        with pytest.raises(RoundInProgressError, match="not at its end"):
            await agent.checkpoint("x")
        with pytest.raises(RoundInProgressError, match="not at its end"):
            await agent.rollback("x")
    assert agent.chat_history[-1].text == "done"


async def test_two_agents_cannot_keep_their_conversations_in_one_session():
    session = Memory()
    one = Agent(ScriptedKimi([say("a")]), session=session)
    await one.chat_round("q")
    other = Agent(ScriptedKimi([say("b")]), session=session)
    with pytest.raises(SessionConflictError, match="another agent"):
        await other.chat_round("q")
    del one
    gc.collect()
    await other.chat_round("q")


@pytest.mark.parametrize("wrong", ["x.journal", SQLiteSessionStore("x.db"), 5], ids=["path", "store", "number"])
def test_what_is_no_session_is_refused_at_once(wrong: Any):
    with pytest.raises(TypeError, match=r"is no session: that is a JournalSession\(path\), store.open\(id\)"):
        Agent(ScriptedKimi([]), session=wrong)


async def test_tasks_that_restore_at_once_lose_nothing():
    class Slow(Memory):
        async def load(self) -> SessionState:
            for _ in range(5):
                await asyncio.sleep(0)
            return await super().load()

    session = Slow(OPEN)
    agent = tools([say("done")], session=session)
    await asyncio.gather(*[agent.add_to_history(Message.user(text)) for text in "ABC"])
    assert sorted(message.text for message in agent.chat_history[-3:]) == ["A", "B", "C"]
    await agent.chat_round("next")
    assert session.state.chat_history == tuple(agent.chat_history)


@pytest.mark.parametrize("method", ["full_round_frames", "chat_round_stream"])
async def test_an_end_frame_is_in_the_session_before_it_is_handed_out(method: str):
    class Slow(Memory):
        async def append(self, messages: Any, **more: Any) -> None:
            for _ in range(20):
                await asyncio.sleep(0)
            await super().append(messages, **more)

    session = Slow()
    agent = Agent(ScriptedKimi([say("hello")]), session=session)
    given = getattr(agent, method)("go")
    async for frame in given if method == "full_round_frames" else given.frames():
        if isinstance(frame, End):
            assert [message.text for message in session.state.chat_history] == ["go", "hello"]


async def test_a_hook_that_fills_the_history_by_itself_is_kept_before_anything_is_handed_out():
    class Own(Tools):
        async def add_to_history(self, message: Message) -> None:
            self.chat_history.insert(placed(self.chat_history, message) if message.role == "tool" else 10**6, message)

    session = Memory()
    agent = Own(ScriptedKimi([CALLS, say("done")]), session=session)
    agent.gate = asyncio.Event()
    agent.gate.set()
    async for message in agent.full_round("go"):
        assert any(known is message for known in session.state.chat_history)


async def test_a_restart_changes_no_byte_of_the_next_request(tmp_path: Path):
    bodies: list[Any] = []

    def script(body: Any) -> Reply:
        bodies.append(body)
        return Reply("ok", reasoning="Because.") if body["messages"][-1]["role"] == "tool" else CALLS

    for number in range(3):
        async with Tools(ScriptedKimi(script), "Be terse.", session=JournalSession(tmp_path / "a")) as agent:
            agent.gate = asyncio.Event()
            agent.gate.set()
            await agent.full_round_str(f"q{number}").aclose()
            async for _ in agent.full_round(f"q{number}"):
                pass
    for before, after in pairwise(bodies):
        assert after["messages"][: len(before["messages"])] == before["messages"]
        assert after["prompt_cache_key"] == before["prompt_cache_key"]


def contents_of(folder: Path) -> list[bytes]:
    return [path.read_bytes().lower() for path in folder.rglob("*") if path.is_file()]


async def test_neither_a_journal_nor_a_database_has_the_key_or_a_header(tmp_path: Path):
    async with KimiServer([Failure(429, "rate_limit_reached_error", "later"), say("hello")]) as server:
        kimi = Kimi(api_key=server.api_key, base_url=server.base_url)
        async with SQLiteSessionStore(tmp_path / "s.db") as store:
            for session in (JournalSession(tmp_path / "j"), store.open("ada")):
                agent = Agent(kimi, "Be terse.", session=session)
                async with agent:
                    with suppress(ChatProviderError):
                        await agent.chat_round("hi")
                    await agent.checkpoint("x")
            for content in contents_of(tmp_path):
                assert server.api_key.encode().lower() not in content
                assert not any(word in content for word in (b"bearer", b"authorization"))
    assert b"hello" in (tmp_path / "j").read_bytes()
