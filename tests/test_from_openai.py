"""The page for those who come from the OpenAI SDK knows every name of its chat completions, or it is the same here."""

import ast
import inspect
import re
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import kimi_agent
from kimi_agent import Agent, APIConnectionError, APIEmptyResponseError, APITimeoutError, Kimi, Message, generate
from kimi_agent.provider import GenerationKwargs
from kimi_agent.testing import KimiServer, Reply, say

PAGE = (Path(__file__).parent.parent / "docs" / "from-openai.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROWS = [tuple(line.strip("| ").split(" | ")) for line in PAGE.splitlines() if re.match(r"\| \S", line)]
TOLD = {word for left, _ in ROWS for span in re.findall("`([^`]+)`", left) for word in re.findall(r"\w+", span)}
"""The words that the left sides of the tables have in code."""
THE_SAME = {
    name
    for paragraph in re.findall(r"^[^#|\n][^|]*?the same names.*?(?=\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`(\w+)`", paragraph)
}
"""What the page says is called the same."""

NAMES = {
    "the client": """api_key admin_api_key workload_identity organization project webhook_secret provider base_url
        data_residency websocket_base_url timeout max_retries default_headers default_query http_client""",
    "a request": """messages model audio frequency_penalty function_call functions logit_bias logprobs
        max_completion_tokens max_tokens metadata modalities moderation n parallel_tool_calls prediction
        presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention reasoning_effort response_format
        safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools
        top_logprobs top_p user verbosity web_search_options extra_headers extra_query extra_body timeout""",
    "a completion": "id choices created model object metadata moderation service_tier system_fingerprint usage",
    "a choice": "finish_reason logprobs message",
    "a message": "content refusal role annotations audio function_call tool_calls reasoning_content",
    "usage": "completion_tokens prompt_tokens total_tokens completion_tokens_details prompt_tokens_details",
    "methods": "create parse stream with_raw_response with_streaming_response",
    "errors": """APIConnectionError APIError APIResponseValidationError APIStatusError APITimeoutError
        AuthenticationError BadRequestError ConflictError ContentFilterFinishReasonError InternalServerError
        InvalidWebhookSignatureError LengthFinishReasonError NotFoundError OAuthError OpenAIError
        PermissionDeniedError RateLimitError UnprocessableEntityError WebSocketConnectionClosedError
        WebSocketQueueFullError""",
    "an error": "message response status_code type code body request_id",
}
"""What openai 3.54 has for who completes chats."""


@pytest.mark.parametrize("place", NAMES)
def test_every_name_is_on_the_page(place: str):
    assert [name for name in NAMES[place].split() if name not in TOLD | THE_SAME] == []


def test_what_is_called_the_same_is_there():
    fields = {*GenerationKwargs.__annotations__, *inspect.signature(kimi_agent.APIStatusError).parameters}
    assert len(THE_SAME) > 25
    assert {name for name in THE_SAME if not hasattr(kimi_agent, name)} <= fields | {"request_id"}


def test_every_name_on_the_right_of_a_table_is_there():
    spans = [span for _, right in ROWS for span in re.findall("`([^`]+)`", right)]
    names = {name for span in spans for name in re.findall(r"\b[A-Z]\w+[a-z]\w+\b", span)}
    assert len(names) > 20
    assert {name for name in names if not hasattr(kimi_agent, name)} <= {"AsyncClient", "None", "True", "Model"}
    agent = Agent(Kimi(api_key="sk-test"))
    for owner, here in {"agent": agent, "kimi": agent.provider, "message": Message.user("x")}.items():
        members = {name for span in spans for name in re.findall(rf"(?<![.\w]){owner}\.(\w+)", span)}
        assert members, owner
        assert {name for name in members if not hasattr(here, name)} == set()


# ==== what behaves differently ====


def test_a_timeout_is_no_broken_connection():
    assert not issubclass(APITimeoutError, APIConnectionError)


async def test_an_empty_answer_is_an_error_and_asked_for_again():
    async with KimiServer([Reply(""), say("Hello.")]) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url) as kimi:
            assert await Agent(kimi).chat_round_str("Hello?") == "Hello."
    async with KimiServer([Reply("")]) as server:
        async with Kimi(api_key=server.api_key, base_url=server.base_url, max_retries=0) as kimi:
            with pytest.raises(APIEmptyResponseError):
                await Agent(kimi).chat_round_str("Hello?")


async def test_an_agent_sends_a_key_of_the_cache_and_the_limit_of_the_model_and_generate_the_limit_alone():
    async with KimiServer([say("a"), say("b")]) as server:
        async with Kimi("kimi-k3", api_key=server.api_key, base_url=server.base_url) as kimi:
            await Agent(kimi).chat_round("?")
            await generate(kimi, "", [], [Message.user("?")])
        ours, bare = (request.body for request in server.requests)
    assert ours["prompt_cache_key"]
    assert "prompt_cache_key" not in bare
    assert ours["max_completion_tokens"] == bare["max_completion_tokens"] == 131_072


# ==== both programs, where the SDK is installed ====


async def run(source: str) -> dict[str, Any]:
    """Run a program with `await` at its top level; what it defines."""
    names: dict[str, Any] = {"__name__": "__main__"}
    code = compile(source, "from-openai.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await FunctionType(code, names)()
    return names


async def test_both_programs_ask_and_print_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    openai = pytest.importorskip("openai", minversion="3.0", reason="the package openai is not installed")
    before, after = BLOCKS[:2]
    async with KimiServer() as server:
        monkeypatch.setenv("KIMI_API_KEY", server.api_key)
        monkeypatch.setenv("KIMI_BASE_URL", server.base_url)
        address = before.replace("api_key=...", f"api_key={server.api_key!r}")
        there = await run(address.replace("https://api.moonshot.ai/v1", server.base_url))
        await run(after)
        asked = [request.body for request in server.requests]
    first, again = capsys.readouterr().out.splitlines()
    assert first == again
    assert asked[0]["tools"] == asked[2]["tools"]
    assert asked[0]["messages"] == asked[2]["messages"]

    mover = next(block for block in BLOCKS if "def moved" in block)
    moved = mover[mover.index("def moved") : mover.index("history =")]
    exec(moved, names := {"Message": Message, "ThinkPart": kimi_agent.ThinkPart})
    history = [names["moved"](message) for message in there["messages"]]
    assert [message.role for message in history] == ["system", "user", "assistant", "tool", "assistant"]
    assert history[2].reasoning == asked[3]["messages"][2]["reasoning_content"]

    create = inspect.signature(openai.AsyncOpenAI(api_key="sk-test").chat.completions.create)
    assert [name for name in create.parameters if name not in TOLD | THE_SAME] == []
