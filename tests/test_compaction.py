"""Fewer tokens for what was said before, and nothing lost when that fails."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kimi_agent.errors import (
    APIConnectionError,
    APIEmptyResponseError,
    ChatProviderError,
    ContextLengthError,
    PromptError,
    ServerError,
    UsageLimitExceeded,
)
from kimi_agent.events import HistoryCompacted, RequestSent
from kimi_agent.history import problems
from kimi_agent.message import ImageURLPart, Message, TextPart, ThinkPart, ToolCall
from kimi_agent.prompt.compaction import (
    Compacted,
    Compaction,
    CompactionTask,
    Compactor,
    DropToolOutput,
    ExtractFacts,
    NoCompaction,
    SummarizeChunks,
    SummarizeHistory,
    compacted,
    is_compacted,
)
from kimi_agent.prompt.tokens import REQUEST_COST, message_cost, quickly_counted
from kimi_agent.testing import Failure, Gate, HangUp, Reply, ScriptedKimi, call, say
from kimi_agent.testing.script import Delivery, ScriptSource


def cost(messages: Iterable[Message]) -> int:
    return sum(map(message_cost, messages))


def exchange(*results: str, reasoning: str | None = None, name: str = "look") -> list[Message]:
    """An assistant message with a call per result, and the results."""
    calls = [
        ToolCall(id=f"c{number}", function=ToolCall.FunctionBody(name=name, arguments=f'{{"n": {number}}}'))
        for number in range(len(results))
    ]
    thoughts = () if reasoning is None else (ThinkPart(think=reasoning),)
    answers = [Message.tool(text, f"c{number}", name=name) for number, text in enumerate(results)]
    return [Message.assistant(thoughts, tool_calls=calls), *answers]


def long(text: str, words: int = 100) -> str:
    return f"{text} " + "word " * words


def task_of(script: ScriptSource | None = None, *, budget: int = 0, window: int = 262_144, **fields: Any):
    provider = ScriptedKimi((lambda _: say("short")) if script is None else script, context_window=window)
    return CompactionTask(provider=provider, budget=budget, cost=cost, **fields)


def asked(task: CompactionTask) -> list[str]:
    """What the user says in each request for a summary."""
    assert isinstance(task.provider, ScriptedKimi)
    return [request.history[-1].text for request in task.provider.requests]


CHAT = [
    *[message for number in range(6) for message in (Message.user(long(f"q{number}")), Message.assistant(f"a{number}"))]
]
LOOP = [Message.user("find it"), *[message for number in range(8) for message in exchange(long(f"r{number}"))]]


def copy_of(history: Sequence[Message]) -> list[Message]:
    return [message.copy_with() for message in history]


# ==== what holds for all compactors ====

words = st.integers(0, 60).map(lambda number: "word " * number)
groups = st.one_of(
    words.map(lambda text: [Message.user(text)]),
    words.map(lambda text: [Message.assistant((ThinkPart(think=text), TextPart(text=text + "end")))]),
    words.map(lambda text: [Message.system(text)]),
    st.lists(words, min_size=1, max_size=3).map(lambda results: exchange(*results, reasoning="so")),
)
histories = st.lists(groups, max_size=14).map(lambda parts: [message for part in parts for message in part])
strays = st.lists(
    st.one_of(groups.map(lambda part: part[0]), groups.map(lambda part: part[-1]), st.builds(lambda: exchange("x")[1])),
    max_size=14,
)
answers = st.sampled_from(["short", "word " * 80])
compactors = st.one_of(
    st.just(NoCompaction()),
    st.builds(DropToolOutput, st.integers(0, 4), st.sampled_from([0, 20, 200])),
    st.builds(SummarizeHistory, st.integers(1, 5)),
    st.builds(SummarizeChunks, st.sampled_from([1, 50, 200]), keep_last=st.integers(1, 3)),
    st.builds(ExtractFacts, st.just(["name"]), st.integers(1, 3)),
)
budgets = st.sampled_from([0, 100, 400, 5000])
few = settings(max_examples=40, suppress_health_check=list(HealthCheck))


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def compact(compactor: Compactor, history: Sequence[Message], budget: int, answer: str):
    return run(compactor.compact(history, task_of(lambda _: say(answer), budget=budget)))


def newest_user(history: Sequence[Message]) -> Message | None:
    return next(
        (message for message in reversed(history) if message.role == "user" and not is_compacted(message)), None
    )


def newest_exchange(history: Sequence[Message]) -> list[Message]:
    start = len(history) - 1
    while start > 0 and history[start].role == "tool":
        start -= 1
    return list(history[start:])


@few
@given(compactors, histories, budgets, answers)
def test_the_result_costs_less_and_can_be_sent(compactor: Compactor, history: list[Message], budget: int, answer: str):
    before = copy_of(history)
    new = compact(compactor, history, budget, answer)
    assert history == before
    if new is not None:
        assert cost(new) < cost(history)
        assert problems(new) == []


@few
@given(compactors, histories, budgets, answers)
def test_the_newest_user_message_and_the_newest_exchange_stay_as_they_are(
    compactor: Compactor, history: list[Message], budget: int, answer: str
):
    new = compact(compactor, history, budget, answer)
    if new is not None:
        newest = newest_exchange(history)
        assert all(one is other for one, other in zip(new[-len(newest) :], newest, strict=True))
        user = newest_user(history)
        assert user is None or sum(message is user for message in new) == 1
        assert newest_user(new) is user


@few
@given(compactors, st.one_of(histories, strays), budgets)
def test_an_exchange_is_taken_or_left_as_a_whole(compactor: Compactor, history: list[Message], budget: int):
    def caller(messages: Sequence[Message], index: int) -> Message | None:
        return next((message for message in reversed(messages[:index]) if message.role == "assistant"), None)

    new = compact(compactor, history, budget, "short")
    if new is not None:
        kept = {id(message) for message in new}
        for index, message in enumerate(new):
            if message.role == "tool" and any(message is old for old in history):
                place = next(place for place, old in enumerate(history) if old is message)
                assert caller(new, index) is caller(history, place)
        for start, message in enumerate(history):
            if message.tool_calls and message.role == "assistant" and id(message) in kept:
                number = len(results_of(history, start))
                place = next(place for place, other in enumerate(new) if other is message)
                assert len(results_of(new, place)) == number


def results_of(history: Sequence[Message], start: int) -> list[Message]:
    end = next((i for i in range(start + 1, len(history)) if history[i].role == "assistant"), len(history))
    return [message for message in history[start:end] if message.role == "tool"]


@few
@given(compactors, histories)
def test_kept_turns_keep_their_reasoning(compactor: Compactor, history: list[Message]):
    new = compact(compactor, history, 100, "short")
    for message in new or ():
        if message.role == "assistant":
            assert any(message is old for old in history)


@few
@given(st.lists(compactors, max_size=4), histories, budgets, answers)
def test_several_in_a_row_keep_to_the_same_rules(
    several: list[Compactor], history: list[Message], budget: int, answer: str
):
    result: Compacted = run(compacted(history, several, task_of(lambda _: say(answer), budget=budget)))
    assert result.tokens_after == cost(result.history) <= result.tokens_before == cost(history)
    assert problems(result.history) == []
    assert result.fits == (cost(result.history) <= budget)
    assert bool(result.by) == (result.tokens_after < result.tokens_before)


# ==== tool output ====


async def test_old_results_are_shortened_the_oldest_first_until_the_history_fits():
    whole = cost(LOOP)
    one_less = await DropToolOutput(1, 20).compact(LOOP, task_of(budget=whole - 10))
    assert one_less is not None
    assert [message is old for message, old in zip(one_less, LOOP, strict=True)].index(False) == 2
    assert sum(map(is_compacted, one_less)) == 1
    everything = await DropToolOutput(3, 20).compact(LOOP, task_of())
    assert everything is not None
    assert [is_compacted(message) for message in everything if message.role == "tool"] == [True] * 5 + [False] * 3


async def test_the_newest_result_always_stays_whole():
    new = await DropToolOutput(0, 20).compact(LOOP, task_of())
    assert new is not None
    assert [is_compacted(message) for message in new if message.role == "tool"] == [True] * 7 + [False]


async def test_a_shortened_result_says_so_and_is_not_shortened_again():
    compactor = DropToolOutput(1, 20)
    once = await compactor.compact(LOOP, task_of())
    assert once is not None
    assert once[2].text == (
        "r0 word word word...\n"
        "[483 characters of this old result are left out; call the function again if they are needed]"
    )
    assert once[2].extra == {"compacted": "DropToolOutput"}
    assert (once[2].role, once[2].tool_call_id, once[2].name) == ("tool", "c0", "look")
    assert await compactor.compact(once, task_of()) is None
    assert await DropToolOutput(1, 0).compact(once, task_of()) is None


@few
@given(histories, budgets)
def test_shortening_twice_changes_nothing_more(history: list[Message], budget: int):
    compactor = DropToolOutput(1, 20)
    once = compact(compactor, history, budget, "")
    if once is not None:
        assert compact(compactor, once, budget, "") is None


async def test_pictures_of_old_results_are_left_out_and_named():
    picture = ImageURLPart(image_url=ImageURLPart.ImageURL(url="data:image/png;base64,AAAA"))
    seen = exchange("")
    seen[1] = Message.tool(["a cat", picture, picture], "c0", extra={"mine": 1})
    new = await DropToolOutput(1).compact([*seen, *exchange("new")], task_of())
    assert new is not None
    assert new[1].text.startswith("a cat\n[2 image_url of this old result are left out")
    assert new[1].extra == {"mine": 1, "compacted": "DropToolOutput"}
    assert cost(new) < cost(seen) - 3000


async def test_the_note_of_a_shortened_result_is_a_method():
    class Terse(DropToolOutput):
        def note(self, characters: int, parts: Sequence[object]) -> str:
            return f"-{characters}"

    new = await Terse(1, 0).compact(LOOP, task_of())
    assert new is not None
    assert new[2].text == "-503"


async def test_short_results_and_a_history_that_fits_stay():
    short = [Message.user("q"), *exchange("fine"), *exchange("fine")]
    assert await DropToolOutput(1, 0).compact(short, task_of()) is None
    assert await DropToolOutput(1, 0).compact(LOOP, task_of(budget=cost(LOOP))) is None
    assert await DropToolOutput().compact([], task_of()) is None


# ==== a summary ====


async def test_a_summary_stands_in_for_what_is_old():
    task = task_of([say("They asked six things.")], budget=10_000)
    new = await SummarizeHistory(keep_last=2).compact(CHAT, task)
    assert new is not None
    assert [message.text for message in new[1:]] == [message.text for message in CHAT[-2:]]
    assert new[0].role == "user"
    assert new[0].text.endswith("\n\nThey asked six things.")
    assert new[0].extra == {"compacted": "SummarizeHistory"}
    (request,) = task.provider.requests  # pyright: ignore[reportAttributeAccessIssue]
    assert request.tools == ()
    assert "tools" not in request.body
    assert [message.role for message in request.history] == ["system", "user"]


async def test_the_model_reads_calls_and_results_but_no_old_reasoning():
    old = exchange("found", reasoning="secret thoughts", name="search")
    picture = ImageURLPart(image_url=ImageURLPart.ImageURL(url="data:image/png;base64,AAAA"))
    history = [Message.user(["look at", picture], name="bob"), *old, Message.assistant(long("done")), *CHAT[:2]]
    task = task_of([say("ok")], budget=10_000)
    assert await SummarizeHistory(keep_last=2).compact(history, task) is not None
    (text,) = asked(task)
    assert '[User bob]\nlook at\n[image_url]\n\n[Assistant]\n[Call] search({"n": 0})\n[Result of search]\nfound' in (
        text.replace("\n\n[Result", "\n[Result")
    )
    assert "secret" not in text


async def test_in_a_long_tool_loop_the_question_stays_and_the_summary_stands_before_it():
    task = task_of([say("looked often")], budget=10_000)
    new = await SummarizeHistory(keep_last=1).compact(LOOP, task)
    assert new is not None
    assert [message.role for message in new] == ["user", "user", "assistant", "tool"]
    assert is_compacted(new[0])
    assert new[1] is LOOP[0]
    assert list(new[2:]) == LOOP[-2:]
    assert "find it" in asked(task)[0]  # what was found makes no sense without it


async def test_a_later_summary_includes_the_earlier_one():
    task = task_of([say("first summary"), say("second summary")], budget=10_000)
    summarize = SummarizeHistory(keep_last=1)
    once = await summarize.compact(CHAT, task)
    assert once is not None
    assert await summarize.compact(once, task) is None  # nothing new is old
    twice = await summarize.compact([*once, *CHAT[:4]], task)
    assert twice is not None
    assert "first summary" in asked(task)[1]
    assert [is_compacted(message) for message in twice] == [True, False, False]
    assert newest_user(twice) is CHAT[2]


async def test_a_round_without_a_question_goes_on_from_its_summary():
    once = await SummarizeHistory(1).compact(CHAT[:-1], task_of(budget=10_000))
    assert once is not None
    summary = once[0]
    new = await SummarizeHistory(1).compact([summary, *LOOP[1:]], task_of(budget=10_000))
    assert new is not None
    assert [message.role for message in new] == ["user", "assistant", "tool"]
    assert new[0] is not summary


async def test_several_summaries_become_one():
    chunks = await SummarizeChunks(300, keep_last=2).compact(CHAT, task_of(lambda _: say(long("x", 40)), budget=10_000))
    assert chunks is not None
    assert sum(map(is_compacted, chunks)) == 3
    new = await SummarizeHistory(2).compact(chunks, task_of(budget=10_000))
    assert new is not None
    assert sum(map(is_compacted, new)) == 1
    assert list(new[1:]) == CHAT[-2:]


async def test_system_messages_stay_and_an_override_keeps_more():
    class KeepsQuestions(SummarizeHistory):
        def keeps(self, message: Message) -> bool:
            return message.role != "assistant"

    rule = Message.system("Be brief.")
    new = await SummarizeHistory(1).compact([CHAT[0], rule, *CHAT[1:]], task_of(budget=10_000))
    assert new is not None
    assert new[0] is rule
    history = [Message.user("a"), Message.assistant(long("b")), *exchange(long("c")), *CHAT[-2:]]
    new = await KeepsQuestions(1).compact(history, task_of(budget=10_000))
    assert new is not None
    assert [message.role for message in new] == ["user", "assistant", "tool", "user", "user", "assistant"]


async def test_fewer_messages_stay_when_they_take_more_than_half_of_the_budget():
    new = await SummarizeHistory(8).compact(LOOP, task_of(budget=900))
    assert new is not None
    assert 1 < sum(message.role == "tool" for message in new) < 4
    assert cost(new) < 900


async def test_a_summary_that_costs_more_than_the_messages_is_not_taken():
    history = [Message.user("a"), Message.assistant("b"), Message.user("c")]
    assert await SummarizeHistory(1).compact(history, task_of([say(long("x"))])) is None


async def test_a_history_with_nothing_old_is_not_sent():
    task = task_of([])
    for history in ([], CHAT[:1], CHAT[:2], LOOP[:3]):
        assert await SummarizeHistory(4).compact(history, task_of([], budget=10_000)) is None
    assert await SummarizeHistory(1).compact([Message.user(long("q")), *exchange("x")], task) is None
    assert asked(task) == []


async def test_every_sentence_is_a_method():
    class Mine(SummarizeHistory):
        def system_prompt(self) -> str:
            return "S"

        def request(self, transcript: str, so_far: str) -> str:
            return f"{self.instructions}|{transcript}"

        def speaker(self, message: Message) -> str:
            return message.role

        def call(self, call: ToolCall) -> str:
            return call.name

        def summary(self, text: str) -> str:
            return f"={text}"

    task = task_of([say("ok")], budget=10_000)
    new = await Mine(1, "I").compact([*exchange(long("x")), Message.assistant("b"), Message.user("c")], task)
    assert new is not None
    assert new[0].text == "=ok"
    request = task.provider.requests[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert [message.text for message in request.history] == [
        "S",
        f"I|assistant\nlook\n\ntool\n{long('x')}\n\nassistant\nb",
    ]


async def test_the_prompt_is_counted_before_and_the_answer_after_each_request():
    expected: list[int] = []
    results: list[str] = []
    sent: list[RequestSent] = []
    task = task_of(
        [say("ok")],
        budget=10_000,
        before_request=expected.append,
        on_answer=lambda result: results.append(result.message.text),
        on_event=lambda event: sent.append(event) if isinstance(event, RequestSent) else None,
        overrides={"safety_identifier": "me"},
    )
    assert await SummarizeHistory(1).compact(CHAT, task) is not None
    request = task.provider.requests[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert expected == [REQUEST_COST + cost(request.history)]
    assert results == ["ok"]
    assert len(sent) == 1
    assert request.body["safety_identifier"] == "me"


# ==== a request that does not fit ====


def answer_or_refuse(window: int) -> Callable[[Any], Any]:
    """Refuses prompts as a model with that window would."""

    def answer(body: Any) -> Any:
        length = sum(len(str(message["content"])) for message in body["messages"]) // 4
        if length > window:
            return Failure(400, "invalid_request_error", "Your request exceeded model token limit: 10")
        return say(f"summary {length}")

    return answer


async def test_what_fits_no_request_goes_in_several_each_with_the_summary_before():
    task = task_of([say("part 1"), say("part 2"), say("part 3")], window=2000, budget=10_000)
    history = [Message.user(long(f"m{number}", 600)) for number in range(7)]
    new = await SummarizeHistory(1).compact(history, task)
    assert new is not None
    assert new[0].text.endswith("part 3")
    inside = [[number for number in range(7) if f"m{number}" in text] for text in asked(task)]
    assert inside == [[0, 1], [2, 3], [4, 5]]
    assert ["part 1" in text for text in asked(task)] == [False, True, False]
    assert ["part 2" in text for text in asked(task)] == [False, False, True]


async def test_a_message_longer_than_a_request_keeps_its_beginning_and_its_end():
    task = task_of([say("ok")], window=2000, budget=10_000)
    text = "BEGIN " + "word " * 10_000 + " END"
    assert await SummarizeHistory(2).compact([Message.user(text), *CHAT[-2:]], task) is not None
    (sent,) = asked(task)
    assert "BEGIN" in sent
    assert "END" in sent
    assert "characters are left out]" in sent
    assert 1000 < cost((Message.user(sent),)) < 2000


async def test_a_window_smaller_than_it_is_said_to_be_gets_smaller_requests():
    task = task_of(answer_or_refuse(300), window=2000, budget=10_000)
    new = await SummarizeHistory(1).compact([*CHAT, *CHAT], task)
    assert new is not None
    assert len(asked(task)) > 3


async def test_a_window_that_takes_nothing_is_an_error_after_a_few_requests():
    task = task_of(answer_or_refuse(0), budget=10_000)
    with pytest.raises(ContextLengthError):
        await SummarizeHistory(1).compact([*CHAT, *CHAT], task)
    assert len(asked(task)) == 4
    lengths = [len(text) for text in asked(task)]
    assert lengths == sorted(set(lengths), reverse=True)


async def test_a_window_without_room_for_a_request_is_an_error():
    task = task_of([], window=300)
    with pytest.raises(PromptError, match="larger window"):
        await SummarizeHistory(1).compact(CHAT, task)
    assert asked(task) == []


@few
@given(st.lists(st.integers(0, 700), min_size=2, max_size=8), st.integers(700, 3000))
def test_every_request_fits_the_window(lengths: list[int], window: int):
    task = task_of(budget=10_000, window=window)
    run(SummarizeHistory(1).compact([Message.user("word " * length + "x") for length in lengths], task))
    for request in task.provider.requests:  # pyright: ignore[reportAttributeAccessIssue]
        assert REQUEST_COST + cost(request.history) <= window - window // 8


@pytest.mark.parametrize("make", [SummarizeHistory, SummarizeChunks, DropToolOutput])
async def test_long_texts_are_counted_off_the_event_loop(make: Any):
    here: list[int] = []

    def watched(messages: Sequence[Message]) -> int:
        if threading.current_thread() is threading.main_thread():
            here.extend(len(message.text) for message in messages if not quickly_counted([message]))
        return cost(messages)

    history = [Message.user("word " * 60_000), *exchange("word " * 60_000), *LOOP]
    task = CompactionTask(provider=ScriptedKimi(lambda _: say("ok")), budget=10_000, cost=watched)
    assert (await compacted(history, [make()], task)).tokens_after < cost(history)
    assert here == []


# ==== chunks and facts ====


async def test_each_chunk_gets_its_summary_in_order():
    def answer(body: Any) -> Any:
        text = body["messages"][-1]["content"]
        return say("saw " + " ".join(f"q{number}" for number in range(6) if f"q{number} " in text))

    task = task_of(answer, budget=10_000)
    new = await SummarizeChunks(300, keep_last=2).compact(CHAT, task)
    assert new is not None
    assert [message.text.rpartition("\n\n")[2] for message in new if is_compacted(message)] == [
        "saw q0 q1",
        "saw q2 q3",
        "saw q4",
    ]
    assert list(new[3:]) == CHAT[-2:]


async def test_no_more_chunks_are_under_way_than_allowed():
    under_way, most = 0, 0

    async def answer(_: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(3):
            await asyncio.sleep(0)
        under_way -= 1
        return say("ok")

    assert await SummarizeChunks(1, keep_last=1, parallel=3).compact(CHAT, task_of(answer, budget=10_000)) is not None
    assert most == 3


async def test_a_chunk_that_fails_stops_the_others():
    gate = Gate(0)
    steps = [Reply("never", delivery=Delivery(gate=gate)), Failure(500, "server_error", "broken")]
    with pytest.raises(ServerError):
        await SummarizeChunks(300, keep_last=2, parallel=2).compact(CHAT, task_of(steps, budget=10_000))
    assert len(asyncio.all_tasks()) == 1


async def test_facts_are_asked_for_by_concept():
    task = task_of([say("Name: Ada")], budget=10_000)
    facts = ExtractFacts({"name": "what the user is called", "age": ""}, keep_last=2)
    new = await facts.compact(CHAT, task)
    assert new is not None
    assert new[0].text.endswith("\n\nName: Ada")
    assert new[0].extra == {"compacted": "ExtractFacts"}
    assert "- name: what the user is called\n- age\n" in asked(task)[0]
    with pytest.raises(ValueError, match="concept"):
        ExtractFacts([])


@pytest.mark.parametrize(
    "make",
    [
        lambda: SummarizeHistory(0),
        lambda: SummarizeChunks(0),
        lambda: SummarizeChunks(parallel=0),
        lambda: DropToolOutput(-1),
        lambda: DropToolOutput(keep_characters=-1),
        lambda: Compaction([], at=0.4),
        lambda: Compaction([], at=1.5),
        lambda: Compaction([], down_to=0),
    ],
)
def test_a_number_out_of_its_range_is_refused(make: Callable[[], object]):
    with pytest.raises(ValueError):
        make()


# ==== failures ====

FAILURES = [
    (Reply("half a summ", finish_reason="length"), ChatProviderError),
    (Reply("no", finish_reason="content_filter"), ChatProviderError),
    (Reply(""), APIEmptyResponseError),
    (Reply("  \n"), APIEmptyResponseError),
    (Reply(tool_calls=[call("look")]), APIEmptyResponseError),
    (Reply("broken off", delivery=Delivery(stop_after=200)), APIConnectionError),
    (HangUp(), APIConnectionError),
    (Failure(500, "server_error", "broken"), ServerError),
]


@pytest.mark.parametrize(("answer", "error"), FAILURES)
@pytest.mark.parametrize("make", [SummarizeHistory, SummarizeChunks, lambda: ExtractFacts(["x"])])
async def test_a_failed_summary_is_an_error_and_changes_nothing(answer: Any, error: type[Exception], make: Any):
    history = list(CHAT)
    before = copy_of(history)
    with pytest.raises(error):
        await make().compact(history, task_of(lambda _: answer, budget=100))
    assert history == before


@pytest.mark.parametrize(("answer", "error"), FAILURES)
async def test_after_a_failed_summary_the_next_compactor_is_tried(answer: Any, error: type[Exception]):
    several = [SummarizeHistory(1), DropToolOutput(1, 20)]
    task = task_of(lambda _: answer, budget=cost(LOOP) * 3 // 4)
    result = await compacted(LOOP, several, task)
    assert result.fits
    assert result.by == (several[1],)


@pytest.mark.parametrize(("answer", "error"), FAILURES)
async def test_the_error_of_a_failed_summary_comes_out_if_nothing_fits(answer: Any, error: type[Exception]):
    history = list(LOOP)
    with pytest.raises(error) as raised:
        await compacted(history, [DropToolOutput(4, 20), SummarizeHistory(1)], task_of(lambda _: answer, budget=150))
    assert "was to be compacted to 150" in raised.value.__notes__[0]
    assert all(one is other for one, other in zip(history, LOOP, strict=True))


@pytest.mark.parametrize("make", [SummarizeHistory, lambda: SummarizeChunks(300)])
async def test_a_cancelled_summary_changes_nothing_and_leaves_nothing_running(make: Any):
    history, gate = list(CHAT), Gate(0)
    task = task_of(lambda _: Reply("never", delivery=Delivery(gate=gate)), budget=100)
    running = asyncio.create_task(compacted(history, [make()], task))
    await gate.reached()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert all(one is other for one, other in zip(history, CHAT, strict=True))
    assert len(asyncio.all_tasks()) == 1


async def test_what_the_check_before_a_request_raises_comes_out_at_once():
    def refuse(tokens: int) -> None:
        raise UsageLimitExceeded("enough")

    task = task_of([], budget=100, before_request=refuse)
    for compactor in (SummarizeHistory(1), SummarizeChunks(300, keep_last=1)):
        with pytest.raises(UsageLimitExceeded):
            await compacted(LOOP, [compactor, DropToolOutput(1, 0)], task)
    assert asked(task) == []


async def test_answers_that_are_of_no_use_are_counted_too():
    counted: list[object] = []
    task = task_of([Reply("half", finish_reason="length")], budget=100, on_answer=counted.append)
    with pytest.raises(ChatProviderError, match="cut off"):
        await SummarizeHistory(1).compact(CHAT, task)
    assert len(counted) == 1


# ==== several in a row ====


class Fixed:
    """Gives what it was made with."""

    def __init__(self, result: Sequence[Message] | Exception | None) -> None:
        self.result = result
        self.asked = 0

    async def compact(self, history: Sequence[Message], task: CompactionTask) -> Sequence[Message] | None:
        self.asked += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


async def test_the_first_that_makes_it_fit_is_the_last_that_is_tried():
    first, second, third = Fixed(None), Fixed(CHAT[-2:]), Fixed([])
    result = await compacted(CHAT, [first, second, third], task_of(budget=200))
    assert result.history == tuple(CHAT[-2:])
    assert result.by == (second,)
    assert (first.asked, second.asked, third.asked) == (1, 1, 0)
    assert result.event == HistoryCompacted(12, 2, cost(CHAT), cost(CHAT[-2:]), ("Fixed",))


async def test_each_goes_on_with_what_the_one_before_made():
    several = [DropToolOutput(1, 20), SummarizeHistory(1)]
    task = task_of([say("ok")], budget=300)
    result = await compacted(LOOP, several, task)
    assert result.by == tuple(several)
    assert result.fits
    assert "are left out; call the function again" in asked(task)[0]


async def test_a_history_that_fits_is_left_alone():
    never = Fixed([])
    result = await compacted(CHAT, [never], task_of(budget=cost(CHAT)))
    assert (result.history, result.by, result.fits, never.asked) == (tuple(CHAT), (), True, 0)


@pytest.mark.parametrize("worse", [CHAT, [*CHAT, Message.user("more")]])
async def test_what_costs_no_less_is_not_taken(worse: list[Message]):
    result = await compacted(CHAT, [Fixed(worse)], task_of(budget=10))
    assert (result.history, result.by, result.fits) == (tuple(CHAT), (), False)


async def test_a_compactor_that_splits_an_exchange_is_told_so():
    with pytest.raises(PromptError, match="Fixed made a history that cannot be sent: message 0 answers 'c0'"):
        await compacted(LOOP, [Fixed(LOOP[-1:])], task_of(budget=10))
    result = await compacted(LOOP, [Fixed(LOOP[-1:]), Fixed(LOOP[-2:])], task_of(budget=200))
    assert result.history == tuple(LOOP[-2:])


async def test_a_history_that_could_not_be_sent_before_is_no_fault_of_the_compactor():
    result = await compacted([Message.assistant(), *LOOP[1:-1]], [DropToolOutput(1, 0)], task_of(budget=1000))
    assert result.fits


async def test_of_several_failures_the_first_comes_out():
    several = [Fixed(APIConnectionError("first")), Fixed(PromptError("second"))]
    with pytest.raises(APIConnectionError, match="first"):
        await compacted(LOOP, several, task_of(budget=10))


async def test_a_mistake_in_a_compactor_comes_out():
    with pytest.raises(ZeroDivisionError):
        await compacted(LOOP, [Fixed(ZeroDivisionError()), Fixed([])], task_of(budget=10))


async def test_the_result_is_put_into_the_list_that_it_was_made_of():
    history = list(CHAT)
    result = await compacted(history, [Fixed(CHAT[-2:])], task_of(budget=200))
    history.append(Message.user("meanwhile"))
    assert result.put_into(history)
    assert history == [*CHAT[-2:], Message.user("meanwhile")]
    assert not result.put_into(history)
    edited = copy_of(CHAT)
    assert not result.put_into(edited)
    assert edited == CHAT


# ==== when it is due, and whether it gets anywhere ====


def test_compaction_is_due_above_a_share_of_the_window():
    compaction = Compaction(DropToolOutput(), at=0.5, down_to=0.25)
    assert not compaction.is_due(500, 1000)
    assert compaction.is_due(501, 1000)
    assert compaction.budget(1000, 100) == 150
    assert compaction.budget(1000, 400) == 0


@pytest.mark.parametrize("nothing", [NoCompaction(), [], [NoCompaction()]])
def test_without_a_compactor_it_is_never_due(nothing: Any):
    assert not Compaction(nothing).is_due(10_000, 1000)


async def test_two_runs_in_a_row_without_progress_are_an_error():
    compaction = Compaction([Fixed(None), Fixed(CHAT)])
    task = task_of(budget=10)
    assert not (await compaction.run(CHAT, task)).is_progress
    with pytest.raises(PromptError, match=r"2 compactions in a row made no progress.*compacted to 10; keep less"):
        await compaction.run(CHAT, task)
    assert compaction.gives_up


async def test_progress_begins_the_count_anew():
    stubborn = Fixed(None)
    compaction = Compaction(stubborn)
    task = task_of(budget=10)
    await compaction.run(CHAT, task)
    stubborn.result = CHAT[-4:]  # does not fit either, but is much shorter
    assert (await compaction.run(CHAT, task)).is_progress
    stubborn.result = CHAT[1:]  # next to nothing
    assert (await compaction.run(CHAT[:], task)).is_progress is (cost(CHAT[:1]) * 10 >= cost(CHAT))
    stubborn.result = None
    await compaction.run(CHAT, task)
    with pytest.raises(PromptError):
        await compaction.run(CHAT, task)


async def test_a_long_loop_never_overflows_and_its_question_is_never_lost():
    """A hundred exchanges, compacted whenever they fill the window."""
    compaction = Compaction([DropToolOutput(2, 50), SummarizeHistory(2)], at=0.8, down_to=0.4)
    history, runs, window = [Message.user("find it")], 0, 4000
    for number in range(100):
        history += exchange(long(f"result {number}"), reasoning="hm")
        if compaction.is_due(cost(history), window):
            task = task_of(lambda _: say("looked"), window=window, budget=compaction.budget(window, 0))
            assert (await compaction.run(history, task)).put_into(history)
            runs += 1
        assert cost(history) <= window
        assert problems(history) == []
        assert newest_user(history) is not None
    assert 5 < runs < 30
