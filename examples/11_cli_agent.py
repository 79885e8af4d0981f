"""An agent for the terminal. It keeps notes, and asks before it deletes one.

On a terminal, the command runs it:  `cd examples; kimi-agent chat 11_cli_agent:Notes`
One question, for scripts:           `kimi-agent run "Add a note: buy tea" --agent 11_cli_agent:Notes`
With KIMI_API_KEY set:               `python examples/11_cli_agent.py`
Without a key:                       `python examples/offline.py examples/11_cli_agent.py`
"""

from typing import Annotated

from kimi_agent import Agent, AIParam, ChatProvider, Kimi, ModelRetry, ai_function, chat_in_terminal


class Notes(Agent):
    def __init__(self, provider: ChatProvider) -> None:  # what the command calls it with
        super().__init__(provider, "You keep the notes of the user. Answer in one line.")
        self.notes = {1: "water the plants", 2: "call Ada"}

    @ai_function()
    async def list_notes(self) -> dict[int, str]:
        """List all notes by number."""
        return self.notes

    @ai_function()
    async def add_note(self, text: Annotated[str, AIParam("what to remember")]) -> int:
        """Add a note; gives its number."""
        number = max(self.notes, default=0) + 1
        self.notes[number] = text
        return number

    @ai_function(approval=True)
    async def delete_note(self, number: int) -> str:
        """Delete a note by number."""
        if number not in self.notes:
            raise ModelRetry(f"There is no note {number}. Notes: {', '.join(map(str, self.notes))}.")
        return f"deleted: {self.notes.pop(number)}"


if __name__ == "__main__":
    chat_in_terminal(Notes(Kimi()), show_function_args=True, show_function_returns=True)
