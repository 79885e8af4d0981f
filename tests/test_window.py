"""What fits a prompt, and where it begins."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from bench.cache import NEW, bill_of, ours, sliding, turns
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from kimi_agent.errors import MessageTooLong, PromptTooLong
from kimi_agent.history import problems, repair
from kimi_agent.message import Message, ToolCall
from kimi_agent.prompt.counting import ESTIMATE
from kimi_agent.prompt.tokens import message_cost
from kimi_agent.prompt.window import Fit, Window, assemble, fit

FIXED = 40


def exchange(*results: str, ids: Sequence[str] | None = None) -> list[Message]:
    """An assistant message with a call per result, and the results."""
    ids = ids or [f"c{number}" for number in range(len(results))]
    calls = [ToolCall(id=name, function=ToolCall.FunctionBody(name="look", arguments="{}")) for name in ids]
    answers = [Message.tool(text, name, name="look") for name, text in zip(ids, results, strict=True)]
    return [Message.assistant(tool_calls=calls), *answers]


def turn(question: str, *middle: Message, answer: str = "fine") -> list[Message]:
    return [Message.user(question), *middle, Message.assistant(answer)]


def cost(messages: Sequence[Message]) -> int:
    return sum(map(message_cost, messages))


def fitted(history: Sequence[Message], budget: int, *, pinned: Sequence[Message] = (), **options) -> Fit:
    return fit(pinned, history, fixed=FIXED, budget=budget, **{"trim_ratio": 0.75, **options})


def kept(history: Sequence[Message], budget: int, **options) -> list[Message]:
    return assemble(options.get("pinned", ()), history, fitted(history, budget, **options))


CHAT = [message for number in range(20) for message in turn(f"question {number} " + "word " * 20)]

text = st.integers(0, 40).map(lambda words: "word " * words)
exchanges = st.lists(text, min_size=1, max_size=3).map(lambda results: exchange(*results))
messages = st.one_of(
    text.map(lambda words: [Message.user(words)]),
    text.map(lambda words: [Message.assistant(words + "end")]),
    text.map(lambda words: [Message.system(words)]),
    exchanges,
)
histories = st.lists(messages, max_size=25).map(lambda groups: [message for group in groups for message in group])
scales = st.sampled_from([0.5, 1.0, 1.3, 4.0])
ratios = st.sampled_from([0.0, 0.3, 0.75, 1.0])


def newest_exchange(history: Sequence[Message]) -> list[Message]:
    """By the plain definition, for histories without strays."""
    start = len(history) - 1
    while history[start].role == "tool":
        start -= 1
    return list(history[start:])


def newest_user(history: Sequence[Message]) -> int | None:
    return max((index for index, message in enumerate(history) if message.role == "user"), default=None)


def essential(history: Sequence[Message]) -> list[Message]:
    """What is never cut."""
    newest = newest_exchange(history) if history else []
    user = newest_user(history)
    return newest if user is None or user >= len(history) - len(newest) else [history[user], *newest]


# ==== what fits ====


def test_everything_is_kept_while_it_fits():
    assert kept(CHAT, cost(CHAT) + FIXED, pinned=()) == CHAT
    assert fitted(CHAT, cost(CHAT) + FIXED) == Fit(0, None, cost(CHAT) + FIXED)


def test_one_token_less_cuts_down_to_the_trim_ratio():
    budget = cost(CHAT) + FIXED - 1
    whole = fitted(CHAT, budget)
    assert 0 < whole.start < len(CHAT)
    assert whole.tokens <= 0.75 * budget
    assert whole.tokens + message_cost(CHAT[whole.start - 1]) > 0.75 * budget


def test_an_empty_history_gives_the_pinned_messages_alone():
    pinned = [Message.system("be terse")]
    assert fitted([], 1000, pinned=pinned) == Fit(0, None, FIXED + cost(pinned))
    assert assemble(pinned, [], Fit(0, None, 0)) == pinned


def test_pinned_messages_come_first_and_are_always_there():
    pinned = [Message.system("be terse"), Message.user("remember this")]
    prompt = kept(CHAT, 500, pinned=pinned)
    assert prompt[:2] == pinned
    assert prompt[-1] is CHAT[-1]


@given(histories, st.integers(0, 1500), ratios, scales)
def test_a_prompt_fits_and_has_what_must_be_there_or_the_error_says_so(history, budget, ratio, scale):
    limit = int(budget / scale) - FIXED
    try:
        whole = fitted(history, budget, trim_ratio=ratio, scale=scale)
    except PromptTooLong:
        assert limit < 0
        return
    except MessageTooLong:
        assert cost(essential(history)) > limit >= 0
        return
    prompt = assemble([], history, whole)
    assert whole.tokens == cost(prompt) + FIXED
    assert whole.tokens * scale <= budget
    places = {id(message) for message in prompt}
    assert all(id(message) in places for message in essential(history))


@given(histories, st.integers(100, 1500), ratios)
def test_no_exchange_is_split(history, budget, ratio):
    try:
        prompt = kept(history, budget, trim_ratio=ratio)
    except MessageTooLong:
        assume(False)
    assert problems(prompt) == []
    assert not prompt or prompt[0].role != "tool"


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # few histories overflow, and those are asked about
@given(histories, st.integers(100, 1500), ratios)
def test_after_an_overflow_the_rest_of_the_budget_is_free(history, budget, ratio):
    try:
        whole = fitted(history, budget, trim_ratio=ratio)
    except MessageTooLong:
        assume(False)
    assume(whole.start > 0)
    user = newest_user(history)
    since_the_question = history[user:] if user is not None else []
    alone = [cost(essential(history)) + FIXED]
    if cost(since_the_question) + FIXED <= budget:
        alone.append(cost(since_the_question) + FIXED)
    assert whole.tokens <= max(ratio * budget, *alone, 0)


@given(histories, st.integers(100, 1500), ratios)
def test_everything_after_the_newest_user_message_is_kept_if_it_fits(history, budget, ratio):
    user = newest_user(history)
    assume(user is not None and cost(history[user:]) + FIXED <= budget)
    whole = fitted(history, budget, trim_ratio=ratio)
    assert whole.anchor is None
    assert whole.start <= user


@given(histories, st.integers(100, 1500), ratios, st.data())
def test_the_cut_stays_until_it_overflows(history, budget, ratio, data):
    groups = data.draw(st.lists(messages, min_size=1, max_size=20))
    growing = [*history]
    cut = 0
    for group in groups:
        growing += group
        try:
            whole = fitted(growing, budget, trim_ratio=ratio, cut=cut)
        except MessageTooLong:
            assume(False)
        before = Fit(cut, anchor if (anchor := newest_user(growing)) is not None and anchor < cut else None, 0)
        stays = cost(assemble([], growing, before)) + FIXED <= budget
        assert (whole.start == cut) == stays or growing[cut].role == "tool"
        assert whole.start >= cut
        cut = whole.start


def test_older_exchanges_of_a_long_round_go_and_its_question_stays():
    rounds = [exchange("result " * 30) for _ in range(10)]
    history = [*turn("earlier"), Message.user("the question"), *(message for one in rounds for message in one)]
    whole = fitted(history, 400)
    assert whole.anchor == 2
    assert whole.start > 4
    prompt = assemble([], history, whole)
    assert prompt[0].text == "the question"
    assert prompt[-2:] == rounds[-1]
    assert problems(prompt) == []


def test_a_long_round_keeps_its_cut_while_it_fits():
    history = [Message.user("the question")]
    starts = []
    cut = 0
    for _ in range(30):
        history += exchange("result " * 10)
        cut = fitted(history, 800, cut=cut).start
        starts.append(cut)
    moves = sum(before != after for before, after in pairwise(starts))
    assert 2 <= moves <= 8


@pytest.mark.parametrize("budget", range(250, 900, 37))
def test_a_long_round_fits_at_every_length(budget):
    history = [Message.user("the question " + "word " * 50)]
    cut = 0
    for _ in range(25):
        history += exchange("result " * 10)
        whole = fitted(history, budget, cut=cut)
        assert whole.tokens == cost(assemble([], history, whole)) + FIXED <= budget
        cut = whole.start


def test_a_question_asked_while_a_call_runs_does_not_part_it_from_its_result():
    history = [*CHAT, *exchange("one"), Message.user("and another thing"), Message.tool("late", "c0", name="look")]
    prompt = kept(history, cost(history[-4:]) + FIXED)
    assert prompt == history[-4:]


def test_a_cut_that_would_part_a_call_from_its_result_moves_on():
    history = [*exchange("one", "two"), *turn("q", *exchange("three"))]
    assert [fitted(history, 10_000, cut=cut).start for cut in range(5)] == [0, 3, 3, 3, 4]


def test_a_cut_beyond_the_newest_exchange_moves_back_to_it():
    history = turn("q", *exchange("one"))[:-1]
    for cut in (2, 3, 99):
        whole = fitted(history, 10_000, cut=cut)
        assert (whole.start, whole.anchor) == (1, 0)


def test_a_stray_result_alone_breaks_nothing():
    stray = [Message.tool("nobody asked", "x")]
    assert kept(stray, 1000) == stray
    assert kept([*stray, *turn("q")], 1000) == turn("q")


def test_without_a_user_message_the_newest_exchange_is_kept():
    history = [message for _ in range(10) for message in exchange("result " * 20)]
    whole = fitted(history, 150)
    assert whole.anchor is None
    assert assemble([], history, whole)[-2:] == history[-2:]


# ==== what does not fit ====


def test_pinned_messages_that_do_not_fit_are_named_with_the_numbers():
    pinned = [Message.system("word " * 200)]
    with pytest.raises(PromptTooLong, match=rf"about {cost(pinned) + FIXED} tokens, and 100 are there"):
        fitted([], 100, pinned=pinned)


def test_a_message_that_does_not_fit_is_named_with_the_numbers():
    history = [*turn("hello"), Message.user("word " * 500)]
    expected = rf"message 2 \(user\) .* about {cost(history[2:])} tokens; {300 - FIXED} are left"
    with pytest.raises(MessageTooLong, match=expected):
        fitted(history, 300)


def test_an_exchange_that_does_not_fit_beside_its_question_is_named():
    history = [Message.user("q"), *exchange("short"), *exchange("word " * 500, "b")]
    with pytest.raises(MessageTooLong, match=r"message 0 \(user\) and the exchange of messages 3 to 5 of the history"):
        fitted(history, 300)


def test_numbers_in_errors_are_real_tokens():
    history = [Message.user("word " * 500)]
    with pytest.raises(MessageTooLong, match=f"about {2 * cost(history)} tokens"):
        fitted(history, 600, scale=2.0)


# ==== what it costs ====


class Watched(list[Message]):
    """A history that knows how often it was looked at, and the oldest message that anybody saw."""

    oldest = 1 << 30
    looks = 0

    def __getitem__(self, index):
        self.looks += 1
        places = range(len(self))[index]
        looked_at = places if isinstance(index, slice) else (places,)
        self.oldest = min(self.oldest, min(looked_at, default=self.oldest))
        return super().__getitem__(index)

    def __iter__(self):
        self.oldest = 0
        return super().__iter__()

    def __reversed__(self):
        for index in range(len(self) - 1, -1, -1):
            yield self[index]


def test_messages_older_than_what_fits_are_not_looked_at():
    history = Watched(CHAT * 50)
    whole = fitted(history, 1000)
    assert history.oldest >= whole.start - 12
    assert whole.start > len(history) - 50


def test_nothing_is_counted_twice_and_nothing_older_at_all(monkeypatch):
    counted: list[Message] = []
    real = message_cost
    monkeypatch.setattr(ESTIMATE, "message_cost", lambda message: counted.append(message) or real(message))
    history = [Message.user(f"{number} " + "word " * 20) for number in range(1000)]
    whole = fitted(history, 1000)
    counted.clear()
    assert fitted(history, 1000) == whole
    assert counted == []
    assert not any("message_cost" in key for key in history[0].__dict__)


def test_a_counted_history_is_taken_in_few_steps():
    history = Watched(CHAT * 250)
    everything = cost(history)
    assert fitted(history, everything + FIXED).start == 0
    history.looks = 0
    assert fitted(history, everything + FIXED).start == 0
    assert history.looks < 100


def test_what_does_not_fit_stays_uncounted_when_the_rest_was_counted():
    old = [Message.user(f"{number} " + "word " * 20) for number in range(1000)]
    cost(CHAT)
    fitted([*old, *CHAT], cost(CHAT) + FIXED)
    assert [ESTIMATE.cost_key in message.__dict__ for message in old] == [False] * 999 + [True]


@given(histories, st.integers(200, 1500), st.lists(st.integers(0, 400), max_size=5), st.data())
def test_it_makes_no_difference_which_messages_were_counted_before(history, budget, long, data):
    history = [*(Message.user("word " * length) for length in long), *history, *CHAT[:6]]
    some = data.draw(st.sets(st.integers(0, len(history) - 1)))
    copies = [message.copy_with() for message in history]
    cost([history[index] for index in some])
    assert fitted(history, budget) == fitted(copies, budget) == fitted(copies, budget)


# ==== the window ====


def test_asking_changes_nothing():
    window = Window()
    for _ in range(3):
        whole = fitted(CHAT, 700, cut=window.start_in(CHAT))
        assert whole.start > 0
        assert window.start_in(CHAT) == 0


def test_the_window_finds_its_first_message_again_after_edits():
    window = Window()
    history = list(CHAT)
    window.move_to(history, 7)
    assert window.start_in(history) == 7
    history.insert(0, Message.user("before"))
    assert window.start_in(history) == 8
    del history[:3]
    assert window.start_in(history) == 5
    history.reverse()
    assert history[window.start_in(history)] is CHAT[7]


def test_the_window_starts_at_the_beginning_when_its_message_is_gone():
    window = Window()
    history = list(CHAT)
    window.move_to(history, 7)
    del history[7]
    assert window.start_in(history) == 0
    history.clear()
    assert window.start_in(history) == 0


def test_an_equal_message_is_not_the_same_message():
    window = Window()
    history = [Message.user("same"), Message.assistant("a"), Message.user("same"), Message.assistant("b")]
    window.move_to(history, 2)
    del history[2]
    assert window.start_in(history) == 0


def test_moving_to_the_beginning_keeps_what_is_inserted_before_it():
    window = Window()
    history = list(CHAT)
    window.move_to(history, 0)
    history.insert(0, Message.user("before"))
    assert window.start_in(history) == 0


EDITS = ["insert", "delete", "replace", "reverse", "clear", "shuffle", "append", "double"]


def edit(history: list[Message], kind: str, seed: int) -> None:
    dice = random.Random(seed)
    place = dice.randrange(len(history) + 1)
    match kind:
        case "insert":
            history[place:place] = dice.choice([exchange("x"), [Message.user("y")], [Message.tool("stray", "c9")]])
        case "delete":
            del history[place : place + dice.randrange(1, 4)]
        case "replace":
            history[place : place + 1] = [Message.user("new")]
        case "reverse":
            history.reverse()
        case "clear":
            history.clear()
        case "shuffle":
            dice.shuffle(history)
        case "append":
            history += exchange("more", "and more")
        case _:
            history += history


@given(histories, st.lists(st.tuples(st.sampled_from(EDITS), st.integers(0, 99)), max_size=6), st.integers(300, 1500))
def test_a_history_edited_in_any_way_still_gives_a_prompt_that_fits(history, edits, budget):
    window = Window()
    history = list(history)
    for kind, seed in edits:
        edit(history, kind, seed)
        try:
            whole = fitted(history, budget, cut=window.start_in(history))
        except MessageTooLong:
            continue
        window.move_to(history, whole.start)
        prompt = assemble([], history, whole)
        assert whole.tokens == cost(prompt) + FIXED <= budget
        assert not history or prompt[-1] is history[-1]
        assert problems(repair(prompt, interrupted="cut")) == []


# ==== what the server says ====


def learn(window: Window, estimated: int, actual: int) -> None:
    window.expected = estimated
    window.correct(actual)


def test_the_scale_follows_the_server():
    window = Window()
    for _ in range(3):
        learn(window, 1000, 1200)
    assert window.scale == pytest.approx(1.2)


def test_small_prompts_teach_nothing():
    window = Window()
    learn(window, 100, 400)
    learn(window, 400, 100)
    learn(window, 0, 0)
    assert window.scale == 1.0


def test_one_odd_answer_moves_the_scale_by_a_quarter_and_the_next_one_back():
    window = Window()
    learn(window, 1000, 90_000)
    assert window.scale == pytest.approx(1.25)
    learn(window, 1000, 1000)
    assert window.scale == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=30))
def test_the_scale_stays_within_its_bounds(answers):
    window = Window()
    for estimated, actual in answers:
        learn(window, estimated, actual)
        assert 0.5 <= window.scale <= 4


def test_a_steady_factor_is_reached_even_when_it_is_large():
    window = Window()
    for _ in range(10):
        learn(window, 1000, 3000)
    assert window.scale == pytest.approx(3.0)


# ==== what it saves ====


def test_most_of_a_long_conversation_is_cached_and_a_sliding_window_costs_four_times_as_much():
    our, slid = bill_of(ours(), 120), bill_of(sliding(), 120)
    assert our.share > 0.9
    assert 4 * our.price < slid.price


def test_every_simulated_turn_adds_as_much():
    assert {cost(added) for added in turns(20)} == {NEW}


def test_what_overflows_nothing_costs_the_same_in_any_window():
    assert bill_of(ours(), 50) == bill_of(sliding(), 50)
