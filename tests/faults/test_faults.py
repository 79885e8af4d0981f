"""A share of the fault campaign, and that the campaign would notice: agents broken on purpose, each fault alone.

`KIMI_AGENT_FAULTS` is how many rounds are played, 300 unless it is set. A finding names its round, which
`campaign.py --only` plays again.
"""

import asyncio
import math
import os
import re
import socket
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from typing import Any, ClassVar, Self

import campaign
import consumers
import pytest
import talk
from campaign import Campaign
from errands import Errand, Worker, answer, is_right
from proxy import FAULTS, Proxy
from report import ALL_FAULTS, MUST_BE_ZERO, Finding, Report

from kimi_agent import (
    End,
    Message,
    Reasoning,
    RoundFinished,
    StreamCompleted,
    StreamFrame,
    ToolOk,
    ToolResult,
    generate,
)
from kimi_agent.limits import Spent
from kimi_agent.message import ToolCall
from kimi_agent.testing import ScriptedKimi
from kimi_agent.tools.allowance import CallOutcome

ROUNDS = int(os.environ.get("KIMI_AGENT_FAULTS", "300"))
SHARES = campaign.shares(ROUNDS, conversations=math.ceil(ROUNDS / 3 / talk.TALK))
"""Three, unless there are fewer conversations."""
MANY = 100
"""In so many rounds there are faults of most kinds, and most answers come in spite of them."""

pytestmark = pytest.mark.timeout(60 + ROUNDS)

# ==== a share of the campaign ====


@pytest.mark.parametrize("share", SHARES, ids=str)
async def test_whatever_happens_on_the_way_nothing_is_lost_invalid_or_left_behind(share: range) -> None:
    report = await Campaign(seed=1).play(share)
    assert report.findings == []
    assert report.rounds == len(share)
    if len(share) >= MANY:
        assert report.injected.total() > len(share) / 4
        assert len(report.injected) > len(ALL_FAULTS) / 2
        assert report.endings["answered right"] > len(share) / 2
        assert report.helped["nothing"] < report.endings["answered right"]


async def test_rounds_without_faults_and_stops_are_answered_right_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "RATES", (0.0,))
    monkeypatch.setattr(talk, "CHAOTIC", 0.0)
    monkeypatch.setattr(talk, "STOPS", {"read": 1})
    report = await Campaign(seed=1).play(range(10))
    assert report.findings == []
    assert (report.injected, report.errors) == ({}, {})
    waiting = report.endings.pop("left waiting for approval", 0)
    assert report.endings == {"answered right": 10 - waiting}


# ==== it would notice ====


class Forgetful(Worker):
    """Loses what a function gave."""

    async def add_to_history(self, message: Message) -> None:
        if message.role == "tool":
            message = message.copy_with(content="I forgot.")
        await super().add_to_history(message)


class Incomplete(Worker):
    """Leaves results out."""

    async def add_to_history(self, message: Message) -> None:
        if message.role != "tool":
            await super().add_to_history(message)


class Wrong(Worker):
    """Answers something else."""

    async def add_to_history(self, message: Message) -> None:
        if message.role == "assistant" and not message.tool_calls:
            message = message.copy_with(content="It is done.")
        await super().add_to_history(message)


class Altering(Worker):
    """Hands out other frames than those of its messages."""

    def full_round_frames(self, query: str, **options: Any) -> Any:
        return Altered(super().full_round_frames(query, **options), self.altered)

    def altered(self, frames: list[StreamFrame]) -> list[StreamFrame]:
        """The frames of a message, as they are handed out."""
        raise NotImplementedError


class Stuttering(Altering):
    """Hands out every piece of an answer twice."""

    def altered(self, frames: list[StreamFrame]) -> list[StreamFrame]:
        return [*frames[:-1], *frames]


class Muddled(Altering):
    """Hands out what it reasoned behind what it says."""

    def altered(self, frames: list[StreamFrame]) -> list[StreamFrame]:
        return sorted(frames, key=lambda frame: (isinstance(frame, End), isinstance(frame, Reasoning)))


class Fanciful(Altering):
    """Hands out other results than the history has."""

    def altered(self, frames: list[StreamFrame]) -> list[StreamFrame]:
        return [
            frame.copy_with(return_value=ToolOk(output="something")) if isinstance(frame, ToolResult) else frame
            for frame in frames
        ]


class Reticent(Altering):
    """Hands out no results."""

    def altered(self, frames: list[StreamFrame]) -> list[StreamFrame]:
        return [frame for frame in frames if not isinstance(frame, ToolResult)]


class Altered:
    """A round whose frames are altered, message by message."""

    def __init__(self, round_: Any, alter: Callable[[list[StreamFrame]], list[StreamFrame]]) -> None:
        self._round, self._alter = round_, alter

    async def __aiter__(self) -> AsyncGenerator[Any]:
        frames: list[StreamFrame] = []
        async for frame in self._round:
            frames.append(frame)
            if isinstance(frame, End | ToolResult):
                for each in self._alter(frames):
                    yield each
                frames = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._round.aclose()


class Secretive(Worker):
    """Says something that its session never hears of."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on(RoundFinished, lambda _: self.chat_history.append(Message.user("psst")))


class Discreet(Worker):
    """Tells nobody that a call has finished."""

    async def _commit(self, outcome: CallOutcome) -> None:
        await super()._commit(replace(outcome, duration=None))


class Curious(Worker):
    """Asks everything twice, once without a word."""

    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        prompt = await super().get_prompt(include_functions, **overrides)
        await (await self.provider.generate("", [], prompt)).aclose()
        return prompt


class Forgiving(Worker):
    """Counts no answer."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on(StreamCompleted, lambda _: setattr(self, "usage", Spent()))


class Clumsy(Worker):
    """Raises what is not of the tree."""

    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        raise ZeroDivisionError


class Endless(Worker):
    """Waits for what never comes."""

    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        return await asyncio.get_running_loop().create_future()


class Rude(Worker):
    """Asks for what Kimi refuses."""

    def __init__(self, provider: Any, *args: Any, **options: Any) -> None:
        super().__init__(provider.with_generation_kwargs(temperature=7.0), *args, **options)


class Littering(Worker):
    """Leaves tasks behind."""

    tasks: ClassVar[list[asyncio.Task[None]]] = []

    async def do_function_call(self, call: ToolCall) -> Any:
        self.tasks.append(asyncio.get_running_loop().create_task(asyncio.sleep(60)))
        return await super().do_function_call(call)


class Grasping(Worker):
    """Keeps sockets open."""

    sockets: ClassVar[list[socket.socket]] = []

    async def get_prompt(self, include_functions: bool = True, **overrides: Any) -> list[Message]:
        port = campaign.port_of(self.provider.base_url)  # type: ignore[attr-defined]
        self.sockets.append(socket.create_connection(("127.0.0.1", port)))
        return await super().get_prompt(include_functions, **overrides)


class Careless(Worker):
    """Looks at no error of a task."""

    async def do_function_call(self, call: ToolCall) -> Any:
        asyncio.ensure_future(failing())  # noqa: RUF006 - that is what is careless
        return await super().do_function_call(call)


async def failing() -> None:
    raise ZeroDivisionError


@pytest.fixture
def _cleaned_up() -> Iterator[None]:
    yield
    for task in Littering.tasks:
        task.cancel()
    for each in Grasping.sockets:
        each.close()
    Littering.tasks.clear()
    Grasping.sockets.clear()


BROKEN: dict[type[Worker], str] = {
    Forgetful: "results lost",
    Reticent: "results lost",
    Incomplete: "histories invalid",
    Wrong: "answers wrong",
    Stuttering: "pieces that differ",
    Muddled: "pieces that differ",
    Fanciful: "pieces that differ",
    Discreet: "events that differ",
    Curious: "requests nobody asked for",
    Forgiving: "usage that differs",
    Secretive: "sessions that differ",
    Clumsy: "errors outside the tree",
    Endless: "rounds that hang",
    Rude: "requests refused as invalid",
    Littering: "tasks leaked",
    Grasping: "sockets leaked",
    Careless: "complaints of the event loop",
}
"""Agents that are broken on purpose, and as what each is found out."""


@pytest.mark.usefixtures("_cleaned_up")
@pytest.mark.parametrize(("broken", "kind"), BROKEN.items(), ids=[broken.__name__ for broken in BROKEN])
async def test_an_agent_that_is_broken_on_purpose_is_found_out(
    broken: type[Worker], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "PATIENCE", 0.01)
    monkeypatch.setattr(talk, "WAYS", consumers.WAYS[-1:])
    monkeypatch.setattr(talk, "STOPS", {"read": 1})
    monkeypatch.setattr(consumers, "HANGS", 0.01 if kind == "rounds that hang" else consumers.HANGS)
    report = await Campaign(seed=1, kind=broken).play(range(5))
    assert kind in {finding.kind for finding in report.findings}


def test_a_fault_that_never_strikes_is_found_out() -> None:
    report = Report(2_000)
    report.injected.update(ALL_FAULTS[1:])
    report.endings["answered right"] = 1_600
    report.find_what_is_missing()
    assert report.findings == [Finding(0, "faults that never struck", ALL_FAULTS[0])]
    assert {*BROKEN.values(), "faults that never struck", "answers too seldom right"} == set(MUST_BE_ZERO)


def test_an_agent_that_answers_with_errors_alone_is_found_out() -> None:
    report = Report(2_000)
    report.injected.update(ALL_FAULTS)
    report.endings.update({"answered right": 1_599, "failed with an error": 401})
    report.find_what_is_missing()
    assert report.findings == [Finding(0, "answers too seldom right", "1,599 of 2,000")]


# ==== the proxy ====

BODY = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [b"data: " + b"x" * 50] * 80) + b"0\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + BODY


@asynccontextmanager
async def proxied() -> AsyncGenerator[Proxy]:
    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError), closing(writer):
            while await reader.read(1000):
                writer.write(WHOLE)

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        async with Proxy(server.sockets[0].getsockname()[1]) as proxy:
            yield proxy


REST = 0.01
"""Seconds in which whatever is on its way has come, on the loopback interface."""


class Client:
    """Reads what comes, and knows how that has ended."""

    came = b""
    ending: str | None = None

    async def read(self, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(1000):
                self.came += data
            self.ending = "ended"
        except ConnectionError:
            self.ending = "reset"


SEEN: dict[str, Callable[[Proxy, Client], bool]] = {
    "whole": lambda proxy, client: client.came == WHOLE,
    "silent": lambda proxy, client: proxy.injected.total() > 0,
}
"""When a connection that stays open is in a state."""


async def came_through(proxy: Proxy, expected: str = "ended") -> tuple[bytes, str]:
    """What a client gets, and how that ends: as is expected, unless the connection ends otherwise."""
    client, is_seen = Client(), SEEN.get(expected, lambda proxy, client: False)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with closing(writer):
        reading = asyncio.create_task(client.read(reader))
        writer.write(b"GET")
        assert await talk.comes_true(lambda: reading.done() or is_seen(proxy, client)), f"it is not {expected}"
        await asyncio.wait([reading], timeout=REST)
        reading.cancel()
        await asyncio.wait([reading])
    return client.came, client.ending or expected


SIZE = len(WHOLE)
ENDS = {
    "late": ("whole", SIZE, SIZE),
    "throttled": ("whole", SIZE, SIZE),
    "odd pieces": ("whole", SIZE, SIZE),
    "reset asking": ("reset", 0, 0),
    "reset before": ("reset", 0, 0),
    "reset inside": ("reset", 0, SIZE - 1),
    "reset after": ("reset", SIZE, SIZE),
    "ended before": ("ended", 0, 0),
    "ended inside": ("ended", 1, SIZE - 1),
    "silent before": ("silent", 0, 0),
    "silent inside": ("silent", 1, SIZE - 1),
}
"""How a connection ends on which one fault strikes, and how many bytes come before, from and to."""


@pytest.mark.parametrize("fault", ENDS)
async def test_each_fault_of_the_proxy_is_what_it_says(fault: str) -> None:
    ending, least, most = ENDS[fault]
    async with proxied() as proxy:
        proxy.begin(1, 1.0, [fault])
        came, end = await came_through(proxy, ending)
    assert end == ending
    assert WHOLE.startswith(came)
    assert least <= len(came) <= most
    assert proxy.injected == {fault: 1}
    assert proxy.connections == 0


def test_each_fault_of_the_proxy_is_tested() -> None:
    assert {*ENDS, "refused"} == set(FAULTS)


async def test_a_proxy_that_is_gone_refuses_connections_and_comes_back_at_the_same_port() -> None:
    async with proxied() as proxy:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"GET")
            await reader.readexactly(len(WHOLE))
            proxy.refuse()
            with pytest.raises(ConnectionError):
                await reader.read()
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
            proxy.admit()
        assert await came_through(proxy, "whole") == (WHOLE, "whole")


async def test_with_the_same_seed_the_same_faults_strike_each_answer() -> None:
    async def seen() -> list[tuple[bytes, str]]:
        proxy.begin(7, 1.0, ["ended before", "ended inside", "reset before"])
        return [await came_through(proxy) for _ in range(12)]

    async with proxied() as proxy:
        first, again = await seen(), await seen()
    assert first == again
    assert len(set(first)) > 3


# ==== errands and reports ====


async def test_the_model_says_every_result_in_the_end() -> None:
    errand = Errand("WORD", (("quick", "fails"), ("declines",)))
    agent = Worker(ScriptedKimi(answer), retry_attempts=9)
    async for _ in agent.full_round(errand.question):
        pass
    assert is_right(agent.chat_history, errand)
    assert agent.finished == errand.tokens
    assert all(token in agent.chat_history[-1].text for token in errand.tokens)
    assert not is_right(agent.chat_history[:-1], errand)
    assert not is_right(agent.chat_history, Errand("OTHER"))


async def test_the_model_goes_on_where_an_answer_was_cut_off() -> None:
    errand = Errand("WORD")
    begun = Message.assistant("WORD is", partial=True)
    result = await generate(ScriptedKimi(answer), "", [], [Message.user(errand.question), begun])
    assert result.message.text == " done"


@pytest.mark.parametrize(("findings", "code"), [([], 0), ([Finding(7, "results lost", "it is gone")], 1)])
def test_a_campaign_that_found_something_fails_and_says_how_to_see_it_again(
    findings: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(5, findings=findings)
    monkeypatch.setattr(campaign, "play_share", lambda *_: report)
    assert campaign.main(["--only", "7", "--seed", "3"]) == code
    printed = capsys.readouterr().out
    assert ("--seed 3 --only 7" in printed) == bool(findings)
    for kind in MUST_BE_ZERO:
        assert kind in printed


def test_parts_of_a_campaign_begin_with_a_conversation_and_are_summed_up() -> None:
    parts = campaign.shares(1203)
    assert [number for part in parts for number in part] == list(range(1203))
    assert all(part.start % talk.TALK == 0 for part in parts)
    whole = Report()
    for number in range(3):
        part = Report(10, findings=[Finding(number, "results lost", "")])
        part.injected["late"] = 2
        whole.add(part)
    assert (whole.rounds, whole.injected["late"], len(whole.findings)) == (30, 6, 3)
    assert re.search(r"results lost +3\n", whole.table())
