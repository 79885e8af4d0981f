"""The page for those who come from kani knows every public name of kani 1.10, or the name is the same here."""

import inspect
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import kimi_agent
from kimi_agent import Agent, ContentPart, Message, PromptPipeline, ToolCall, assistant_message_contents
from kimi_agent.session import SaveContext, file
from kimi_agent.testing import ScriptedKimi, say

PAGE = (Path(__file__).parent.parent / "docs" / "from-kani.md").read_text("utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROWS = [tuple(line.strip("| ").split(" | ")) for line in PAGE.splitlines() if re.match(r"\| \S", line)]
SPANS = {span for left, _ in ROWS for span in re.findall("`([^`]+)`", left)}
"""What the left sides of the tables have in code."""
NAMED = {span.partition("(")[0] for span in SPANS}
TOLD = {word for span in SPANS for word in re.findall(r"\w+", span)}

MODULES = {
    "kani": """Kani ChatRole FunctionCall ToolCall MessagePart ChatMessage ai_function AIFunction AIParam PromptPipeline
        FunctionCallResult ExceptionHandleResult chat_in_terminal chat_in_terminal_async format_width format_stream
        print_width print_stream""",
    "kani.engines.base": "BaseEngine BaseCompletion WrapperEngine",
    "kani.exceptions": """KaniException PromptTooLong MessageTooLong FunctionCallException WrappedCallException
        NoSuchFunction FunctionSpecError MissingModelDependencies PromptError MissingMessagePartType""",
    "kani.ext.multimodal_core": "TextPart ImagePart AudioPart VideoPart BinaryFilePart",
    "kani.model_specific": """BaseParser GPTOSSParser NaiveJSONToolCallParser MistralToolCallParser DeepSeekR1Parser
        Qwen3Parser""",
    "kani.parts": "ReasoningPart",
    "kani.prompts": "PipelineStep ApplyContext",
    "kani.streaming": "StreamManager",
    "kani.tool_parsers": "GPTOSSParser",
    "kani.utils.message_formatters": """all_message_contents assistant_message_contents
        assistant_message_contents_thinking assistant_message_thinking""",
    "kani.utils.saveload": "get_ctx KaniZipSaveContext",
}
"""What each module of kani has for its users."""

HERE: dict[str, Any] = {
    "Kani": Agent,
    "ChatMessage": Message,
    "FunctionCall": ToolCall.FunctionBody,
    "MessagePart": ContentPart,
    "ReasoningPart": kimi_agent.ThinkPart,
    "StreamManager": kimi_agent.MessageStream,
    "BaseCompletion": kimi_agent.GenerateResult,
    "KaniZipSaveContext": SaveContext,
    "ChatRole": None,
}
"""What has another name."""

MEMBERS = {
    "Kani": """engine system_prompt desired_response_tokens retry_attempts functions max_context_size lock
        always_included_messages chat_history chat_round chat_round_str chat_round_stream full_round full_round_str
        full_round_stream prompt_token_len get_model_completion get_model_stream get_prompt get_enabled_functions
        do_function_call handle_function_call_exception add_completion_to_history add_to_history save load always_len
        message_token_len""",
    "ChatRole": "SYSTEM USER ASSISTANT FUNCTION",
    "FunctionCall": "name arguments kwargs with_args",
    "ToolCall": "id type function from_function from_function_call",
    "MessagePart": "extra",
    "ChatMessage": """role content text parts name tool_call_id tool_calls is_tool_call_error function_call extra system
        user assistant function copy_with""",
    "AIFunction": "inner after name desc auto_retry json_schema auto_truncate enabled",
    "AIParam": "desc title",
    "ReasoningPart": "content extra",
    "StreamManager": "role completion message",
    "BaseCompletion": "message prompt_tokens completion_tokens",
    "PromptPipeline": """steps translate_role wrap merge_consecutive function_call_fmt remove ensure_start
        ensure_bound_function_calls apply macro_apply conversation_fmt conversation_dict execute explain""",
    "PipelineStep": "execute explain",
    "ApplyContext": "msg is_last idx messages functions is_last_of_type",
    "FunctionCallResult": "is_model_turn message",
    "ExceptionHandleResult": "should_retry message",
    "BaseParser": "parse_tool_calls parse_reasoning parse_completion predict stream",
    "KaniZipSaveContext": "save_bytes load_bytes",
}
"""What each class of kani has for its users."""

_CHATTING = """kani rounds stopword echo ai_first width show_function_args show_function_returns verbose stream"""
_FILTERS = "role predicate"
PARAMETERS = {
    "Kani": """engine system_prompt always_included_messages desired_response_tokens chat_history functions
        retry_attempts""",
    "Kani.chat_round": "query",
    "Kani.chat_round_str": "query",
    "Kani.chat_round_stream": "query",
    "Kani.full_round": "query max_function_rounds",
    "Kani.full_round_str": "query message_formatter max_function_rounds",
    "Kani.full_round_stream": "query max_function_rounds",
    "Kani.prompt_token_len": "messages functions",
    "Kani.get_model_completion": "include_functions",
    "Kani.get_model_stream": "include_functions",
    "Kani.get_prompt": "include_functions",
    "Kani.do_function_call": "call tool_call_id",
    "Kani.handle_function_call_exception": "call err attempt tool_call_id",
    "Kani.add_completion_to_history": "completion",
    "Kani.add_to_history": "message",
    "Kani.save": "fp save_format",
    "Kani.load": "fp",
    "ToolCall.from_function": "call_id_",
    "ChatMessage": "role content name tool_call_id tool_calls is_tool_call_error extra function_call",
    "ChatMessage.system": "content",
    "ChatMessage.user": "content",
    "ChatMessage.assistant": "content",
    "AIParam": "desc title",
    "AIFunction": "inner after name desc auto_retry json_schema auto_truncate enabled",
    "FunctionCallException": "retry",
    "WrappedCallException": "retry original",
    "NoSuchFunction": "name",
    "PromptPipeline": "steps",
    "PromptPipeline.__call__": "msgs functions",
    "PromptPipeline.translate_role": f"to warn {_FILTERS}",
    "PromptPipeline.wrap": f"prefix suffix {_FILTERS}",
    "PromptPipeline.merge_consecutive": f"sep joiner out_role {_FILTERS}",
    "PromptPipeline.function_call_fmt": "func prefix sep suffix",
    "PromptPipeline.remove": _FILTERS,
    "PromptPipeline.ensure_start": _FILTERS,
    "PromptPipeline.ensure_bound_function_calls": "id_translator",
    "PromptPipeline.apply": f"func {_FILTERS}",
    "PromptPipeline.macro_apply": "func",
    "PromptPipeline.conversation_fmt": """prefix sep suffix generation_suffix user_prefix user_suffix assistant_prefix
        assistant_suffix assistant_suffix_if_last system_prefix system_suffix function_prefix function_suffix""",
    "PromptPipeline.conversation_dict": """system_role user_role assistant_role function_role content_transform
        additional_keys""",
    "PromptPipeline.execute": "msgs functions deepcopy for_measurement",
    "PromptPipeline.explain": "example functions all_cases",
    "PipelineStep.execute": "msgs functions",
    "FunctionCallResult": "is_model_turn message",
    "ExceptionHandleResult": "should_retry message",
    "BaseParser": """tool_call_start_token tool_call_end_token reasoning_start_token reasoning_end_token
        reasoning_always_at_start show_reasoning_in_stream reasoning_in_stream_color""",
    "chat_in_terminal": _CHATTING,
    "chat_in_terminal_async": _CHATTING,
    "format_width": "msg width prefix",
    "format_stream": "stream width prefix",
    "print_width": "msg width prefix",
    "print_stream": "stream width prefix",
    "all_message_contents": "msg",
    "assistant_message_contents": "msg show_reasoning color",
    "assistant_message_contents_thinking": "msg show_args show_reasoning color",
    "assistant_message_thinking": "msg show_args",
    "KaniZipSaveContext": "zf",
    "KaniZipSaveContext.save_bytes": "data suffix",
}
"""What each function of kani takes; `StreamManager` is left out, which nobody builds. Those of `ai_function` follow."""


def here(name: str) -> Any:
    """Our own object for a name of kani's, with a dot for a member; `None` if there is none."""
    first, _, member = name.partition(".")
    found = HERE[first] if first in HERE else getattr(kimi_agent, first, None)
    return getattr(found, member, None) if member else found


def taken_by(name: str) -> set[str]:
    """The names of the arguments of our own."""
    return set(inspect.signature(found).parameters) if callable(found := here(name)) else set()


def is_member(name: str, member: str) -> bool:
    return hasattr(here(name), member) or member in taken_by(name)


def test_every_module_is_on_the_page():
    assert [module for module in MODULES if module not in NAMED | {"kani", "kani.engines.base"}] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_name_is_the_same_here_or_on_the_page(module):
    assert [name for name in MODULES[module].split() if not hasattr(kimi_agent, name) and name not in NAMED] == []


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_is_the_same_here_or_on_the_page(name):
    assert [member for member in MEMBERS[name].split() if not is_member(name, member) and member not in TOLD] == []


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_argument_is_the_same_here_or_on_the_page(name):
    ours = taken_by(name)
    assert [argument for argument in PARAMETERS[name].split() if argument not in ours | TOLD] == []


def test_the_decorator_takes_what_kanis_does():
    @kimi_agent.ai_function(
        after="user", name="f", desc="F.", auto_retry=False, json_schema={}, auto_truncate=9, enabled=False
    )
    def g() -> None: ...

    assert callable(g)


def test_every_name_on_the_right_of_a_table_is_there():
    spans = [span for _, right in ROWS for span in re.findall("`([^`]+)`", right)]
    names = {name for span in spans for name in re.findall(r"\b[A-Z]\w+[a-z]\w+\b", span)}
    assert len(names) > 20
    assert {name for name in names if not hasattr(kimi_agent, name)} <= {"SaveContext", "FunctionBody", "None", "True"}


# ==== what behaves differently ====


async def test_a_round_as_text_has_no_reasoning_unless_asked_for():
    async def texts(**options: Any) -> list[str]:
        agent = Agent(ScriptedKimi([say("Yes.", reasoning="Hm.")]))
        return [text async for text in agent.full_round_str("Really?", **options)]

    assert await texts() == ["Yes."]
    grey = partial(assistant_message_contents, color=False)
    assert await texts(message_formatter=grey) == ["Hm.\nYes."]


def test_what_a_part_of_ones_own_is_as_text_is_not_in_the_text(monkeypatch):
    monkeypatch.setattr(ContentPart, "_family", dict(ContentPart._family))

    class Note(ContentPart):
        type: str = "note"
        body: str

        def __str__(self) -> str:
            return self.body

    assert Message.user(["a", Note(body="b")]).text == "a"


def test_a_method_of_a_pipeline_gives_another_pipeline():
    pipe = PromptPipeline()
    assert len(pipe.wrap(prefix="> ").steps) == 1
    assert len(pipe.steps) == 0


# ==== moving conversations ====


def recipe() -> str:
    return next(code for language, code in FENCED.findall(PAGE) if language == "python" and ".glob(" in code)


def test_a_folder_keeps_all_of_its_conversations(tmp_path, monkeypatch, capsys):
    def saved(text: str) -> str:
        message = {"role": "user", "content": text}
        return json.dumps({"version": 1, "always_included_messages": [], "chat_history": [message]})

    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.kani").write_text(saved("of one"))
    (tmp_path / "chat.json").write_text(saved("of another"))
    (tmp_path / "a package.json").write_text('{"name": "web"}')
    (tmp_path / "z.json").write_text(saved("of the last"))
    exec(recipe(), {"Path": Path})
    moved = {path.name: file.load(path).chat_history[0].text for path in tmp_path.glob("*.kimi")}
    assert moved == {"chat.kani.kimi": "of one", "chat.json.kimi": "of another", "z.json.kimi": "of the last"}
    assert re.fullmatch(r"skipped: cannot load a package\.json: .*\n", capsys.readouterr().out)


def test_an_agent_leaves_out_a_result_of_no_call_and_the_file_has_it(tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "function", "name": "f", "content": "1"}]
    (path := tmp_path / "talk.json").write_text(json.dumps({"always_included_messages": [], "chat_history": messages}))
    agent = Agent(ScriptedKimi([]))
    agent.load(path)
    assert [message.role for message in agent.chat_history] == ["user"]
    assert [message.role for message in file.load(path).chat_history] == ["user", "tool"]
