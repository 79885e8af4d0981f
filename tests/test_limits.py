"""What was used, what it costs, and what is refused before it is spent."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_agent.errors import KimiAgentError, UsageLimitExceeded
from kimi_agent.kimi.models import MODELS, Prices, model_info
from kimi_agent.limits import Spent, UsageLimits, cost_of
from kimi_agent.message import Message, TokenUsage
from kimi_agent.tools.allowance import LoopGuard

PRICES = Prices(input=2.0, cached_input=0.2, output=10.0)
USAGE = TokenUsage(input_other=100_000, input_cache_read=900_000, output=50_000)

few = settings(max_examples=40)
counts = st.integers(0, 1_000_000)
usages = st.builds(TokenUsage, input_other=counts, output=counts, input_cache_read=counts, input_cache_creation=counts)
prices = st.none() | st.builds(Prices, *[st.sampled_from([0.25, 1.0, 4.0])] * 3, st.sampled_from([None, 2.0]))
spents = st.builds(
    Spent,
    input_other=counts,
    output=counts,
    reasoning=counts,
    requests=counts,
    tool_calls=counts,
    cost=st.none() | st.integers(0, 100),
)


# ==== cost ====


def test_cached_tokens_cost_what_cached_tokens_cost():
    assert cost_of(USAGE, PRICES) == pytest.approx(0.2 + 0.18 + 0.5)
    assert cost_of(USAGE, model_info("kimi-k3").prices) == pytest.approx(0.3 + 0.27 + 0.75)


def test_tokens_written_to_the_cache_cost_what_writing_costs_or_what_input_costs():
    written = TokenUsage(input_other=0, output=0, input_cache_creation=1_000_000)
    assert cost_of(written, PRICES) == 2.0
    assert cost_of(written, Prices(2.0, 0.2, 10.0, cache_write=2.5)) == 2.5


@pytest.mark.parametrize("model", ["a-model", "kimi-k2.5", "kimi-for-coding"])
def test_what_a_model_without_prices_costs_is_not_known(model: str):
    assert cost_of(USAGE, model_info(model).prices) is None


@pytest.mark.parametrize("model", [name for name, info in MODELS.items() if info.prices])
def test_every_known_price_gives_a_cost(model: str):
    cost = cost_of(USAGE, MODELS[model].prices)
    assert cost is not None
    assert cost > 0


@few
@given(usages, usages, prices)
def test_together_they_cost_what_each_costs(one: TokenUsage, other: TokenUsage, prices: Prices | None):
    costs = cost_of(one, prices), cost_of(other, prices), cost_of(one + other, prices)
    if prices is None:
        assert costs == (None, None, None)
    else:
        assert None not in costs
        assert costs[0] + costs[1] == pytest.approx(costs[2])


# ==== what was spent ====


def test_nothing_costs_nothing():
    spent = Spent()
    assert (spent.input, spent.cached, spent.output, spent.reasoning) == (0, 0, 0, 0)
    assert (spent.requests, spent.tool_calls, spent.total, spent.cost) == (0, 0, 0, 0.0)


def test_answers_and_calls_add_up():
    spent = Spent().with_answer(USAGE, PRICES).with_calls(3).with_answer(USAGE, PRICES).with_calls(1)
    assert (spent.input, spent.cached, spent.output) == (2_000_000, 1_800_000, 100_000)
    assert (spent.requests, spent.tool_calls) == (2, 4)
    assert spent.cost == pytest.approx(2 * 0.88)


def test_one_answer_of_unknown_price_makes_the_whole_cost_unknown():
    spent = Spent().with_answer(USAGE, PRICES).with_answer(USAGE, None).with_answer(USAGE, PRICES)
    assert spent.cost is None
    assert spent.input == 3_000_000


def test_an_answer_without_usage_is_a_request_of_unknown_cost():
    spent = Spent().with_answer(None, PRICES)
    assert (spent.requests, spent.total, spent.cost) == (1, 0, None)


class Telling(TokenUsage):
    """A usage of a provider that tells the reasoning apart."""

    reasoning: int = 0


def test_reasoning_is_counted_where_the_provider_tells_it():
    told = Telling(input_other=1, output=10, reasoning=7)
    assert Spent().with_answer(told, PRICES).with_answer(USAGE, PRICES).reasoning == 7


@few
@given(spents, usages, prices)
def test_adding_loses_no_field(spent: Spent, usage: TokenUsage, prices: Prices | None):
    after = spent.with_answer(usage, prices)
    assert after.requests == spent.requests + 1
    assert after.total == spent.total + usage.total
    assert (after.reasoning, after.tool_calls) == (spent.reasoning, spent.tool_calls)
    assert (after.cost is None) == (spent.cost is None or prices is None)
    both = spent + after
    assert (both.requests, both.tool_calls) == (2 * spent.requests + 1, 2 * spent.tool_calls)
    assert (spent + usage).cost is None or not usage.total


@few
@given(spents)
def test_what_was_spent_survives_json_and_pickle(spent: Spent):
    assert Spent.model_validate_json(spent.model_dump_json()) == spent
    assert pickle.loads(pickle.dumps(spent)) == spent


def test_tokens_of_a_file_that_has_no_cost_are_of_unknown_cost():
    assert Spent.model_validate(USAGE.model_dump()).cost is None
    assert Spent.model_validate({"input_other": 0, "output": 0}).cost == 0.0


# ==== limits ====

NAMES = ["requests", "tool_calls", "input_tokens", "output_tokens", "cost"]


def test_without_limits_nothing_is_refused():
    spent = Spent(input_other=10**9, output=10**9, requests=10**6, tool_calls=10**6, cost=None)
    limits = UsageLimits()
    limits.before_request(spent, 10**9)
    limits.before_calls(spent, 1000)
    limits.after_answer(spent, Message.assistant("fine"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [-1, -0.5, float("nan")])
def test_a_negative_limit_is_refused(name: str, limit: float):
    with pytest.raises(ValueError, match=name):
        UsageLimits(**{name: limit})


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_is_a_number(name: str):
    with pytest.raises(TypeError, match=f"^{name} is a number, or None for no limit; not '5'$"):
        UsageLimits(**{name: "5"})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["remind", "stop"])
def test_a_guard_against_loops_counts_in_numbers(name: str):
    with pytest.raises(TypeError, match=f"^{name} is a number, or None for never; not '5'$"):
        LoopGuard(**{name: "5"})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("limits", "spent", "tokens", "text"),
    [
        (UsageLimits(requests=2), Spent(requests=2), 0, r"requests=2 is reached: 2 used"),
        (UsageLimits(requests=0), Spent(), 0, r"requests=0"),
        (
            UsageLimits(input_tokens=1000),
            Spent(input_other=600),
            401,
            r"600 used, and what comes next needs about 401 more",
        ),
        (UsageLimits(input_tokens=1000), Spent(input_other=1000), 0, r"input_tokens=1000"),
        (UsageLimits(output_tokens=50), Spent(output=50), 10, r"50 used"),
        (UsageLimits(cost=1.0), Spent(cost=0.9), 60_000, r"cost=1.0 is reached: \$0.9 used.*\$0.12001 more"),
        (UsageLimits(cost=0.0), Spent(), 0, r"cost=0.0"),
    ],
)
def test_a_request_beyond_a_limit_is_refused_before_it_is_sent(
    limits: UsageLimits, spent: Spent, tokens: int, text: str
):
    with pytest.raises(UsageLimitExceeded, match=text) as raised:
        limits.before_request(spent, tokens, prices=PRICES)
    assert "raise the limit" in str(raised.value)
    assert isinstance(raised.value, KimiAgentError)
    assert vars(raised.value)["message"] is None


@pytest.mark.parametrize(
    ("limits", "spent", "tokens"),
    [
        (UsageLimits(requests=2), Spent(requests=1), 0),
        (UsageLimits(input_tokens=1000), Spent(input_other=600), 400),
        (UsageLimits(output_tokens=50), Spent(output=49), 10),
        (UsageLimits(cost=1.0), Spent(cost=0.5), 10_000),
        (UsageLimits(tool_calls=0), Spent(tool_calls=5), 10_000),
    ],
)
def test_a_request_within_the_limits_is_not_refused(limits: UsageLimits, spent: Spent, tokens: int):
    limits.before_request(spent, tokens, prices=PRICES)


def test_what_the_cache_has_costs_less_beforehand_too():
    limits, spent = UsageLimits(cost=1.0), Spent(cost=0.9)
    limits.before_request(spent, 60_000, cached=50_000, prices=PRICES)
    limits.before_request(spent, 60_000, cached=70_000, prices=PRICES)
    with pytest.raises(UsageLimitExceeded):
        limits.before_request(spent, 60_000, cached=10_000, prices=PRICES)


@pytest.mark.parametrize(("limit", "let_through"), [(0.0119, False), (0.0121, True)])
def test_no_more_than_the_prompt_is_in_the_cache(limit: float, let_through: bool):
    try:
        UsageLimits(cost=limit).before_request(Spent(), 60_000, cached=1_000_000, prices=PRICES)
    except UsageLimitExceeded:
        assert not let_through
    else:
        assert let_through


@pytest.mark.parametrize(("spent", "known"), [(Spent(), None), (Spent(requests=1, cost=None), PRICES)])
def test_a_limit_on_a_cost_that_is_not_known_refuses(spent: Spent, known: Prices | None):
    with pytest.raises(UsageLimitExceeded, match=r"cost=5 cannot be kept.*limit `input_tokens`"):
        UsageLimits(cost=5).before_request(spent, 10, prices=known)


def test_calls_beyond_the_limit_are_refused_all_together():
    limits = UsageLimits(tool_calls=5)
    limits.before_calls(Spent(tool_calls=3), 2)
    limits.before_calls(Spent(tool_calls=4))
    with pytest.raises(UsageLimitExceeded, match=r"tool_calls=5 is reached: 3 used, and .* about 3 more"):
        limits.before_calls(Spent(tool_calls=3), 3)


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (UsageLimits(output_tokens=49_999), r"output_tokens=49999: 50,000 used"),
        (UsageLimits(input_tokens=999_999), r"input_tokens=999999"),
        (UsageLimits(cost=0.5), r"cost=0.5: \$0.88 used"),
    ],
)
def test_after_a_breach_the_finished_answer_is_in_the_error(limits: UsageLimits, text: str):
    spent, message = Spent().with_answer(USAGE, PRICES), Message.assistant("finished")
    with pytest.raises(UsageLimitExceeded, match=text) as raised:
        limits.after_answer(spent, message)
    error = pickle.loads(pickle.dumps(raised.value))
    assert vars(raised.value)["message"] is message
    assert vars(error)["message"] == message


def test_an_answer_that_reaches_a_limit_is_within_it():
    spent = Spent().with_answer(USAGE, PRICES)
    UsageLimits(requests=1, output_tokens=50_000, input_tokens=1_000_000, cost=0.88 + 1e-9).after_answer(
        spent, Message.assistant("finished")
    )
    UsageLimits(cost=0.1).after_answer(Spent(requests=1, cost=None), Message.assistant("who knows"))


@few
@given(spents, st.integers(0, 1000), st.integers(0, 2000))
def test_what_is_let_through_was_within_the_limit(spent: Spent, tokens: int, more: int):
    limits = UsageLimits(input_tokens=spent.input + more)
    try:
        limits.before_request(spent, tokens)
    except UsageLimitExceeded:
        assert max(tokens, 1) > more
    else:
        assert spent.input + tokens <= spent.input + more
