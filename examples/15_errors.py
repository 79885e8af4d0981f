"""What becomes of a call that went wrong: some errors may be tried again, some are for a person and not for the model.

With KIMI_API_KEY set: `python examples/15_errors.py`
Without a key:         `python examples/offline.py examples/15_errors.py`
"""

import asyncio

from kimi_agent import (
    Agent,
    ExceptionHandleResult,
    FunctionCallException,
    Kimi,
    Message,
    ToolCall,
    WrappedCallException,
    ai_function,
)


class Stock(Agent):
    @ai_function()
    async def get_stock(self, item: str) -> int:
        """How many pieces of an item are in stock."""
        if item == "tea":
            raise ConnectionError("the database db-3.internal does not answer")
        return {"coffee": 12}[item]

    async def handle_function_call_exception(
        self, call: ToolCall, err: FunctionCallException, attempt: int
    ) -> ExceptionHandleResult:
        if isinstance(err, WrappedCallException) and isinstance(err.original, ConnectionError):
            print("for the log:", err.original)
            sorry = Message.tool("The stock list is closed today. Tell the user to call the shop.", call.id)
            return ExceptionHandleResult(should_retry=False, message=sorry)
        return await super().handle_function_call_exception(call, err, attempt)


async def main() -> None:
    async with Stock(Kimi()) as agent:
        for question in ('What is in stock of the item "tea"?', 'What is in stock of the item "milk"?'):
            print("user:", question)
            async for message in agent.full_round(question):
                print(f"{message.role}{' (error)' if message.is_tool_call_error else ''}:", message.text or "...")


if __name__ == "__main__":
    asyncio.run(main())
