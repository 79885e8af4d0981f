"""Approvals: some calls run only when a person says so, now or later.

With KIMI_API_KEY set: `python examples/8_approval.py`
Without a key:         `python examples/offline.py examples/8_approval.py`
"""

import asyncio
import tempfile
from pathlib import Path

from kimi_agent import Agent, Approval, ApprovalPending, JournalSession, Kimi, ToolCall, ToolLike, ai_function


class Bank(Agent):
    @ai_function(approval=lambda arguments: arguments["amount"] > 100)
    async def transfer_money(self, to: str, amount: int) -> str:
        """Transfer money to somebody."""
        return f"{amount} went to {to}"

    @ai_function(approval=True)
    async def close_account(self, name: str) -> str:
        """Close an account for good."""
        return f"the account {name} is closed"

    async def approve_function_call(self, call: ToolCall, function: ToolLike) -> Approval:
        if call.name == "close_account":
            return Approval.reject("Accounts are closed at the counter.")
        return await super().approve_function_call(call, function)  # it waits


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = ""
        async with Bank(Kimi(), session=JournalSession(Path(folder) / "talk.jsonl")) as bank:
            for question in ('Close account "Ada".', 'Transfer money: 20 to "Ada".', 'Transfer money: 500 to "Bob".'):
                print("user:", question)
                try:
                    async for message in bank.full_round(question):
                        print(f"{message.role}: {message.text}" if message.text else f"{message.role} calls")
                except ApprovalPending as pending:
                    print("waiting:", [(call.name, call.args) for call in pending.calls])
                    written = Approval.approve(pending.calls[0]).model_dump_json()

        async with Bank(Kimi(), session=JournalSession(Path(folder) / "talk.jsonl")) as bank:  # another process, say
            async for message in bank.resume([Approval.model_validate_json(written)]):
                print(f"{message.role}: {message.text}")


if __name__ == "__main__":
    asyncio.run(main())
