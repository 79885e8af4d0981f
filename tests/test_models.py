"""What is known of Kimi's models, what a server says of them, and how hard each of them can be told to think."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_agent.errors import ChatProviderError, InvalidRequestError, ServerError, StreamProtocolError
from kimi_agent.kimi.client import Kimi
from kimi_agent.kimi.models import MODELS, ModelInfo, Prices, model_info, refreshed, thinking_fields
from kimi_agent.message import Message
from kimi_agent.testing import Failure, KimiServer, RawBody, say

USER = Message.user("Hi")
MILLION, QUARTER = 1_048_576, 262_144
EFFORTS = ("off", "minimal", "low", "medium", "high", "xhigh", "max")

# ==== the table ====

SERVED: dict[str, tuple[int, Prices | None]] = {
    "kimi-k3.1-pro": (MILLION, Prices(2.00, 0.20, 10.00, 2.00, 4.00)),
    "kimi-k3.1-pro-highspeed": (MILLION, Prices(4.00, 0.20, 20.00)),
    "kimi-k3": (MILLION, Prices(3.00, 0.30, 15.00, 3.00, 6.00)),
    "kimi-k2.7-code": (QUARTER, Prices(0.95, 0.19, 4.00)),
    "kimi-k2.7-code-highspeed": (QUARTER, Prices(1.90, 0.38, 8.00)),
    "kimi-k2.6": (QUARTER, Prices(0.95, 0.16, 4.00)),
    "k3": (MILLION, None),
    "k3-256k": (QUARTER, None),
    "kimi-for-coding": (QUARTER, None),
    "kimi-for-coding-highspeed": (QUARTER, None),
}

GONE = {
    "kimi-k2.5": (QUARTER, date(2026, 8, 31)),
    "moonshot-v1-8k": (8_192, date(2026, 8, 31)),
    "moonshot-v1-32k": (32_768, date(2026, 8, 31)),
    "moonshot-v1-128k": (131_072, date(2026, 8, 31)),
    "kimi-k2-0711-preview": (131_072, date(2026, 5, 25)),
    "kimi-k2-0905-preview": (QUARTER, date(2026, 5, 25)),
    "kimi-k2-turbo-preview": (QUARTER, date(2026, 5, 25)),
    "kimi-k2-thinking": (QUARTER, date(2026, 5, 25)),
    "kimi-k2-thinking-turbo": (QUARTER, date(2026, 5, 25)),
}


@pytest.mark.parametrize("name", SERVED)
def test_a_model_that_is_served_has_its_window_and_its_prices(name: str) -> None:
    info = model_info(name)
    assert (info.name, info.context_window, info.prices) == (name, *SERVED[name])
    assert info.last_seen is not None
    assert info.last_seen >= date(2026, 11, 20)


@pytest.mark.parametrize("name", GONE)
def test_a_model_that_is_gone_is_still_known_with_the_day_it_was_last_seen(name: str) -> None:
    info = model_info(name)
    assert (info.name, info.context_window, info.last_seen) == (name, *GONE[name])
    assert info.prices is None


FAMILIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "K3": (
        ("kimi-k3", "kimi-k3.1-pro", "kimi-k3-0905", "k3", "k3-256k"),
        {
            "default_completion": 131_072,
            "thinking": "always",
            "efforts": ("low", "high", "max"),
            "tool_choices": {"auto", "none", "required"},
            "images": True,
            "videos": True,
            "dynamic_tools": True,
        },
    ),
    "K2.7": (
        ("kimi-k2.7-code", "kimi-k2.7-chat"),
        {
            "default_completion": 32_768,
            "thinking": "always",
            "efforts": (),
            "tool_choices": {"auto", "none"},
            "images": True,
            "videos": True,
            "dynamic_tools": False,
        },
    ),
    "hybrid": (
        ("kimi-k2.6", "kimi-k2.5", "kimi-k2.6-0101"),
        {
            "default_completion": 32_768,
            "thinking": "switch",
            "efforts": (),
            "tool_choices": {"auto", "none"},
            "images": True,
            "videos": True,
            "dynamic_tools": False,
        },
    ),
}
OF_A_FAMILY = [(name, facts) for names, facts in FAMILIES.values() for name in names]
PINNED = {"temperature": 1, "top_p": 0.95, "n": 1, "presence_penalty": 0, "frequency_penalty": 0}


@pytest.mark.parametrize(("name", "facts"), OF_A_FAMILY, ids=[name for name, _ in OF_A_FAMILY])
def test_a_model_has_what_its_family_has(name: str, facts: dict[str, Any]) -> None:
    info = model_info(name)
    assert info.is_known
    small = {"default_completion": 32_768} if name in ("k3-256k", "k3.1-pro") else {}  # an eighth of a smaller window
    assert {fact: getattr(info, fact) for fact in facts} == {**facts, **small}
    assert info.sampling == PINNED


@pytest.mark.parametrize("name", ["nobody-knows", "", "moonshotai/Kimi-K2.6", "Kimi-K3", "gpt-5", "kimi-latest"])
def test_of_an_unknown_model_nothing_is_assumed_but_a_window(name: str) -> None:
    assert model_info(name) == ModelInfo(name=name, context_window=QUARTER)
    assert not model_info(name).is_known


@pytest.mark.parametrize("name", MODELS)
def test_the_limits_of_a_model_fit_each_other(name: str) -> None:
    info = model_info(name)
    if info.default_completion is not None and info.max_completion is not None:
        assert 0 < info.default_completion <= info.max_completion
    assert info.default_completion is None or info.default_completion < info.context_window


@pytest.mark.parametrize("name", MODELS)
def test_no_answer_may_be_longer_than_the_window(name: str) -> None:
    info = model_info(name)
    assert info.max_completion is None or info.max_completion <= info.context_window


def test_the_table_cannot_be_changed_by_who_reads_it() -> None:
    sampling: Any = model_info("kimi-k3").sampling
    with pytest.raises(TypeError):
        sampling["temperature"] = 0.3
    with pytest.raises(AttributeError):
        model_info("kimi-k3").context_window = 1  # type: ignore[misc]


# ==== thinking ====

ENABLED, DISABLED = {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}
NOTHING: dict[str, Any] = {}
K3_LEVELS = {"minimal": "low", "low": "low", "medium": "high", "high": "high", "xhigh": "max", "max": "max"}
THINKING: dict[str, dict[str, dict[str, Any] | None]] = {
    "kimi-k3": {"off": None, **{effort: {"reasoning_effort": word} for effort, word in K3_LEVELS.items()}},
    "kimi-k2.7-code": {"off": None, **dict.fromkeys(EFFORTS[1:], NOTHING)},
    "kimi-k2.6": {"off": DISABLED, **dict.fromkeys(EFFORTS[1:], ENABLED)},
    "kimi-k2-0905-preview": {"off": {}, **dict.fromkeys(EFFORTS[1:])},
    "kimi-k2-thinking": {"off": None, **dict.fromkeys(EFFORTS[1:], NOTHING)},
    "nobody-knows": dict.fromkeys(EFFORTS),
}
"""Model and generic effort to the fields of a request; `None` where it cannot be done."""
THINKING_CASES = [(model, effort, fields) for model, row in THINKING.items() for effort, fields in row.items()]


@pytest.mark.parametrize(("model", "effort", "fields"), THINKING_CASES, ids=lambda value: str(value))
def test_an_effort_is_said_in_the_models_own_words_or_refused(model: str, effort: Any, fields: Any) -> None:
    if fields is not None:
        assert thinking_fields(model_info(model), effort) == fields
        return
    with pytest.raises(InvalidRequestError, match=model):
        thinking_fields(model_info(model), effort)


@pytest.mark.parametrize("model", THINKING)
@pytest.mark.parametrize("effort", ["none", "High", "", None, 3])
def test_what_is_no_effort_is_refused_with_the_list_of_those_that_are(model: str, effort: Any) -> None:
    with pytest.raises(InvalidRequestError, match="there are off, minimal, low, medium, high, xhigh, max"):
        thinking_fields(model_info(model), effort)


def test_what_cannot_be_switched_off_names_the_least_that_can_be_had() -> None:
    with pytest.raises(InvalidRequestError, match="kimi-k3 always thinks; its least effort is 'low'"):
        thinking_fields(model_info("kimi-k3"), "off")


def test_an_effort_that_only_the_server_knows_is_used_as_it_is_called() -> None:
    entry = {"supports_thinking_type": "both", "think_efforts": {"support": True, "valid_efforts": ["low", "medium"]}}
    info = refreshed(model_info("nobody-knows"), entry, date(2027, 1, 1))
    assert thinking_fields(info, "medium") == {"thinking": {"type": "enabled"}, "reasoning_effort": "medium"}
    assert thinking_fields(info, "minimal") == {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}
    assert thinking_fields(info, "off") == {"thinking": {"type": "disabled"}}
    with pytest.raises(InvalidRequestError, match="no effort 'max'; it has low, medium"):
        thinking_fields(info, "max")


# ==== what the server says ====

DAY = date(2027, 1, 1)
SAID: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "a window": ("nobody", {"context_length": 1000}, {"context_window": 1000}),
    "a window of vLLM": ("nobody", {"max_model_len": 1000}, {"context_window": 1000}),
    "eyes": ("nobody", {"supports_image_in": True, "supports_video_in": False}, {"images": True, "videos": False}),
    "no eyes": ("kimi-k3", {"supports_image_in": False}, {"images": False, "videos": True}),
    "always thinks": ("nobody", {"supports_thinking_type": "only"}, {"thinking": "always"}),
    "never thinks": ("nobody", {"supports_thinking_type": "no"}, {"thinking": "never"}),
    "may think": ("nobody", {"supports_thinking_type": "both"}, {"thinking": "switch"}),
    "no reasoning": ("nobody", {"supports_reasoning": False}, {"thinking": "never"}),
    "reasoning, however": ("nobody", {"supports_reasoning": True}, {"thinking": "unknown"}),
    "the type goes first": (
        "nobody",
        {"supports_thinking_type": "both", "supports_reasoning": False},
        {"thinking": "switch"},
    ),
    "efforts": ("nobody", {"think_efforts": {"valid_efforts": ["low", "max"]}}, {"efforts": ("low", "max")}),
    "no efforts": ("kimi-k3", {"think_efforts": {"support": False}}, {"efforts": ()}),
    "no list of efforts": ("kimi-k3", {"think_efforts": {"support": True}}, {"efforts": ("low", "high", "max")}),
}


@pytest.mark.parametrize(("name", "entry", "facts"), SAID.values(), ids=SAID)
def test_the_server_knows_better(name: str, entry: dict[str, Any], facts: dict[str, Any]) -> None:
    info = refreshed(model_info(name), {"id": name, **entry}, DAY)
    assert {fact: getattr(info, fact) for fact in facts} == facts
    assert info.last_seen == DAY
    assert info.prices == model_info(name).prices


JUNK = st.none() | st.booleans() | st.integers(-5, 0) | st.just(1.5) | st.just("1000") | st.just([1]) | st.just({})
KEYS = ("context_length", "supports_image_in", "supports_video_in", "supports_reasoning", "supports_thinking_type")


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*KEYS, "think_efforts"), JUNK)))
def test_keys_that_make_no_sense_change_nothing(entry: dict[str, Any]) -> None:
    known = model_info("kimi-k3")
    info = refreshed(known, {name: value for name, value in entry.items() if not isinstance(value, bool)}, DAY)
    assert info == refreshed(known, {}, DAY)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*KEYS, "think_efforts"), JUNK)))
def test_no_entry_makes_a_window_that_is_none(entry: dict[str, Any]) -> None:
    info = refreshed(model_info("nobody"), entry, DAY)
    assert type(info.context_window) is int
    assert info.context_window > 0


# ==== asking for it ====


def client(server: KimiServer, model: str = "kimi-k3") -> Kimi:
    return Kimi(model, api_key=server.api_key, base_url=server.base_url, max_retries=0)


async def test_nothing_is_fetched_unasked() -> None:
    async with KimiServer([say("x")]) as server, client(server, "nobody-knows") as kimi:
        assert (kimi.context_window, kimi.model_info.name) == (QUARTER, "nobody-knows")
        assert server.calls == []
        await (await kimi.generate("", [], [USER])).aclose()
        assert [each.path for each in server.calls] == ["/chat/completions"]


async def test_what_the_server_lists_holds_from_then_on_in_all_copies() -> None:
    async with KimiServer() as server, client(server, "new-model") as kimi:
        server.models = [
            {"id": "new-model", "context_length": 5_000, "supports_thinking_type": "both", "supports_image_in": False},
            {"id": "kimi-k3", "context_length": 9_000},
        ]
        before = kimi.with_generation_kwargs(max_completion_tokens=5)
        listed = await before.models()
        after = kimi.with_extra_body({"a": 1})
        assert [(info.name, info.context_window) for info in listed] == [("new-model", 5_000), ("kimi-k3", 9_000)]
        assert [each.context_window for each in (kimi, before, after)] == [5_000] * 3
        assert kimi.model_info == listed[0]
        assert kimi.with_thinking("off").thinking_effort == "off"
        assert [(each.method, each.path) for each in server.calls] == [("GET", "/models")]
    assert model_info("kimi-k3").context_window == MILLION


async def test_a_second_list_that_says_less_forgets_nothing() -> None:
    async with KimiServer() as server, client(server, "new-model") as kimi:
        server.models = [{"id": "new-model", "context_length": 5_000}]
        await kimi.models()
        server.models = [{"id": "new-model"}]
        await kimi.models()
        assert kimi.context_window == 5_000


async def test_another_client_knows_nothing_of_it() -> None:
    async with KimiServer() as server, client(server, "new-model") as kimi, client(server, "new-model") as other:
        server.models = [{"id": "new-model", "context_length": 5_000}]
        await kimi.models()
        assert other.context_window == QUARTER


async def test_a_smaller_window_of_the_server_limits_the_answer() -> None:
    async with KimiServer([say("x")]) as server, client(server) as kimi:
        server.models = [{"id": "kimi-k3", "context_length": 100_000}]
        await kimi.models()
        await (await kimi.generate("", [], [USER])).aclose()
        assert server.requests[0].body["max_completion_tokens"] < 100_000


async def test_entries_that_are_no_models_are_passed_over() -> None:
    async with KimiServer() as server, client(server) as kimi:
        server.models = [{"id": 5}, {}, {"id": "a"}]
        assert [info.name for info in await kimi.models()] == ["a"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Failure(500, "server_error", "broken"), ServerError),
        (RawBody(b"<html>", "text/html"), StreamProtocolError),
        (RawBody(b'{"object": "list"}', "application/json"), StreamProtocolError),
        (RawBody(b'{"data": {"id": "a"}}', "application/json"), StreamProtocolError),
        (RawBody(b'{"error": {"message": "no"}}', "application/json"), ChatProviderError),
    ],
)
async def test_a_list_that_does_not_come_is_an_error_and_changes_nothing(fault: Any, error: type[Exception]) -> None:
    async with KimiServer() as server, client(server) as kimi:
        server.failures["/models"] = [fault]
        with pytest.raises(error):
            await kimi.models()
        assert kimi.context_window == MILLION


# ==== a copy that asks another model ====

OTHERS: list[tuple[str, Any, str, Any, dict[str, Any]]] = [
    # model, told effort, other model, its effort, what it is sent
    ("kimi-k3", None, "kimi-k2.6", None, NOTHING),
    ("kimi-k3", "low", "kimi-k3.1-pro", "low", {"reasoning_effort": "low"}),
    ("kimi-k3", "minimal", "kimi-k2.6", "minimal", ENABLED),
    ("kimi-k2.6", "medium", "kimi-k3", "medium", {"reasoning_effort": "high"}),
    ("kimi-k2.6", "off", "kimi-k3", None, NOTHING),
    ("kimi-k2.6", "off", "kimi-k2-0905-preview", "off", NOTHING),
    ("kimi-k3", "max", "kimi-k2-0905-preview", None, NOTHING),
    ("kimi-k3", "max", "nobody-knows", None, NOTHING),
]


@pytest.mark.parametrize(("model", "effort", "other", "left", "fields"), OTHERS, ids=lambda value: str(value))
def test_another_model_thinks_as_hard_in_its_own_words_or_as_it_does_by_default(
    model: str, effort: Any, other: str, left: Any, fields: dict[str, Any]
) -> None:
    kimi = Kimi(model, api_key="sk-x")
    kimi = kimi.with_thinking(effort) if effort else kimi
    before = kimi.generation_kwargs
    changed = kimi.with_model(other)
    assert (changed.model_name, changed.thinking_effort, changed.generation_kwargs) == (other, left, fields)
    assert changed.model_info == model_info(other)
    assert changed.context_window == model_info(other).context_window
    assert (kimi.model_name, kimi.thinking_effort, kimi.generation_kwargs) == (model, effort, before)


def test_what_else_is_sent_stays_with_another_model() -> None:
    kimi = Kimi(api_key="sk-x").with_generation_kwargs(stop="a", extra_body={"mood": 1}).with_thinking("low")
    assert kimi.with_model("kimi-k2-0905-preview").generation_kwargs == {"stop": "a", "extra_body": {"mood": 1}}
    said = Kimi(api_key="sk-x").with_generation_kwargs(reasoning_effort="low")
    assert said.with_model("kimi-k3.1-pro").generation_kwargs == {"reasoning_effort": "low"}


async def test_another_model_is_asked_over_the_same_connection_and_both_know_what_the_server_told() -> None:
    async with (
        KimiServer(lambda _: say("x")) as server,
        Kimi(api_key=server.api_key, base_url=server.base_url) as kimi,
    ):
        other = kimi.with_model("kimi-k2.6")
        listed = {info.name: info for info in await other.models()}
        assert kimi.model_info is listed["kimi-k3"]
        for each in (kimi, other):
            answer = await each.generate("", [], [USER])
            async for _ in answer:
                pass
        assert [request.body["model"] for request in server.requests] == ["kimi-k3", "kimi-k2.6"]
        assert server.connections == 1
