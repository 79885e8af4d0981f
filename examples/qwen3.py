"""A pipeline that writes prompts as Qwen3 reads them: functions, calls, results and reasoning."""

import json

from kimi_agent import ApplyContext, Message, PromptPipeline, Tool, ToolCall

TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def declare(messages: list[Message], functions: list[Tool]) -> list[Message]:
    """Say which functions there are, behind the system prompt, in the words that Qwen3 has learnt."""
    schemas = [{"type": "function", "function": tool.model_dump()} for tool in functions]
    tools = TOOLS.format("\n".join(json.dumps(schema, ensure_ascii=False) for schema in schemas))
    system = [message for message in messages[:1] if message.role == "system"]
    told = Message.system("\n\n".join([*(message.text for message in system), tools]))
    return [told, *messages[len(system) :]] if functions else messages


def as_written(call: ToolCall) -> str:
    """A call as the model wrote it."""
    return f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.arguments}}}\n</tool_call>'


def with_reasoning(message: Message, ctx: ApplyContext) -> Message:
    """An answer with its reasoning. Qwen3 wants to see none from before the last question."""
    if not message.reasoning or any(later.role == "user" for later in ctx.messages[ctx.idx :]):
        return message
    return message.copy_with(content=f"<think>\n{message.reasoning}\n</think>\n\n{message.text}")


qwen3 = (
    PromptPipeline()
    .macro_apply(declare)
    .function_call_fmt(as_written, sep="\n")
    .apply(with_reasoning, role="assistant")
    .wrap(role="tool", prefix="<tool_response>\n", suffix="\n</tool_response>")
    .merge_consecutive(role="tool", sep="\n")
    .conversation_fmt(
        system_prefix="<|im_start|>system\n",
        system_suffix="<|im_end|>\n",
        user_prefix="<|im_start|>user\n",
        user_suffix="<|im_end|>\n",
        assistant_prefix="<|im_start|>assistant\n",
        assistant_suffix="<|im_end|>\n",
        generation_suffix="<|im_start|>assistant\n",
    )
)
