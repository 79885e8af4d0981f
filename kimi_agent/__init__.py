"""Agents on Kimi: one class is one conversation.

    class Weather(Agent):
        @ai_function()
        async def get_weather(self, city: Annotated[str, AIParam("City, in English")]) -> dict:
            \"\"\"Current weather of a city.\"\"\"
            return await lookup(city)

    async with Weather(Kimi("kimi-k3"), "You are terse.") as agent:
        async for message in agent.full_round("Which is warmer, Oslo or Bergen?"):
            print(message.role, message.text)

Below the agent are primitives that keep no state. A loop over `step` is an agent of your own:

    history = [Message.user("Please add 2 and 3.")]
    while True:
        result = await step(kimi, "You are terse.", toolset, history)
        history.append(result.message)
        if not result.tool_calls:
            break
        history += map(tool_result_to_message, await result.tool_results())

Names are imported from their rooms on first use, so that a program pays for what it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from loguru import logger

from .generate import (
    GenerateResult,
    StepResult,
    generate,
    step,
)  # at once: its room has the same name and would hide it

if TYPE_CHECKING:
    from .agent import Agent
    from .errors import (
        APIConnectionError,
        APIEmptyResponseError,
        APIStatusError,
        APITimeoutError,
        ApprovalPending,
        AuthenticationError,
        BadRequestError,
        CallRejected,
        ChatProviderError,
        ContentFilterError,
        ContextLengthError,
        FunctionCallException,
        FunctionSpecError,
        FunctionTimeout,
        InvalidRequestError,
        KimiAgentError,
        MCPServerError,
        MessageTooLong,
        ModelRetry,
        NoSuchFunction,
        NotFoundError,
        PermissionDeniedError,
        PromptError,
        PromptTooLong,
        QuotaExceededError,
        RanksError,
        RateLimitError,
        RequestTooLargeError,
        RoundInProgressError,
        ServerError,
        SessionConflictError,
        SessionError,
        StreamInterruptedError,
        StreamProtocolError,
        StructuredOutputError,
        SubAgentError,
        ToolArgumentsError,
        UsageLimitExceeded,
        WrappedCallException,
    )
    from .events import (
        Append,
        End,
        Event,
        HistoryCompacted,
        Reasoning,
        RequestRetried,
        RequestSent,
        RoundFinished,
        RoundStarted,
        SessionRestored,
        StreamCancelled,
        StreamCompleted,
        StreamFailed,
        StreamFrame,
        StreamFrameReceived,
        StreamStarted,
        SubAgentEvent,
        TokenCountDrifted,
        ToolCallDelta,
        ToolCallFinished,
        ToolCallStarted,
        ToolProgress,
        from_dict,
        to_dict,
    )
    from .frames import collect_text, text_only, to_assistant_message, to_frames, to_messages, to_tool_calls
    from .kimi.answer import KimiStreamedMessage
    from .kimi.client import Kimi
    from .kimi.endpoints import Balance
    from .kimi.files import KimiFile, KimiFiles
    from .kimi.formulas import HostedTool, KimiFormulas, WebSearch
    from .kimi.models import ModelInfo, Prices, ThinkingEffort, model_info
    from .kimi.patience import Timeouts
    from .kimi.schema import mfjs_errors, to_mfjs
    from .limits import Spent, UsageLimits, cost_of
    from .message import (
        AudioURLPart,
        ContentPart,
        ImageURLPart,
        Message,
        Role,
        StreamedMessagePart,
        TextPart,
        ThinkPart,
        TokenUsage,
        ToolCall,
        ToolCallPart,
        UnknownPart,
        VideoURLPart,
    )
    from .prompt.compaction import (
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
    from .prompt.exact import KimiTokenCounter
    from .prompt.pipeline import ApplyContext, PipelineStep, PromptPipeline
    from .prompt.rawtext import RawTextMessage, RawTextProvider
    from .provider import ChatProvider, Format, GenerationKwargs, Overrides, StreamedMessage
    from .raw.base import BaseParser
    from .raw.deepseek import DeepSeekR1Parser
    from .raw.harmony import HarmonyParser
    from .raw.kimi_k2 import KimiK2Parser
    from .raw.kimi_k3 import KimiK3Parser
    from .raw.llama3 import Llama3Parser
    from .raw.mistral import MistralParser
    from .raw.naive import NaiveJSONParser
    from .raw.qwen3 import Qwen3Parser
    from .session.journal import JournalSession
    from .session.sqlite import SQLiteSessionStore
    from .session.state import Session, SessionState
    from .stream import MessageStream, Round
    from .structured.format import MarkdownFormat
    from .structured.handlers import MarkdownEnd, MarkdownHandlers
    from .structured.markdown import (
        CodeBlock,
        Heading,
        HtmlBlock,
        ListItem,
        MarkdownEvent,
        MarkdownStream,
        Paragraph,
        Quote,
        TableRow,
        ThematicBreak,
        parse_markdown,
    )
    from .structured.output import Snapshot
    from .structured.parsing import Parsed
    from .structured.records import Records, records
    from .structured.sections import Section, sections
    from .terminal.chat.chat import chat_in_terminal, chat_in_terminal_async
    from .terminal.formatters import (
        all_message_contents,
        assistant_message_contents,
        assistant_message_contents_thinking,
        assistant_message_thinking,
    )
    from .terminal.text import format_stream, format_width, print_stream, print_width
    from .tools.allowance import LoopGuard
    from .tools.approval import Approval
    from .tools.base import (
        BriefDisplayBlock,
        DisplayBlock,
        Tool,
        ToolError,
        ToolLike,
        ToolNotFoundError,
        ToolOk,
        ToolParseError,
        ToolResult,
        ToolReturnValue,
        ToolRuntimeError,
        ToolsPart,
        ToolValidateError,
        UnknownDisplayBlock,
    )
    from .tools.callable import CallableTool, CallableTool2
    from .tools.context import ToolContext
    from .tools.function import AIFunction, AIParam, ai_function
    from .tools.mapping import MappedCall, MappedCalls
    from .tools.mcp.servers import MCPTool, MCPToolset, mcp_tools
    from .tools.running import abandoned_calls
    from .tools.texts import MarkedTexts, ToolTexts, tool_result_to_message
    from .tools.toolset import (
        EmptyToolset,
        ExceptionHandleResult,
        FunctionCallResult,
        HandleResult,
        SimpleToolset,
        ToolResultFuture,
        Toolset,
    )

__version__ = "0.1.0"

__all__ = [
    # agents and rounds
    "Agent",
    "Round",
    "MessageStream",
    # sessions
    "Session",
    "SessionState",
    "JournalSession",
    "SQLiteSessionStore",
    # functions of an agent
    "ai_function",
    "AIFunction",
    "AIParam",
    "FunctionCallResult",
    "ExceptionHandleResult",
    "MappedCalls",
    "MappedCall",
    "ToolContext",
    "Approval",
    "LoopGuard",
    "abandoned_calls",
    # Kimi and other providers
    "Kimi",
    "KimiStreamedMessage",
    "Timeouts",
    "ThinkingEffort",
    "ModelInfo",
    "model_info",
    "Prices",
    "Balance",
    "KimiFiles",
    "KimiFile",
    "KimiFormulas",
    "HostedTool",
    "WebSearch",
    "to_mfjs",
    "mfjs_errors",
    "ChatProvider",
    "StreamedMessage",
    "StreamedMessagePart",
    "GenerationKwargs",
    "Overrides",
    "Format",
    # one turn without an agent: generate and step
    "generate",
    "GenerateResult",
    "step",
    "StepResult",
    # messages
    "Message",
    "Role",
    "ContentPart",
    "TextPart",
    "ThinkPart",
    "ImageURLPart",
    "AudioURLPart",
    "VideoURLPart",
    "UnknownPart",
    "ToolCall",
    "ToolCallPart",
    "TokenUsage",
    # tools and toolsets
    "Tool",
    "ToolsPart",
    "ToolLike",
    "CallableTool",
    "CallableTool2",
    "Toolset",
    "SimpleToolset",
    "EmptyToolset",
    "mcp_tools",
    "MCPToolset",
    "MCPTool",
    "HandleResult",
    # results of tools
    "ToolReturnValue",
    "ToolOk",
    "ToolError",
    "ToolNotFoundError",
    "ToolParseError",
    "ToolValidateError",
    "ToolRuntimeError",
    "ToolResult",
    "ToolResultFuture",
    "tool_result_to_message",
    "ToolTexts",
    "MarkedTexts",
    "DisplayBlock",
    "BriefDisplayBlock",
    "UnknownDisplayBlock",
    # raw-text models and prompt pipelines
    "RawTextProvider",
    "RawTextMessage",
    "BaseParser",
    "KimiK2Parser",
    "KimiK3Parser",
    "HarmonyParser",
    "DeepSeekR1Parser",
    "Qwen3Parser",
    "MistralParser",
    "Llama3Parser",
    "NaiveJSONParser",
    "PromptPipeline",
    "PipelineStep",
    "ApplyContext",
    # tokens, cost and compaction
    "KimiTokenCounter",
    "Spent",
    "UsageLimits",
    "cost_of",
    "Compaction",
    "Compactor",
    "CompactionTask",
    "DropToolOutput",
    "SummarizeHistory",
    "SummarizeChunks",
    "ExtractFacts",
    "NoCompaction",
    "compacted",
    "is_compacted",
    # stream frames
    "StreamFrame",
    "Append",
    "Reasoning",
    "ToolCallDelta",
    "End",
    "text_only",
    "collect_text",
    "to_assistant_message",
    "to_tool_calls",
    "to_messages",
    "to_frames",
    # structured output
    "MarkdownFormat",
    "records",
    "Records",
    "sections",
    "Section",
    "parse_markdown",
    "MarkdownStream",
    "MarkdownEvent",
    "Heading",
    "ListItem",
    "CodeBlock",
    "Paragraph",
    "Quote",
    "TableRow",
    "ThematicBreak",
    "HtmlBlock",
    "MarkdownHandlers",
    "MarkdownEnd",
    "Parsed",
    "Snapshot",
    # events
    "Event",
    "RoundStarted",
    "RoundFinished",
    "StreamStarted",
    "StreamFrameReceived",
    "StreamCompleted",
    "StreamFailed",
    "StreamCancelled",
    "RequestSent",
    "RequestRetried",
    "ToolCallStarted",
    "ToolCallFinished",
    "ToolProgress",
    "SubAgentEvent",
    "HistoryCompacted",
    "TokenCountDrifted",
    "SessionRestored",
    "to_dict",
    "from_dict",
    # terminal
    "chat_in_terminal",
    "chat_in_terminal_async",
    "format_width",
    "format_stream",
    "print_width",
    "print_stream",
    "all_message_contents",
    "assistant_message_contents",
    "assistant_message_contents_thinking",
    "assistant_message_thinking",
    # errors
    "KimiAgentError",
    "ChatProviderError",
    "InvalidRequestError",
    "APIConnectionError",
    "StreamInterruptedError",
    "APITimeoutError",
    "APIStatusError",
    "AuthenticationError",
    "PermissionDeniedError",
    "NotFoundError",
    "BadRequestError",
    "ContextLengthError",
    "ContentFilterError",
    "RequestTooLargeError",
    "RateLimitError",
    "QuotaExceededError",
    "ServerError",
    "APIEmptyResponseError",
    "StreamProtocolError",
    "FunctionCallException",
    "WrappedCallException",
    "NoSuchFunction",
    "ToolArgumentsError",
    "FunctionTimeout",
    "CallRejected",
    "SubAgentError",
    "MCPServerError",
    "ModelRetry",
    "FunctionSpecError",
    "PromptError",
    "PromptTooLong",
    "MessageTooLong",
    "RoundInProgressError",
    "ApprovalPending",
    "UsageLimitExceeded",
    "RanksError",
    "SessionError",
    "SessionConflictError",
    "StructuredOutputError",
]

logger.disable("kimi_agent")

_ROOMS = (
    "message",
    "errors",
    "events",
    "provider",
    "tools.base",
    "tools.function",
    "kimi.client",
    "agent",
    "tools.texts",
    "tools.callable",
    "tools.toolset",
    "tools.mapping",
    "tools.context",
    "tools.approval",
    "tools.allowance",
    "tools.running",
    "frames",
    "kimi.answer",
    "kimi.models",
    "kimi.patience",
    "kimi.endpoints",
    "kimi.files",
    "kimi.formulas",
    "kimi.schema",
    "limits",
    "prompt.compaction",
    "prompt.exact",
    "prompt.pipeline",
    "prompt.rawtext",
    "raw.base",
    "raw.kimi_k2",
    "raw.kimi_k3",
    "raw.harmony",
    "raw.deepseek",
    "raw.qwen3",
    "raw.mistral",
    "raw.llama3",
    "raw.naive",
    "stream",
    "session.state",
    "session.journal",
    "session.sqlite",
    "structured.markdown",
    "structured.sections",
    "structured.handlers",
    "structured.format",
    "structured.records",
    "structured.parsing",
    "structured.output",
    "tools.mcp",
    "terminal.chat.chat",
    "terminal.formatters",
    "terminal.text",
)
"""Where the public names live, looked for in this order: what most programs begin with comes first."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for room in _ROOMS:
        module = import_module(f".{room}", __name__)
        if name in module.__all__:
            value = globals()[name] = getattr(module, name)
            return value
    raise AttributeError(f"{name!r} is public but lives in no room")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
