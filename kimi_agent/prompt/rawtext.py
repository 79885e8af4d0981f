"""`RawTextProvider`: a model on a server of one's own that answers in raw text, as a `ChatProvider`."""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, Self, TypeAlias, cast, runtime_checkable

from loguru import logger

from ..errors import StreamInterruptedError
from ..events import CUT_OFF, Append, End, Reasoning, StreamFrame, ToolCallDelta
from ..generate import batches_of
from ..history import Repaired, calls_of, repair
from ..kimi.assemble import fold, parts_in
from ..kimi.models import ModelInfo, model_info
from ..kimi.prompts import Prompt
from ..message import Message, StreamedMessagePart, TokenUsage, ToolCall
from ..provider import Batches, ChatProvider, GenerationKwargs, OnEvent, StreamedMessage
from ..raw.base import BaseParser
from ..tools.base import Tool
from ..tools.texts import DEFAULT_TEXTS

__all__ = ["RawTextMessage", "RawTextProvider"]

Pipeline: TypeAlias = Callable[[list[Message], list[Tool]], Prompt]
"""What makes a prompt, such as a `PromptPipeline` that ends with `conversation_fmt` or `conversation_dict`."""


@runtime_checkable
class Completer(Protocol):
    """A provider that takes prompts as the model reads them, as `Kimi` does."""

    async def complete(
        self, prompt: Prompt, *, generation_overrides: GenerationKwargs | None = None, on_event: OnEvent | None = None
    ) -> StreamedMessage:
        """Let the model go on."""
        ...


class RawTextProvider:
    """Makes reasoning and calls of what a model writes as text.

        provider = RawTextProvider(Kimi("qwen3", base_url="http://localhost:8000/v1", api_key="x"), Qwen3Parser)
        agent = Agent(provider)

    What the server reads itself, reasoning or calls, is kept, and the parser reads the rest.

    Args:
        provider: who is asked: `Kimi` with the address of the server.
        parser: makes a parser for each answer: a class, or `partial(KimiK2Parser, thinking=False)`.
        pipeline: makes the prompt of the messages, the system prompt first, and the functions. A text goes to
            `/completions`. A list of messages as JSON goes to `/chat/completions`, and the functions do not: the
            pipeline has had them. If it names none of them, a `UserWarning` says so, once. Without a pipeline, messages
            and functions go to `/chat/completions` as ever, and the server's own template makes the prompt.

    Raises:
        TypeError: there is a pipeline, and the provider has no `complete`.
    """

    def __init__(
        self, provider: ChatProvider, parser: Callable[[], BaseParser], pipeline: Pipeline | None = None
    ) -> None:
        if pipeline is not None and not isinstance(provider, Completer):
            raise TypeError(f"a pipeline needs a provider that completes prompts, as Kimi does, not {provider!r}")
        self.provider = provider
        self._make_parser = parser
        self._pipeline = pipeline
        self._looked = False

    def __repr__(self) -> str:
        return f"RawTextProvider({self.provider!r})"

    @property
    def name(self) -> str:
        """Of the provider that is asked."""
        return self.provider.name

    @property
    def model_name(self) -> str:
        """Of the model."""
        return self.provider.model_name

    @property
    def context_window(self) -> int:
        """How many tokens prompt and completion may have together."""
        return self.provider.context_window

    @property
    def model_info(self) -> ModelInfo:
        """What is known of the model."""
        return getattr(self.provider, "model_info", None) or model_info(self.model_name)

    @property
    def generation_kwargs(self) -> Mapping[str, Any]:
        """What the provider sends with each request."""
        return getattr(self.provider, "generation_kwargs", {})

    async def generate(
        self,
        system_prompt: str,
        tools: Sequence[Tool],
        history: Sequence[Message],
        *,
        generation_overrides: GenerationKwargs | None = None,
        on_event: OnEvent | None = None,
    ) -> RawTextMessage:
        """Ask the model. Returns when it begins to answer; close what it returns.

        Args:
            system_prompt: goes before the history; `""` for none.
            tools: what the model may call.
            history: the messages; they are not changed.
            generation_overrides: for this request only. Without `stop`, a text is sent with the parser's.
            on_event: gets `RequestSent` and `RequestRetried`, and is awaited if it is async.

        Raises:
            PromptError: the pipeline can make no prompt of the messages.
            ChatProviderError: the model could not be asked.
        """
        parser = self._make_parser()
        ids = [call.id for message in history for call in calls_of(message)]
        parser.ids_before, parser.calls_before = frozenset(ids), _first_number(ids)
        if self._pipeline is None:
            overrides = self._with_old_limit(generation_overrides)
            answer = await self.provider.generate(
                system_prompt, tools, history, generation_overrides=overrides, on_event=on_event
            )
            return RawTextMessage(answer, parser)
        whole = history if isinstance(history, Repaired) else repair(history, interrupted=DEFAULT_TEXTS.interrupted())
        system = [Message.system(system_prompt)] if system_prompt else []
        prompt = self._pipeline([*system, *whole], list(tools))
        self._look_for(tools, prompt)
        overrides = self._with_stop(generation_overrides, parser) if isinstance(prompt, str) else generation_overrides
        completer = cast(Completer, self.provider)
        answer = await completer.complete(prompt, generation_overrides=overrides, on_event=on_event)
        return RawTextMessage(answer, parser)

    def _look_for(self, tools: Sequence[Tool], prompt: Prompt) -> None:
        """Warn if the model hears of no function. A pipeline forgets them always or never: one look is enough."""
        if self._looked or not (tools and prompt):
            return
        self._looked, written = True, str(prompt)
        if not any(tool.name in written for tool in tools):
            names = ", ".join(tool.name for tool in tools)
            warnings.warn(
                f"the prompt that the pipeline makes names no function, so the model does not know {names}; "
                "a step of macro_apply gets the functions and can write of them",
                stacklevel=3,
            )

    def _with_old_limit(self, asked: GenerationKwargs | None) -> GenerationKwargs | None:
        """The limit of the answer under its old name, too: some servers know no other, and pass over the new one."""
        own: dict[str, Any] = {**(asked or {})}
        said = {**self.generation_kwargs, **own}
        limit = said.get("max_completion_tokens") or said.get("max_tokens")
        extra: Mapping[str, Any] = own.get("extra_body") or {}
        if limit is None or "max_tokens" in extra or "max_tokens" in (self.generation_kwargs.get("extra_body") or {}):
            return asked
        return cast(GenerationKwargs, {**own, "extra_body": {**extra, "max_tokens": limit}})

    def _with_stop(self, asked: GenerationKwargs | None, parser: BaseParser) -> GenerationKwargs:
        overrides = GenerationKwargs(**(asked or {}))
        if parser.stop and "stop" not in overrides and "stop" not in self.generation_kwargs:
            overrides["stop"] = list(parser.stop)
        return overrides

    # ---- its life ----

    async def aclose(self) -> None:
        """Close the provider that is asked."""
        if (aclose := getattr(self.provider, "aclose", None)) is not None:
            await aclose()

    async def __aenter__(self) -> Self:
        if (enter := getattr(self.provider, "__aenter__", None)) is not None:
            await enter()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if (leave := getattr(self.provider, "__aexit__", None)) is not None:
            await leave(*exc_info)


_NUMBER: Final = re.compile(r"(?:[:_]|\A(?=\d{9}\Z))(\d{1,9})\Z")


def _first_number(ids: Sequence[str]) -> int:
    """From where on calls are numbered: by their number, and past each number in an id. Some may have been left out."""
    numbers = [int(found[1]) + 1 for call_id in ids if (found := _NUMBER.search(call_id))]
    return max([len(ids), *numbers])


class RawTextMessage:
    """An answer in raw text on its way. Iterating gives its parts, once; `batches()` gives frames by the network read.

    Args:
        answer: as the server gives it.
        parser: a new one.
    """

    def __init__(self, answer: StreamedMessage, parser: BaseParser) -> None:
        self._answer = answer
        self._parser = parser
        self._batches: AsyncIterator[list[StreamFrame]] | None = None
        self._frames: list[StreamFrame] = []
        self._indices: dict[tuple[bool, int | str], int] = {}
        self._end: End | None = None

    @property
    def id(self) -> str | None:
        """The server's id of the answer, once known."""
        return self._answer.id

    @property
    def usage(self) -> TokenUsage | None:
        """What it cost, known at the end."""
        return self._answer.usage

    @property
    def trace_id(self) -> str | None:
        """The server's id of the request."""
        return self._answer.trace_id

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, known at the end. An answer with calls ended with `tool_calls`, whatever the server says."""
        return self._answer.finish_reason if self._end is None else self._end.finish_reason

    @property
    def may_be_empty(self) -> bool:
        """Whether an answer of nothing is one."""
        return getattr(self._answer, "may_be_empty", False)

    @property
    def problems(self) -> list[str]:
        """What looked like a call and could not be read. It is in the text."""
        return self._parser.problems

    async def aclose(self) -> None:
        """Let go of the connection."""
        await self._answer.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def batches(self) -> AsyncIterator[list[StreamFrame]]:
        """One list of frames per network read that has any; the last frame of all is an `End`.

        Raises:
            StreamInterruptedError: the answer stopped before its end.
            ChatProviderError: it is no answer, or the server sent an error in the middle of it.
        """
        return Batches(self._next_batch)

    async def __aiter__(self) -> AsyncIterator[StreamedMessagePart]:
        async for part in parts_in(self.batches()):
            yield part

    async def _next_batch(self) -> list[StreamFrame] | None:
        if self._batches is None:
            self._batches = batches_of(self._answer)
        frames: list[StreamFrame] = []
        while not frames:
            try:
                batch = await anext(self._batches)
            except StopAsyncIteration:
                return None
            except StreamInterruptedError as error:
                self._add(self._parser.close(), True)
                raise StreamInterruptedError(str(error), fold(self._frames)) from error
            frames = [read for frame in batch for read in self._read(frame)]
        return frames

    def _read(self, frame: StreamFrame) -> list[StreamFrame]:
        """What a frame of the server becomes."""
        match frame:
            case Append(text):
                return self._add(self._parser.feed(text), True)
            case End():
                return self._ended(frame)
            case ToolCall():  # they come again, with those of the text
                return []
            case Reasoning(text):
                if text.strip():
                    self._parser.expect_no_reasoning()
                return self._add([frame], False)
            case _:
                return self._add([frame], False)

    def _add(self, frames: list[StreamFrame], of_text: bool) -> list[StreamFrame]:
        """Frames that go out. Calls of the server and of the text are counted together."""
        added = [self._counted(frame, of_text) if isinstance(frame, ToolCallDelta) else frame for frame in frames]
        self._frames += added
        return added

    def _counted(self, frame: ToolCallDelta, of_text: bool) -> ToolCallDelta:
        index = self._indices.setdefault((of_text, frame.index), len(self._indices))
        return ToolCallDelta(index, frame.id, frame.name, frame.arguments)

    def _ended(self, end: End) -> list[StreamFrame]:
        frames = self._add(self._parser.close(), True)
        for problem in self.problems:
            logger.warning("{}", problem)
        message = fold(self._frames)
        calls, cut_off = message.tool_calls or (), end.finish_reason in CUT_OFF
        unchanged = cut_off or (end.finish_reason == "tool_calls") == bool(calls)
        reason = end.finish_reason if unchanged else "tool_calls" if calls else "stop"
        self._end = End(reason, end.usage, message)
        return [*frames, *(() if cut_off else calls), self._end]
