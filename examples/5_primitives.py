"""Without an agent: a tool that is a class, one turn with `step`, and an agent loop over it.

With KIMI_API_KEY set: `python examples/5_primitives.py`
Without a key:         `python examples/offline.py examples/5_primitives.py`
"""

import asyncio

from pydantic import BaseModel

from kimi_agent import CallableTool2, Kimi, Message, SimpleToolset, StepResult, ToolOk, ToolReturnValue, step
from kimi_agent import tool_result_to_message as to_message


class AddToolParams(BaseModel):
    a: int
    b: int


class AddTool(CallableTool2[AddToolParams]):
    name: str = "add"
    description: str = "Add two integers."
    params: type[AddToolParams] = AddToolParams

    async def __call__(self, params: AddToolParams) -> ToolReturnValue:
        return ToolOk(output=str(params.a + params.b))


async def agent_loop(kimi: Kimi, toolset: SimpleToolset, history: list[Message]) -> str:
    while True:
        result = await step(chat_provider=kimi, system_prompt="You are terse.", toolset=toolset, history=history)
        history.append(result.message)
        if not result.tool_calls:
            return result.message.extract_text()
        history.extend(map(to_message, await result.tool_results()))


async def main() -> None:
    toolset = SimpleToolset()
    toolset += AddTool()
    history = [Message(role="user", content="Please add 2 and 3 with the add tool.")]
    async with Kimi(model="kimi-k3") as kimi:
        result: StepResult = await step(
            chat_provider=kimi, system_prompt="You are a precise math tutor.", toolset=toolset, history=history
        )
        print(result.message)
        print(await result.tool_results())
        print("answer:", await agent_loop(kimi, toolset, history))


if __name__ == "__main__":
    asyncio.run(main())
