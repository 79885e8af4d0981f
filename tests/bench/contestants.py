"""One peer at work, in its own environment: `peers.py` runs this and says what to do, a line of JSON at a time.

Each contestant streams the way its documentation shows, with a client that it made itself. It does the same work as
the others: it hands over every piece of a text, runs eight calls that came in one message, and goes on with a
conversation that it has in memory, in its own types. What it gives is checked by whoever asked.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from pydantic import BaseModel  # every one of them has it

MODEL, KEY = "kimi-k3", "sk-test"
SYSTEM = "You are a precise math tutor."
QUESTION = "Please add these eight pairs of numbers."
WINDOW = 1_048_576
"""Tokens, of Kimi K3: everything fits."""

Pieces: TypeAlias = list[str]
"""A text as it came."""


async def add(a: int, b: int) -> str:
    """Add two integers."""
    return str(a + b)


class Pair(BaseModel):
    a: int
    b: int


class Contestant:
    """One library, at one base URL."""

    def __init__(self, url: str) -> None:
        raise NotImplementedError

    async def text(self) -> Pieces:
        """Ask a new conversation without tools."""
        raise NotImplementedError

    async def tools(self) -> tuple[list[str], Pieces]:
        """Ask a new conversation that has `add`: what its calls gave, and the text after them."""
        raise NotImplementedError

    def conversation(self, texts: Sequence[str]) -> Callable[[], Awaitable[Pieces]]:
        """A conversation in which that was said, by turns; asking goes on with it."""
        raise NotImplementedError


# ==== by hand ====


class ByHand(Contestant):
    """httpx, a split, a JSON decoder and a list of dicts: what nobody can do without."""

    def __init__(self, url: str) -> None:
        import httpx
        from pydantic_core import from_json, to_json

        self.url, self.client = f"{url}/chat/completions", httpx.AsyncClient()
        self.decoded, self.encoded = from_json, to_json

    async def deltas(self, messages: list[dict[str, Any]], **more: Any) -> AsyncIterator[dict[str, Any]]:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        body = self.encoded({"model": MODEL, "messages": messages, "stream": True, **more})
        async with self.client.stream("POST", self.url, content=body, headers=headers) as response:
            tail = b""
            async for data in response.aiter_raw():
                *lines, tail = (tail + data).split(b"\n\n")
                for line in lines:
                    if line.startswith(b"data: {"):
                        yield self.decoded(line[6:])["choices"][0]["delta"]

    async def said(self, messages: list[dict[str, Any]]) -> Pieces:
        return [text async for delta in self.deltas(messages) if (text := delta.get("content"))]

    async def text(self) -> Pieces:
        return await self.said(dicts([QUESTION]))

    async def tools(self) -> tuple[list[str], Pieces]:
        messages, calls = dicts([QUESTION]), list[dict[str, Any]]()
        async for delta in self.deltas(messages, tools=[ADD]):
            for piece in delta.get("tool_calls", ()):
                if "id" in piece:
                    calls.append(piece)
                else:
                    calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
        sums = await asyncio.gather(*(add(**self.decoded(call["function"]["arguments"])) for call in calls))
        messages += [{"role": "assistant", "content": "", "tool_calls": calls}, *results(calls, sums)]
        return list(sums), await self.said(messages)

    def conversation(self, texts: Sequence[str]) -> Callable[[], Awaitable[Pieces]]:
        messages = dicts(texts)

        async def ask() -> Pieces:
            messages.append({"role": "user", "content": QUESTION})
            pieces = await self.said(messages)
            messages.append({"role": "assistant", "content": "".join(pieces)})
            return pieces

        return ask


INTEGERS = {"a": {"type": "integer"}, "b": {"type": "integer"}}
PARAMETERS = {"type": "object", "properties": INTEGERS, "required": ["a", "b"]}
ADD = {"type": "function", "function": {"name": "add", "description": add.__doc__, "parameters": PARAMETERS}}


def dicts(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Messages as they are sent, the system prompt before them."""
    return [{"role": "system", "content": SYSTEM}, *by_turns(texts, said_by("user"), said_by("assistant"))]


def said_by(role: str) -> Callable[[str], dict[str, Any]]:
    """Makes messages of a role."""
    return lambda text: {"role": role, "content": text}


def by_turns(texts: Sequence[str], user: Callable[[str], Any], assistant: Callable[[str], Any]) -> list[Any]:
    """Messages, made of texts that the user begins with."""
    makers = user, assistant
    return [makers[number % 2](text) for number, text in enumerate(texts)]


def results(calls: Sequence[dict[str, Any]], sums: Sequence[str]) -> list[dict[str, Any]]:
    """What calls gave, as messages."""
    answered = zip(calls, sums, strict=True)
    return [{"role": "tool", "tool_call_id": call["id"], "content": total} for call, total in answered]


class OpenAI(ByHand):
    """The SDK's streamed chat completions. It has no agents: what is around it is done by hand."""

    def __init__(self, url: str) -> None:
        from openai import AsyncOpenAI

        self.client = AsyncOpenAI(base_url=url, api_key=KEY)

    async def said(self, messages: list[dict[str, Any]]) -> Pieces:
        stream = await self.client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        return [text async for chunk in stream if (text := chunk.choices[0].delta.content)]

    async def tools(self) -> tuple[list[str], Pieces]:
        messages, calls = dicts([QUESTION]), list[Any]()
        stream = await self.client.chat.completions.create(model=MODEL, messages=messages, tools=[ADD], stream=True)
        async for chunk in stream:
            for piece in chunk.choices[0].delta.tool_calls or ():
                if piece.id:
                    calls.append(piece)
                else:
                    calls[piece.index].function.arguments += piece.function.arguments
        sums = await asyncio.gather(*(add(**json.loads(call.function.arguments)) for call in calls))
        asked = [call.model_dump(exclude_none=True) for call in calls]
        messages += [{"role": "assistant", "content": "", "tool_calls": asked}, *results(asked, sums)]
        return list(sums), await self.said(messages)


# ==== functions of one turn ====


class Step(Contestant):
    """`generate` and `step`, which keep no state: of kimi_agent, and of kosong, which has the same names."""

    def __init__(self, url: str) -> None:
        import kimi_agent
        from kimi_agent import CallableTool2, Kimi, Message, SimpleToolset, ToolOk, ToolReturnValue

        self.library, self.Message, self.kimi = kimi_agent, Message, Kimi(MODEL, base_url=url, api_key=KEY)
        self.toolset = self.toolset_of(CallableTool2, ToolOk, ToolReturnValue, SimpleToolset)

    @staticmethod
    def toolset_of(tool: Any, ok: Any, value: Any, toolset: Any) -> Any:
        """`add`, as both libraries have it."""

        class Add(tool[Pair]):
            name: str = "add"
            description: str = str(add.__doc__)
            params: type[Pair] = Pair

            async def __call__(self, params: Pair) -> value:
                return ok(output=await add(params.a, params.b))

        return toolset([Add()])

    async def said(self, history: list[Any], pieces: Pieces, *, step: bool = False) -> Any:
        """The result of a turn; the text goes into `pieces` as it comes."""

        def more(part: Any) -> None:
            if getattr(part, "type", None) == "text":
                pieces.append(part.text)

        if step:
            return await self.library.step(self.kimi, SYSTEM, self.toolset, history, on_message_part=more)
        return await self.library.generate(self.kimi, SYSTEM, [], history, on_message_part=more)

    def message(self, role: str, text: Any, **more: Any) -> Any:
        return self.Message(role=role, content=text, **more)

    async def text(self) -> Pieces:
        pieces: Pieces = []
        await self.said([self.message("user", QUESTION)], pieces)
        return pieces

    async def tools(self) -> tuple[list[str], Pieces]:
        history, pieces = [self.message("user", QUESTION)], list[str]()
        first = await self.said(history, [], step=True)
        results = await first.tool_results()
        sums = [result.return_value.output for result in results]
        answered = zip(results, sums, strict=True)
        told = [self.message("tool", total, tool_call_id=result.tool_call_id) for result, total in answered]
        await self.said([*history, first.message, *told], pieces, step=True)
        return sums, pieces

    def conversation(self, texts: Sequence[str]) -> Callable[[], Awaitable[Pieces]]:
        history = by_turns(texts, partial(self.message, "user"), partial(self.message, "assistant"))

        async def ask() -> Pieces:
            pieces: Pieces = []
            history.append(self.message("user", QUESTION))
            history.append((await self.said(history, pieces)).message)
            return pieces

        return ask


class Kosong(Step):
    """kosong's own provider for Kimi."""

    def __init__(self, url: str) -> None:
        import kosong
        from kosong.chat_provider.kimi import Kimi
        from kosong.message import Message
        from kosong.tooling import CallableTool2, ToolOk, ToolReturnValue
        from kosong.tooling.simple import SimpleToolset

        self.library, self.Message, self.kimi = kosong, Message, Kimi(model=MODEL, base_url=url, api_key=KEY)
        self.toolset = self.toolset_of(CallableTool2, ToolOk, ToolReturnValue, SimpleToolset)


# ==== agents that keep their conversation ====


class StreamedRounds(Contestant):
    """`full_round_stream` of an agent: of kimi_agent, and of kani, which has the same names.

    `Agent` is the class without functions, `Tutor` the one with `add`; `model` is what either asks.
    """

    model: Any
    Agent: Any
    Tutor: Any
    Message: Any

    async def said(self, agent: Any) -> tuple[list[str], Pieces]:
        """One round: what its calls gave, and its text."""
        raise NotImplementedError

    def with_window(self, tokens: int) -> Any:
        """A model for so many tokens."""
        raise NotImplementedError

    async def text(self) -> Pieces:
        return (await self.said(self.Agent(self.model, SYSTEM)))[1]

    async def tools(self) -> tuple[list[str], Pieces]:
        return await self.said(self.Tutor(self.model, SYSTEM))

    def conversation(self, texts: Sequence[str]) -> Callable[[], Awaitable[Pieces]]:
        agent = self.Agent(self.model, SYSTEM, chat_history=self.messages(texts))

        async def ask() -> Pieces:
            return (await self.said(agent))[1]

        return ask

    def messages(self, texts: Sequence[str]) -> list[Any]:
        return by_turns(texts, self.Message.user, self.Message.assistant)

    async def prompt(self, texts: Sequence[str], kept: int) -> Callable[[], Awaitable[int]]:
        """Such a conversation in a window for its newest messages: how many of them go into the next prompt."""
        counting = self.Agent(self.model, SYSTEM)
        pinned = counting.always_included_messages
        window = await counting.prompt_token_len([*pinned, *self.messages(texts)[-kept:]])
        model, history = self.with_window(window + 1), self.messages(texts)
        agent = self.Agent(model, SYSTEM, chat_history=history, desired_response_tokens=1)

        async def ask() -> int:
            return len(await agent.get_prompt())

        return ask


class KimiAgent(StreamedRounds):
    """Ours."""

    def __init__(self, url: str) -> None:
        from kimi_agent import Agent, Kimi, Message, ai_function

        class Tutor(Agent):
            @ai_function()
            async def add(self, a: int, b: int) -> str:
                """Add two integers."""
                return await add(a, b)

        self.model, self.Agent, self.Tutor, self.Message = Kimi(MODEL, base_url=url, api_key=KEY), Agent, Tutor, Message

    async def said(self, agent: Any) -> tuple[list[str], Pieces]:
        sums, pieces = list[str](), list[str]()
        async for stream in agent.full_round_stream(QUESTION):
            heard = sums if stream.role == "tool" else pieces
            async for token in stream:
                heard.append(token)
        return sums, pieces

    def with_window(self, tokens: int) -> Any:
        from kimi_agent.testing import ScriptedKimi

        return ScriptedKimi([], context_window=tokens)


class Estimate:
    """A tokenizer for kani, whose own is fetched from the internet: four characters are a token, as we estimate."""

    def encode(self, text: str) -> range:
        return range(len(text) // 4)


class Kani(StreamedRounds):
    """kani's, with its engine for OpenAI."""

    def __init__(self, url: str) -> None:
        import kani
        from kani import ChatMessage, ai_function
        from kani.engines.openai import OpenAIEngine

        class Tutor(kani.Kani):
            @ai_function()
            async def add(self, a: int, b: int) -> str:
                """Add two integers."""
                return await add(a, b)

        def engine(window: int) -> OpenAIEngine:
            return OpenAIEngine(KEY, MODEL, window, api_type="chat_completions", api_base=url, tokenizer=Estimate())

        self.model, self.Agent, self.Tutor, self.Message = engine(WINDOW), kani.Kani, Tutor, ChatMessage
        self.with_window = engine

    async def said(self, agent: Any) -> tuple[list[str], Pieces]:
        sums, pieces = list[str](), list[str]()
        async for stream in agent.full_round_stream(QUESTION):
            if stream.role.value == "function":
                sums.append((await stream.message()).text)
            else:
                async for token in stream:
                    pieces.append(token)
        return sums, pieces


class OpenAIAgents(Contestant):
    """`Runner.run_streamed`, without the tracing that uploads."""

    def __init__(self, url: str) -> None:
        from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
        from openai import AsyncOpenAI

        set_tracing_disabled(True)
        model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=url, api_key=KEY))
        self.Runner = Runner
        self.plain = Agent(name="tutor", instructions=SYSTEM, model=model)
        self.tutor = Agent(name="tutor", instructions=SYSTEM, model=model, tools=[function_tool(add)])

    async def said(self, agent: Any, asked: Any) -> tuple[Any, Pieces]:
        result, pieces = self.Runner.run_streamed(agent, asked), list[str]()
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                pieces.append(event.data.delta)
        return result, pieces

    async def text(self) -> Pieces:
        return (await self.said(self.plain, QUESTION))[1]

    async def tools(self) -> tuple[list[str], Pieces]:
        result, pieces = await self.said(self.tutor, QUESTION)
        return [item.output for item in result.new_items if item.type == "tool_call_output_item"], pieces

    def conversation(self, texts: Sequence[str]) -> Callable[[], Awaitable[Pieces]]:
        history = dicts(texts)[1:]

        async def ask() -> Pieces:
            nonlocal history
            result, pieces = await self.said(self.plain, [*history, {"role": "user", "content": QUESTION}])
            history = result.to_input_list()
            return pieces

        return ask


class PydanticAI(Contestant):
    """`Agent.run_stream` and `stream_text(delta=True)`; without its debouncing, which would hold pieces back."""

    def __init__(self, url: str) -> None:
        from pydantic_ai import Agent
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY))
        self.plain = Agent(model, instructions=SYSTEM)
        self.tutor = Agent(model, instructions=SYSTEM, tools=[add])

    async def said(self, agent: Any, history: Any = None) -> tuple[list[Any], Pieces]:
        async with agent.run_stream(QUESTION, message_history=history) as result:
            pieces = [text async for text in result.stream_text(delta=True, debounce_by=None)]
        return result.all_messages(), pieces

    async def text(self) -> Pieces:
        return (await self.said(self.plain))[1]

    async def tools(self) -> tuple[list[str], Pieces]:
        messages, pieces = await self.said(self.tutor)
        parts = [part for message in messages for part in message.parts]
        return [part.content for part in parts if part.part_kind == "tool-return"], pieces

    def conversation(self, texts: Sequence[str]) -> Callable[[], Awaitable[Pieces]]:
        from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart

        history = by_turns(texts, ModelRequest.user_text_prompt, lambda text: ModelResponse(parts=[TextPart(text)]))

        async def ask() -> Pieces:
            nonlocal history
            history, pieces = await self.said(self.plain, history)
            return pieces

        return ask


CONTESTANTS: dict[str, type[Contestant]] = {
    "by hand": ByHand,
    "step": Step,
    "Agent": KimiAgent,
    "openai": OpenAI,
    "kosong": Kosong,
    "kani": Kani,
    "openai-agents": OpenAIAgents,
    "pydantic-ai-slim": PydanticAI,
}

# ==== what it is told to do ====

Timed: TypeAlias = tuple[float, Any]
"""Seconds of CPU of this process, in all its threads, and what came of it."""

WORDS = "the quick brown fox jumps over the lazy dog and runs on to the next town before night"


async def timed(work: Callable[[], Awaitable[Any]]) -> Timed:
    gc.collect()
    before = time.process_time()
    outcome = await work()
    return time.process_time() - before, outcome


async def text(contestant: Contestant) -> list[Timed]:
    return [await timed(contestant.text)]


async def tools(contestant: Contestant, rounds: int) -> list[Timed]:
    return [await timed(contestant.tools) for _ in range(rounds)]


async def history(contestant: Contestant, said: int) -> list[Timed]:
    """Two turns behind so many messages, which nobody has looked at before."""
    ask = contestant.conversation(texts(said))
    return [await timed(ask), await timed(ask)]


async def prompt(contestant: StreamedRounds, said: int, kept: int) -> list[Timed]:
    """The prompt of so many messages, twice; and twice where only the newest fit."""
    prompts = [await contestant.prompt(texts(said), fitting) for fitting in (said, kept)]
    return [await timed(ask) for ask in prompts for _ in range(2)]


def texts(said: int) -> list[str]:
    return [f"{number}: {WORDS}" for number in range(said)]


WORKS = {"text": text, "tools": tools, "history": history, "prompt": prompt}


def main(name: str) -> None:
    """Do what each line of the standard input says; print what it took and what came of it, or what went wrong."""
    made: dict[str, Contestant] = {}
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            work, url, *numbers = json.loads(line)
            try:
                if url not in made:
                    made[url] = CONTESTANTS[name](url)
                said: Any = runner.run(WORKS[work](made[url], *numbers))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
