"""The page for those who come from kosong knows every public name of kosong 0.56, or the name is the same here."""

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kimi_agent
from kimi_agent import (
    Agent,
    ContentPart,
    Kimi,
    Message,
    SimpleToolset,
    StreamProtocolError,
    ToolCall,
    UnknownPart,
    generate,
    step,
)
from kimi_agent.testing import KimiServer, ScriptedKimi, say

PAGE = (Path(__file__).parent.parent / "docs" / "from-kosong.md").read_text("utf-8")
ROWS = [tuple(line.strip("| ").split(" | ")) for line in PAGE.splitlines() if re.match(r"\| \S", line)]
NAMED = {word for left, _ in ROWS for span in re.findall("`([^`]+)`", left) for word in re.findall(r"\w+", span)}
"""The words that the left sides of the tables have in code."""

MODULES = {
    "kosong": "generate GenerateResult step StepResult",
    "kosong.chat_provider": """ChatProvider RetryableChatProvider StreamedMessage StreamedMessagePart TokenUsage
        ThinkingEffort ChatProviderError APIConnectionError APITimeoutError APIStatusError APIEmptyResponseError
        convert_httpx_error""",
    "kosong.chat_provider.chaos": "ChaosChatProvider ChaosConfig ChaosTransport",
    "kosong.chat_provider.echo": "EchoChatProvider ScriptedEchoChatProvider",
    "kosong.chat_provider.kimi": """Kimi KimiFiles KimiFileObject KimiFilePurpose KimiStreamedMessage ExtraBody
        ThinkingConfig""",
    "kosong.chat_provider.mock": "MockChatProvider",
    "kosong.contrib.chat_provider.anthropic": "Anthropic",
    "kosong.contrib.chat_provider.google_genai": "GoogleGenAI",
    "kosong.contrib.chat_provider.openai_legacy": "OpenAILegacy",
    "kosong.contrib.chat_provider.openai_responses": "OpenAIResponses",
    "kosong.contrib.context.linear": "LinearContext LinearStorage MemoryLinearStorage JsonlLinearStorage",
    "kosong.message": """MergeableMixin Message Role ContentPart TextPart ThinkPart ImageURLPart AudioURLPart
        VideoURLPart ToolCall ToolCallPart""",
    "kosong.tooling": """Tool CallableTool CallableTool2 ToolReturnValue ToolOk ToolError ToolResult ToolResultFuture
        HandleResult Toolset DisplayBlock BriefDisplayBlock UnknownDisplayBlock ParametersType""",
    "kosong.tooling.empty": "EmptyToolset",
    "kosong.tooling.error": "ToolNotFoundError ToolParseError ToolValidateError ToolRuntimeError",
    "kosong.tooling.mcp": "convert_mcp_content",
    "kosong.tooling.simple": "SimpleToolset ToolType",
    "kosong.utils.aio": "Callback callback",
    "kosong.utils.jsonschema": "deref_json_schema ensure_property_types",
    "kosong.utils.typing": "JsonType",
}
"""What each module of kosong has for its users. All of `kimi_sdk` is in it."""

MEMBERS = {
    "generate": "chat_provider system_prompt tools history on_message_part on_tool_call on_trace_id",
    "step": "chat_provider system_prompt toolset history on_message_part on_tool_result on_trace_id",
    "GenerateResult": "id message usage trace_id",
    "StepResult": "id message usage tool_calls trace_id tool_results",
    "Kimi": """model api_key base_url stream client_kwargs client name model_name thinking_effort model_parameters files
        generate on_retryable_error with_thinking with_generation_kwargs with_extra_body GenerationKwargs""",
    "KimiFiles": "upload_video",
    "KimiStreamedMessage": "id trace_id usage",
    "ChatProvider": "name model_name thinking_effort generate with_thinking",
    "StreamedMessage": "id usage",
    "TokenUsage": "input_other output input_cache_read input_cache_creation input total",
    "APIStatusError": "status_code message request_id trace_id",
    "Message": "role content name tool_calls tool_call_id partial extract_text",
    "TextPart": "type text merge_in_place",
    "ThinkPart": "type think encrypted merge_in_place",
    "ImageURLPart": "type image_url ImageURL",
    "AudioURLPart": "type audio_url AudioURL",
    "VideoURLPart": "type video_url VideoURL",
    "ToolCall": "type id function extras FunctionBody merge_in_place",
    "ToolCallPart": "arguments_part merge_in_place",
    "Tool": "name description parameters",
    "CallableTool": "name description parameters base call",
    "CallableTool2": "name description params base call",
    "ToolReturnValue": "is_error output message display extras brief",
    "ToolOk": "output message brief",
    "ToolError": "output message brief",
    "ToolResult": "tool_call_id return_value",
    "BriefDisplayBlock": "type text",
    "UnknownDisplayBlock": "type data",
    "SimpleToolset": "tools add remove handle __iadd__ __add__",
    "Toolset": "tools handle",
}
"""What each class and function of kosong has for its users: members, and names of arguments."""

ADDED = {"generate": {"chat_provider"}, "step": {"chat_provider"}, "Kimi": {"model_name"}}
"""What no signature and no class tells, and the tests below do."""


def members_of(name: str) -> set[str]:
    """What ours of that name has and takes."""
    found = getattr(kimi_agent, name)
    fields = getattr(found, "model_fields", {}) | getattr(found, "__annotations__", {})
    return {*dir(found), *fields, *inspect.signature(found).parameters} | ADDED.get(name, set())


@pytest.mark.parametrize("module", MODULES)
def test_every_name_is_the_same_here_or_on_the_page(module: str):
    assert [name for name in MODULES[module].split() if not hasattr(kimi_agent, name) and name not in NAMED] == []


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_and_argument_is_the_same_here_or_on_the_page(name: str):
    ours = members_of(name)
    assert [member for member in MEMBERS[name].split() if member not in ours | NAMED] == []


def test_every_name_on_the_right_of_a_table_is_there():
    spans = [span for _, right in ROWS for span in re.findall("`([^`]+)`", right)]
    names = {name for span in spans for name in re.findall(r"\b[A-Z]\w+[a-z]\w+\b", span)}
    assert len(names) > 10
    elsewhere = {"ChaosTransport", "ScriptedKimi", "None", "TypeError", "ValueError"}
    assert {name for name in names if not hasattr(kimi_agent, name)} <= elsewhere


# ==== what behaves differently ====


async def test_the_provider_may_be_called_by_its_name_there():
    kimi = ScriptedKimi([say("a"), say("b")])
    result = await generate(chat_provider=kimi, system_prompt="", tools=[], history=[Message.user("?")])
    stepped = await step(chat_provider=kimi, system_prompt="", toolset=SimpleToolset(), history=[Message.user("?")])
    assert (result.message.text, stepped.message.text) == ("a", "b")
    assert Kimi(model="kimi-k3", api_key="sk-test").model_name == "kimi-k3"


async def test_a_request_has_a_limit_and_the_level_of_thinking():
    async with KimiServer([say("a")]) as server:
        async with Kimi("kimi-k3", api_key=server.api_key, base_url=server.base_url).with_thinking("high") as kimi:
            await generate(kimi, "", [], [Message.user("?")])
        body = server.requests[0].body
    assert body["max_completion_tokens"] == 131_072
    assert body["reasoning_effort"] == "high"


def test_what_is_not_known_is_refused_in_a_message_and_kept_as_a_part():
    with pytest.raises(TypeError):
        Message(role="user", content="x", mood="cheerful")  # type: ignore[call-arg]
    assert isinstance(ContentPart.model_validate({"type": "smell", "strength": 3}), UnknownPart)


def mover() -> Callable[[Path], list[Message]]:
    """`moved`, as the page has it."""
    source = re.search(r"^def moved.*?\n\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert source
    names: dict[str, Any] = {"Path": Path, "Message": Message, "json": json}
    exec(source[0], names)
    return names["moved"]


def test_lines_that_are_no_messages_and_lines_within_texts_do_not_matter(tmp_path: Path):
    said = {"role": "user", "content": "one\u2028two\x85three\n"}
    lines = [{"role": "_checkpoint", "id": 0}, said, {"role": "_usage", "token_count": 3}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n\n" for line in lines)
    (path := tmp_path / "context.jsonl").write_text(text, "utf-8")
    assert [message.text for message in mover()(path)] == [said["content"]]


# ==== with kosong itself, where it is installed ====


async def test_values_of_kosong_are_refused_and_its_files_are_moved(tmp_path: Path):
    pytest.importorskip("kosong", reason="the package kosong is not installed")
    from kosong import message as theirs
    from kosong.chat_provider.echo import ScriptedEchoChatProvider
    from kosong.contrib.context.linear import JsonlLinearStorage

    asked = theirs.Message(role="user", content=[theirs.TextPart(text="Wave."), theirs.TextPart(text="Twice.")])
    with pytest.raises(StreamProtocolError):
        await generate(ScriptedEchoChatProvider(["text: Hello."]), "", [], [Message.user("?")])
    with pytest.raises(TypeError):
        await generate(Kimi(api_key="sk-test"), "", [], [asked])

    wave = theirs.ToolCall(id="c0", function=theirs.ToolCall.FunctionBody(name="wave", arguments="{}"))
    called = theirs.Message(role="assistant", content=[theirs.ThinkPart(think="hm")], tool_calls=[wave])
    storage = JsonlLinearStorage(path := tmp_path / "talk.jsonl")
    await storage.append_message(asked)
    await storage.append_message(called)
    await storage.mark_token_count(120)
    await storage.append_message(theirs.Message(role="tool", tool_call_id="c0", content="waved"))
    del storage  # which closes its file
    agent = Agent(ScriptedKimi([say("Done.")]), chat_history=mover()(path))
    assert [message.role for message in agent.chat_history] == ["user", "assistant", "tool"]
    assert agent.chat_history[1].reasoning == "hm"
    assert agent.chat_history[1].tool_calls == (ToolCall.from_function("wave", call_id_="c0"),)
    assert await agent.chat_round_str(None) == "Done."
