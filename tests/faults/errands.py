"""What a campaign asks for, and the model that answers it: what is right is known, whatever happens on the way.

An errand is a word and stages, each with the functions to call in it. The model calls them stage by stage, and at last
says the word and every result that it was shown. A result names the function, the word and the place of the call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Self

from kimi_agent import Agent, Message, ModelRetry, ai_function
from kimi_agent.testing import Reply, call

__all__ = ["Errand", "Worker", "answer", "is_asked", "is_right"]

LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789äß中文"


@dataclass(frozen=True)
class Errand:
    """What is asked for.

    Args:
        word: that the answer has to begin with.
        stages: the names of the functions to call in each.
    """

    word: str
    stages: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def drawn(cls, dice: Random) -> Self:
        """Any errand."""
        word = "".join(dice.choices(LETTERS, k=6))
        sizes = dice.choices(([], [1], [2], [1, 1], [3], [2, 1]), (5, 4, 3, 2, 1, 1))[0]
        return cls(word, tuple(tuple(dice.choices(NAMES, LIKELY, k=size)) for size in sizes))

    @property
    def question(self) -> str:
        """What the user says."""
        return f"{self.word}: " + " | ".join(" ".join(stage) for stage in self.stages)

    @classmethod
    def asked_by(cls, question: str) -> Self:
        """The errand of a question."""
        word, _, rest = question.partition(":")
        stages = [tuple(stage.split()) for stage in rest.split("|")]
        return cls(word, tuple(stage for stage in stages if stage))

    @property
    def tokens(self) -> list[str]:
        """What the results have in them when nobody stops anything."""
        return [
            token(name, item) for number, names in enumerate(self.stages) for name, item in self.calls_of(number, names)
        ]

    def calls_of(self, number: int, names: Sequence[str]) -> list[tuple[str, str]]:
        """The calls of a stage, each with its argument."""
        return [(name, f"{self.word}.{number}.{place}") for place, name in enumerate(names)]

    def answer_to(self, results: Sequence[str]) -> str:
        """What the model says at last."""
        return " / ".join([f"{self.word} is done", *results])


def token(name: str, item: str) -> str:
    """What a function gives."""
    return f"<{name} {item}>"


def is_asked(said: Sequence[Message], errand: Errand) -> bool:
    """Whether an errand is the last thing that the user wants."""
    wanted = next((message.text for message in reversed(said) if message.role == "user"), None)
    return wanted == errand.question


def is_right(said: Sequence[Message], errand: Errand) -> bool:
    """Whether a conversation ends with the right answer to an errand, of the results that it has."""
    if not is_asked(said, errand):
        return False
    start = max(place for place, message in enumerate(said) if message.role == "user")
    results = [message.text for message in said[start:] if message.role == "tool"]
    stage = sum(message.role == "assistant" for message in said[start:-1])
    wanted = errand.answer_to(results), _reasoning(errand, _dice(errand, stage), stage)
    return said[-1].role == "assistant" and (said[-1].text, said[-1].reasoning) == wanted


# ==== the model ====


def answer(body: dict[str, Any]) -> Reply:
    """What the model says next; the rest of it, if the request has the beginning."""
    *before, last = messages = body["messages"]
    begun = last if last.get("partial") else {}
    said = before if begun else messages
    reply = _whole(said, allowed=body.get("tool_choice") != "none")
    text = (begun.get("content") or ""), (begun.get("reasoning_content") or "")
    reasoning = None if text[0] or reply.reasoning is None else reply.reasoning[len(text[1]) :]
    return Reply(reply.text[len(text[0]) :], reasoning, reply.tool_calls, chunk_size=reply.chunk_size)


def _whole(said: Sequence[dict[str, Any]], *, allowed: bool) -> Reply:
    start = max(place for place, message in enumerate(said) if message["role"] == "user")
    errand, since = Errand.asked_by(said[start]["content"]), said[start + 1 :]
    stage = sum(message["role"] == "assistant" for message in since)
    dice = _dice(errand, stage)
    reasoning = _reasoning(errand, dice, stage)
    size = dice.randint(8, 48)
    if stage >= len(errand.stages) or not allowed:
        results = [message["content"] for message in since if message["role"] == "tool"]
        return Reply(errand.answer_to(results), reasoning, chunk_size=size)
    calls = [call(name, item=item) for name, item in errand.calls_of(stage, errand.stages[stage])]
    text = f"{errand.word} goes on." if dice.random() < 0.5 else ""
    return Reply(text, reasoning, calls, chunk_size=size)


def _dice(errand: Errand, stage: int) -> Random:
    return Random(f"{errand.word}/{stage}")


def _reasoning(errand: Errand, dice: Random, stage: int) -> str | None:
    """What the model reasons about first; `None` if it does not."""
    return f"What does {errand.word} want in stage {stage}?" if dice.random() < 0.5 else None


# ==== the agent ====


class Worker(Agent):
    """Runs errands, and remembers which functions have finished."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.finished: list[str] = []
        """What the functions gave that the event loop runs."""
        self.finished_in_threads: list[str] = []

    @ai_function()
    async def quick(self, item: str) -> str:
        """At once."""
        return self._finish("quick", item)

    @ai_function()
    async def slow(self, item: str) -> str:
        """After a while."""
        for _ in range(8):
            await asyncio.sleep(0)
        await asyncio.sleep(0.002)
        return self._finish("slow", item)

    @ai_function()
    async def stubborn(self, item: str) -> str:
        """After a while, and also when it is told to stop."""
        try:
            await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return self._finish("stubborn", item)

    @ai_function()
    async def fails(self, item: str) -> str:
        """Never."""
        await asyncio.sleep(0)
        raise ValueError(self._finish("fails", item))

    @ai_function()
    async def declines(self, item: str) -> str:
        """Tell the model to do it differently."""
        raise ModelRetry(self._finish("declines", item))

    @ai_function(approval=True)
    async def asks(self, item: str) -> str:
        """Only if somebody approves."""
        await asyncio.sleep(0)
        return self._finish("asks", item)

    @ai_function()
    def blocks(self, item: str) -> str:
        """In a thread."""
        time.sleep(0.001)
        self.finished_in_threads.append(token("blocks", item))
        return token("blocks", item)

    def _finish(self, name: str, item: str) -> str:
        self.finished.append(token(name, item))
        return token(name, item)


LIKELIHOODS: Final = {"quick": 4, "slow": 4, "stubborn": 2, "fails": 2, "declines": 1, "asks": 2, "blocks": 2}
NAMES, LIKELY = list(LIKELIHOODS), list(LIKELIHOODS.values())
"""The functions, and how often each is wanted."""
