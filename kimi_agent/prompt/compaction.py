"""Fewer tokens for what was said before, when a conversation outgrows the window.

A *compactor* makes another history out of a history. It is a pure function beside the requests that it makes: what it
is given is never changed, so whatever fails or is cancelled leaves the conversation as it was. All compactors here

1. take or leave whole exchanges, as `history` defines them: what could be sent before can be sent after;
2. keep the newest user message and the newest exchange, word for word and with its reasoning;
3. give a history that costs less, or none.

A summary stands before the newest user message, whatever it is about. So a summary is never the last thing that a user
said, which a model would take for a request. Each message that a compactor made is marked in its `extra`.

What a model reads of this file - the requests for summaries, and what stands in the place of messages - is said by
methods. Subclass a compactor to say it differently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from loguru import logger

from ..errors import APIEmptyResponseError, ChatProviderError, ContextLengthError, PromptError
from ..events import HistoryCompacted, tell
from ..generate import GenerateResult, collect
from ..history import calls_of, problems
from ..message import ContentPart, Message, Role, TextPart, ThinkPart, ToolCall
from ..provider import ChatProvider, GenerationKwargs, OnEvent
from ..tools.results import truncate
from .tokens import REQUEST_COST, quickly_counted

__all__ = [
    "Compacted",
    "Compaction",
    "CompactionTask",
    "Compactor",
    "DropToolOutput",
    "ExtractFacts",
    "NoCompaction",
    "SummarizeChunks",
    "SummarizeHistory",
    "compacted",
    "is_compacted",
]

T = TypeVar("T")
Cost: TypeAlias = Callable[[Sequence[Message]], int]

MARK: Final = "compacted"
"""The key in `Message.extra` of what a compactor made; its value names the compactor."""


def is_compacted(message: Message) -> bool:
    """Whether a compactor made this message: a summary, or a result that was shortened."""
    return MARK in message.extra


# ==== what a compactor is told ====


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionTask:
    """What a compactor goes by, beside the history.

    Args:
        provider: who is asked for summaries.
        budget: tokens that the history may cost afterwards.
        cost: tokens of some messages in a prompt, as exactly as it is known; nothing costs nothing.
        overrides: for each request.
        on_event: gets `RequestSent` and `RequestRetried`, and is awaited if it is async.
        cost_key: under which key of its `__dict__` a message keeps what `cost` found; the estimate's unless given.
        before_request: gets the tokens of each prompt before it is sent. What it raises - a limit, say - comes out.
        on_answer: gets each answer, whether it is of use or not, so that its usage is counted.
    """

    provider: ChatProvider
    budget: int
    cost: Cost
    overrides: GenerationKwargs = field(default_factory=GenerationKwargs)
    on_event: OnEvent | None = None
    cost_key: str | None = None
    before_request: Callable[[int], Awaitable[None] | None] | None = None
    on_answer: Callable[[GenerateResult], Awaitable[None] | None] | None = None

    @property
    def prompt_room(self) -> int:
        """Tokens that the messages of a request may have, so that its answer fits the window, too."""
        window = self.provider.context_window
        return window - window // _ANSWER_SHARE - REQUEST_COST

    async def count(self, messages: Sequence[Message]) -> int:
        """`cost`, in a thread when long texts have to be counted first."""
        quick = all(quickly_counted((message,), self.cost_key) for message in messages)
        return self.cost(messages) if quick else await asyncio.to_thread(self.cost, messages)

    async def ask(self, messages: Sequence[Message]) -> str:
        """The text of a whole answer, without functions.

        Raises:
            ChatProviderError: there is no answer, or none that is whole and has text.
        """
        if self.before_request is not None:
            await tell(self.before_request, REQUEST_COST + await self.count(messages))
        stream = await self.provider.generate(
            "", (), messages, generation_overrides=self.overrides, on_event=self.on_event
        )
        result = await collect(stream)
        if self.on_answer is not None:
            await tell(self.on_answer, result)
        return _whole_text(result)


_ANSWER_SHARE: Final = 8
"""One part in so many of the window is left for an answer: what Kimi's models allow themselves."""


def _whole_text(result: GenerateResult) -> str:
    if result.is_cut_off:
        raise ChatProviderError(f"the summary was cut off (finish_reason {result.finish_reason!r})")
    if not (text := result.message.text.strip()):
        raise APIEmptyResponseError("the summary has no text")
    return text


@runtime_checkable
class Compactor(Protocol):
    """Makes a history that costs less out of a history."""

    async def compact(self, history: Sequence[Message], task: CompactionTask) -> Sequence[Message] | None:
        """Another history that costs less, or `None`. What is given is not changed.

        Args:
            history: the conversation.
            task: what to go by.

        Raises:
            ChatProviderError: a request for a summary failed. The next compactor is tried.
            PromptError: a request for a summary cannot be made to fit. The next compactor is tried.
        """
        ...


# ==== what is kept ====

Block: TypeAlias = Sequence[Message]
"""A message, or an exchange with whatever stands in it: the least that is taken or left."""


def _blocks(history: Sequence[Message]) -> list[Block]:
    """The history in pieces that part no result from its call."""
    ends, pieces, has_results = len(history), list[Block](), False
    for index in range(len(history) - 1, -1, -1):
        role = history[index].role
        has_results = has_results or role == "tool"
        if role == "assistant" or not has_results or index == 0:
            pieces.append(history[index:ends])
            ends, has_results = index, False
    return pieces[::-1]


def _question(history: Sequence[Message]) -> Message | None:
    """The newest message that a user really said."""
    said = (message for message in reversed(history) if message.role == "user" and not is_compacted(message))
    return next(said, None)


def _is_summary(block: Block) -> bool:
    return block[0].role == "user" and is_compacted(block[0])


class _Parts(NamedTuple):
    """What of a history stays, and what something shorter stands in for.

    Args:
        stay: old messages that stay as they are.
        old: what is replaced. The newest user message is among it when it is old: what follows makes no sense without.
        kept: the newest user message, and the newest messages and exchanges.
    """

    stay: Sequence[Message]
    old: Sequence[Block]
    kept: Sequence[Message]


def _parts(
    history: Sequence[Message], keep_last: int, task: CompactionTask, keeps: Callable[[Message], bool]
) -> _Parts | None:
    """`None` when there is nothing old that has not been condensed already."""
    blocks, question = _blocks(history), _question(history)
    before = len(blocks) - _kept_blocks(blocks, keep_last, task)
    newest = [message for block in blocks[before:] for message in block]
    is_old = question is not None and not any(message is question for message in newest)
    stays = [any(map(keeps, block)) for block in blocks[:before]]
    old = [block for block, stay in zip(blocks, stays, strict=False) if not stay]
    stay = [message for block, stay in zip(blocks, stays, strict=False) if stay for message in block]
    is_old = is_old and not any(message is question for message in stay)
    fresh = sum(not _is_summary(block) and block[0] is not question for block in old)
    if not fresh and sum(map(_is_summary, old)) < 2:
        return None
    return _Parts(stay, old, [question, *newest] if is_old and question is not None else newest)


def _kept_blocks(blocks: Sequence[Block], most: int, task: CompactionTask) -> int:
    """How many of the newest stay: `most`, or as many as take half of the budget, but at least one."""
    number, cost = 1, task.cost(blocks[-1]) if blocks else 0
    for block in reversed(blocks[-most:-1]):
        cost += task.cost(block)
        if cost > task.budget // 2:
            break
        number += 1
    return min(number, len(blocks))


# ==== compactors that ask nobody ====


class NoCompaction:
    """Leaves every history as it is: what does not fit is left out of the prompt, and stays in the history."""

    async def compact(self, history: Sequence[Message], task: CompactionTask) -> None:
        """Nothing."""


class DropToolOutput:
    """Shortens old results, the oldest first, until the history fits. Calls, texts and reasoning stay.

    It is the cheapest, as it asks no model. A result that was shortened once is not shortened again.

    Args:
        older_than: the results of so many of the newest exchanges stay whole; those of the newest always do.
        keep_characters: how much of the beginning of a result is kept.
    """

    def __init__(self, older_than: int = 3, keep_characters: int = 200) -> None:
        if min(older_than, keep_characters) < 0:
            raise ValueError("older_than and keep_characters are 0 or more")
        self.older_than = older_than
        self.keep_characters = keep_characters

    def note(self, characters: int, parts: Sequence[ContentPart]) -> str:
        """What a shortened result ends with.

        Args:
            characters: how many were left out.
            parts: what was left out that is no text, such as pictures.
        """
        left_out = [f"{characters} characters"] if characters else []
        left_out += [f"{number} {kind}" for kind, number in _counted(part.type for part in parts).items()]
        return f"[{', '.join(left_out)} of this old result are left out; call the function again if they are needed]"

    def shortened(self, message: Message) -> Message:
        """The result with the beginning of its text, and the note; itself when there is nothing to leave out."""
        text = truncate(message.text, self.keep_characters)
        parts = [part for part in message.content if not isinstance(part, TextPart)]
        if text == message.text and not parts:
            return message
        note = self.note(len(message.text) - len(text), parts)
        content = "\n".join(filter(None, (text, note)))
        return message.copy_with(content=content, extra={**message.extra, MARK: type(self).__name__})

    async def compact(self, history: Sequence[Message], task: CompactionTask) -> Sequence[Message] | None:
        """The same messages with shorter results."""
        excess = await task.count(history) - task.budget
        new: list[Message] = []
        for message, may_be_shortened in zip(history, self._may_be_shortened(history), strict=True):
            shorter = self.shortened(message) if may_be_shortened and excess > 0 else message
            saved = 0 if shorter is message else task.cost((message,)) - task.cost((shorter,))
            new.append(shorter if saved > 0 else message)
            excess -= max(saved, 0)
        return None if all(map(_is_same, new, history)) else new

    def _may_be_shortened(self, history: Sequence[Message]) -> list[bool]:
        blocks = _blocks(history)
        calling = [number for number, block in enumerate(blocks) if calls_of(block[0])]
        kept = calling[-max(self.older_than, 1) :]
        whole = kept[0] if kept else len(blocks)
        return [
            message.role == "tool" and number < whole and not is_compacted(message)
            for number, block in enumerate(blocks)
            for message in block
        ]


def _is_same(one: Message, other: Message) -> bool:
    return one is other


def _counted(names: Iterable[str]) -> dict[str, int]:
    """How often each name comes, in the order of their first coming."""
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found


# ==== compactors that ask the model ====

SPEAKERS: Final[Mapping[Role, str]] = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Result"}


class SummarizeHistory:
    """Puts a summary in the place of everything old: one request, without functions.

    Older messages go into the request as text, with the calls and their results. If they do not fit the window
    together, there are several requests, each with the summary of what was before. A later summary includes the earlier
    one. System messages stay as they are, before the summary.

    Args:
        keep_last: so many of the newest messages stay, an exchange counting as one; fewer when they take more than half
            of the budget, and the newest always.
        instructions: how to summarise, in place of `default_instructions`.

    Raises:
        ValueError: `keep_last` is less than 1.
    """

    def __init__(self, keep_last: int = 4, instructions: str | None = None) -> None:
        if keep_last < 1:
            raise ValueError("keep_last is 1 or more: the newest exchange stays")
        self.keep_last = keep_last
        self._instructions = instructions

    @property
    def instructions(self) -> str:
        """How to summarise."""
        return self.default_instructions() if self._instructions is None else self._instructions

    # ---- what the model is asked ----

    def system_prompt(self) -> str:
        """Says what kind of work the request is."""
        return (
            "You take notes of a conversation between a user and an assistant that calls functions. "
            "The assistant will go on with your notes in place of the conversation."
        )

    def default_instructions(self) -> str:
        """What a summary has to contain, and what it must not be."""
        return (
            "Summarise this conversation for the assistant. Keep what the user wants and has decided; what was done, "
            "found and changed, with the exact names, paths, numbers and other details that are needed later; what "
            "failed and why, so that it is not tried again; and what is still open. Do not go on with the "
            "conversation. Write the summary only, in the language of the conversation."
        )

    def request(self, transcript: str, so_far: str) -> str:
        """What the model is asked.

        Args:
            transcript: old messages as text.
            so_far: the summary of what was before them; `""` for none.
        """
        before = f"<summary_of_what_was_before>\n{so_far}\n</summary_of_what_was_before>\n\n" if so_far else ""
        include = "\n\nInclude the summary of what was before." if so_far else ""
        return f"{before}<conversation>\n{transcript}\n</conversation>\n\n{self.instructions}{include}"

    # ---- old messages as text ----

    def keeps(self, message: Message) -> bool:
        """Whether an old message stays as it is, and with it the exchange that it belongs to."""
        return message.role == "system"

    def rendered(self, message: Message) -> str:
        """A message as text: who speaks, what is said, what is called. Reasoning is left out."""
        said = [self.part(part) for part in message.content if not isinstance(part, ThinkPart)]
        lines = [self.speaker(message), *said, *map(self.call, message.tool_calls or ())]
        return "\n".join(filter(None, lines))

    def speaker(self, message: Message) -> str:
        """The line before what a message says."""
        of = " of" if message.role == "tool" else ""
        return f"[{SPEAKERS[message.role]}{f'{of} {message.name}' if message.name else ''}]"

    def call(self, call: ToolCall) -> str:
        """The line of a call."""
        return f"[Call] {call.name}({call.arguments})"

    def part(self, part: ContentPart) -> str:
        """A piece of content; what is no text is named."""
        return part.text if isinstance(part, TextPart) else f"[{part.type}]"

    def left_out(self, characters: int) -> str:
        """Stands in the middle of a message that is longer than what a request has room for."""
        return f"\n[{characters} characters are left out]\n"

    # ---- what stands in for them ----

    def summary(self, text: str) -> str:
        """What the message says that stands in for the old ones."""
        return (
            "This is a summary of the conversation so far. It is no new request, and what it says was done need not be "
            f"done again.\n\n{text}"
        )

    async def compact(self, history: Sequence[Message], task: CompactionTask) -> Sequence[Message] | None:
        """The summary, then what stays.

        Raises:
            ChatProviderError: the request failed, or its answer is empty or cut off.
            PromptError: not even a part of the request fits the window.
        """
        before = await task.count(history)
        parts = _parts(history, self.keep_last, task, self.keeps)
        if parts is None:
            return None
        transcripts = ["\n\n".join(map(self.rendered, block)) for block in parts.old]
        texts = await self._condensed(transcripts, task)
        new = [*parts.stay, *map(self._message, texts), *parts.kept]
        return new if await task.count(new) < before else None

    def _message(self, text: str) -> Message:
        return Message.user(self.summary(text), extra={MARK: type(self).__name__})

    async def _condensed(self, transcripts: Sequence[str], task: CompactionTask) -> Sequence[str]:
        """What stands in for the transcripts: a text per message."""
        return [await self._summarized(transcripts, task)]

    async def _summarized(self, transcripts: Sequence[str], task: CompactionTask) -> str:
        """One text for all of them, in as few requests as the window allows.

        A window may be smaller than it is said to be: what is refused is tried again with less.
        """
        left, so_far, most, refusals = transcripts, "", task.prompt_room, 0
        while left:
            room = min(most, task.prompt_room - task.cost(self._messages("", so_far)))
            portion = await _in_time(left, partial(self._portion, left, room, task.cost))
            try:
                so_far = await task.ask(self._messages(portion.text, so_far))
            except ContextLengthError:
                refusals += 1
                if refusals > _MOST_REFUSALS:
                    raise
                most = max(await task.count((Message.user(portion.text),)) // 2, _LEAST_ROOM)
            else:
                left = left[portion.number :]
        return so_far

    def _messages(self, transcript: str, so_far: str) -> list[Message]:
        return [Message.system(self.system_prompt()), Message.user(self.request(transcript, so_far))]

    def _portion(self, transcripts: Sequence[str], room: int, cost: Cost) -> _Portion:
        """As many of the transcripts as fit, from the first on; the first is shortened if it must be.

        Raises:
            PromptError: there is next to no room.
        """
        if room < _LEAST_ROOM:
            raise PromptError(
                f"a request for a summary has about {max(room, 0)} tokens of room for the conversation; shorten its "
                "`instructions`, or use a model with a larger window"
            )
        number, left = 0, room
        while number < len(transcripts) and (spent := _text_cost(transcripts[number], cost)) <= left:
            number, left = number + 1, left - spent
        if number:
            return _Portion("\n\n".join(transcripts[:number]), number)
        return _Portion(self._shortened(transcripts[0], room, cost), 1)

    def _shortened(self, text: str, room: int, cost: Cost) -> str:
        """The beginning and the end of a text, as much as fits."""
        shorter, kept = text, len(text)
        while kept and (spent := _text_cost(shorter, cost)) > room:
            kept = int(kept * 0.9 * room / spent)
            half = kept // 2
            shorter = text[:half] + self.left_out(len(text) - 2 * half) + text[len(text) - half :]
        return shorter


_MOST_REFUSALS: Final = 3
_LEAST_ROOM: Final = 100
"""Tokens; a request with less room for the conversation says nothing of it."""
_CHEAP_LENGTH: Final = 50_000
"""Characters; what is longer is counted in a thread."""


class _Portion(NamedTuple):
    """What goes into one request, and how many transcripts it is of."""

    text: str
    number: int


def _text_cost(text: str, cost: Cost) -> int:
    return cost((Message.user(text),))


async def _in_time(texts: Sequence[str], work: Callable[[], T]) -> T:
    """The work, in a thread when the texts are long."""
    return work() if sum(map(len, texts)) < _CHEAP_LENGTH else await asyncio.to_thread(work)


class SummarizeChunks(SummarizeHistory):
    """Puts several summaries in the place of everything old, one for each chunk of it, in their order.

    More detail survives than in one summary, and a long history is read side by side.

    Args:
        size: of a chunk, in tokens. No exchange is split, so one that is larger is a chunk of its own.
        keep_last: as in `SummarizeHistory`.
        instructions: how to summarise a chunk, in place of `default_instructions`.
        parallel: how many requests may be under way at the same time.

    Raises:
        ValueError: `size`, `keep_last` or `parallel` is less than 1.
    """

    def __init__(
        self, size: int = 20_000, *, keep_last: int = 4, instructions: str | None = None, parallel: int = 4
    ) -> None:
        super().__init__(keep_last, instructions)
        if min(size, parallel) < 1:
            raise ValueError("size and parallel are 1 or more")
        self.size = size
        self.parallel = parallel

    def summary(self, text: str) -> str:
        """What the message says that stands in for a chunk."""
        return (
            "This is a summary of a part of the conversation so far. It is no new request, and what it says was done "
            f"need not be done again.\n\n{text}"
        )

    async def _condensed(self, transcripts: Sequence[str], task: CompactionTask) -> Sequence[str]:
        chunks = await _in_time(transcripts, partial(_chunks, transcripts, self.size, task.cost))
        places = asyncio.Semaphore(self.parallel)

        async def summarized(chunk: Sequence[str]) -> str:
            async with places:
                return await self._summarized(chunk, task)

        return await _all_of([summarized(chunk) for chunk in chunks])


def _chunks(transcripts: Sequence[str], size: int, cost: Cost) -> list[list[str]]:
    """Neighbours together, as long as they cost at most `size`."""
    chunks: list[list[str]] = []
    left = 0
    for transcript in transcripts:
        spent = _text_cost(transcript, cost)
        if spent > left or not chunks:
            chunks.append([])
            left = size
        chunks[-1].append(transcript)
        left -= spent
    return chunks


async def _all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all give, in their order. If one fails, the others are stopped first, and then its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


class ExtractFacts(SummarizeHistory):
    """Puts what was said about some concepts in the place of everything old; the rest is forgotten.

    Args:
        concepts: what to look for: names, or names and what is meant by them.
        keep_last: as in `SummarizeHistory`.

    Raises:
        ValueError: there is no concept, or `keep_last` is less than 1.
    """

    def __init__(self, concepts: Mapping[str, str] | Iterable[str], keep_last: int = 4) -> None:
        if isinstance(concepts, str):
            raise ValueError(f"concepts are several names; write [{concepts!r}] for one")
        named = cast("Mapping[str, str]", concepts) if isinstance(concepts, Mapping) else dict.fromkeys(concepts, "")
        self.concepts: dict[str, str] = dict(named)
        if not self.concepts:
            raise ValueError("there is no concept to look for")
        super().__init__(keep_last)

    def concept(self, name: str, meaning: str) -> str:
        """The line of a concept in the request."""
        return f"- {name}: {meaning}" if meaning else f"- {name}"

    def default_instructions(self) -> str:
        """Names the concepts, and says how their facts are to be written."""
        concepts = "\n".join(self.concept(name, meaning) for name, meaning in self.concepts.items())
        return (
            f"Write down what this conversation says about each of these concepts:\n{concepts}\n\n"
            "Write the name of a concept as a heading, and below it a list of facts, one a line, with exact names, "
            'paths and numbers. Where there are none write "nothing". Where the conversation contradicts itself, what '
            "was said last counts. Do not go on with the conversation. Write in its language."
        )

    def summary(self, text: str) -> str:
        """What the message says that stands in for the old ones."""
        return f"These are facts of the conversation so far. They are no new request.\n\n{text}"


# ==== several in a row ====


@dataclass(frozen=True, slots=True)
class Compacted:
    """What several compactors made of a history.

    Args:
        before: the history as it was.
        history: the history that costs less; `before` itself when there is none.
        by: whose work is in it, in their order.
        tokens_before: what `before` costs.
        tokens_after: what `history` costs.
        fits: whether that is within the budget.
    """

    before: Sequence[Message]
    history: Sequence[Message]
    by: tuple[Compactor, ...]
    tokens_before: int
    tokens_after: int
    fits: bool

    @property
    def is_progress(self) -> bool:
        """Whether it fits now, or is shorter by a tenth at least."""
        return self.fits or self.tokens_before - self.tokens_after >= self.tokens_before / _PROGRESS

    @property
    def event(self) -> HistoryCompacted:
        """What is told of it."""
        names = tuple(type(compactor).__name__ for compactor in self.by)
        return HistoryCompacted(len(self.before), len(self.history), self.tokens_before, self.tokens_after, names)

    def put_into(self, messages: list[Message]) -> bool:
        """Replace the history in a list that still begins with it; what was added since stays behind it.

        Returns whether that is so: a list that somebody edited in the meantime stays as it is.
        """
        size = len(self.before)
        if len(messages) < size or not all(map(_is_same, messages, self.before)):
            return False
        messages[:size] = self.history
        return True


_PROGRESS: Final = 10


async def compacted(history: Sequence[Message], compactors: Iterable[Compactor], task: CompactionTask) -> Compacted:
    """The history as compactors leave it that are tried one after the other, each on what the one before made.

    The first one after which it fits is the last one tried. One that fails, or gives something that costs no less or
    cannot be sent, changes nothing. If the history fits in the end, nobody hears of a failure; the log does.

    Args:
        history: the conversation; it is not changed.
        compactors: the cheapest first.
        task: what they go by.

    Raises:
        ChatProviderError: a request for a summary failed, and the history does not fit.
        PromptError: a compactor could not do its work, and the history does not fit.
    """
    so_far, cost = tuple(history), await task.count(history)
    before, tokens_before, by = so_far, cost, list[Compactor]()
    failure: ChatProviderError | PromptError | None = None
    for compactor in compactors:
        if cost <= task.budget:
            break
        try:
            new = await _attempted(compactor, so_far, task)
        except (ChatProviderError, PromptError) as error:
            logger.opt(exception=error).debug("{} failed", type(compactor).__name__)
            failure = failure or error
            continue
        if new is not None and (spent := await task.count(new)) < cost:
            so_far, cost = tuple(new), spent
            by.append(compactor)
    if failure is not None and cost > task.budget:
        failure.add_note(f"The history needs about {cost} tokens and was to be compacted to {task.budget}.")
        raise failure
    return Compacted(before, so_far, tuple(by), tokens_before, cost, cost <= task.budget)


async def _attempted(
    compactor: Compactor, history: Sequence[Message], task: CompactionTask
) -> Sequence[Message] | None:
    """What a compactor makes of a history, if it makes nothing worse."""
    new = await compactor.compact(history, task)
    if new is not None and (found := problems(new)) and not problems(history):
        raise PromptError(f"{type(compactor).__name__} made a history that cannot be sent: {'; '.join(found)}")
    return new


class Compaction:
    """When a conversation is compacted, and whether that gets anywhere. One for each conversation.

    Args:
        compactors: tried in order until the history fits.
        at: the share of the window that a prompt may fill before it is compacted.
        down_to: the share of the window that the prompt is to fill afterwards. The lower it is, the more is lost, and
            the longer the new beginning of the prompt stays in Kimi's cache.

    Raises:
        ValueError: the shares are not `0 < down_to <= at <= 1`.
    """

    def __init__(self, compactors: Compactor | Iterable[Compactor], *, at: float = 0.8, down_to: float = 0.5) -> None:
        if not 0 < down_to <= at <= 1:
            raise ValueError("0 < down_to <= at <= 1 does not hold")
        is_one = not isinstance(compactors, tuple | list) and isinstance(compactors, Compactor | type)
        several = tuple(_checked(one) for one in ((compactors,) if is_one else cast(Iterable[Compactor], compactors)))
        self.compactors: tuple[Compactor, ...] = tuple(one for one in several if not isinstance(one, NoCompaction))
        self.at = at
        self.down_to = down_to
        self.fruitless: int = 0
        """How many runs in a row made no progress."""

    def is_due(self, tokens: int, window: int, reserved: int = 0) -> bool:
        """Whether a prompt is to be compacted before it is sent.

        Args:
            tokens: of the prompt with the whole history.
            window: of the model, in tokens.
            reserved: of the window for the answer. What does not fit beside it would be left out.
        """
        return bool(self.compactors) and tokens > min(self.at * window, window - reserved)

    def budget(self, window: int, fixed: int) -> int:
        """Tokens that the history may cost after it was compacted.

        Args:
            window: of the model, in tokens.
            fixed: tokens of the pinned messages, the functions and the request itself.
        """
        return max(int(window * self.down_to) - fixed, 0)

    @property
    def gives_up(self) -> bool:
        """Whether it has got nowhere too often in a row. The next run counts anew."""
        return self.fruitless >= _MOST_FRUITLESS

    async def run(self, history: Sequence[Message], task: CompactionTask) -> Compacted:
        """Compact a history. The first run that makes no progress is passed over: the window leaves out what is too
        much.

        Raises:
            PromptError: the second run in a row made no progress, or a compactor could not do its work.
            ChatProviderError: a request for a summary failed, and the history does not fit.
        """
        if self.gives_up:
            self.fruitless = 0
        try:
            result = await compacted(history, self.compactors, task)
        except (ChatProviderError, PromptError):
            self.fruitless += 1
            raise
        self.fruitless = 0 if result.is_progress else self.fruitless + 1
        if self.gives_up:
            raise PromptError(
                f"{_MOST_FRUITLESS} compactions in a row made no progress: the history needs about "
                f"{result.tokens_after} tokens, and was to be compacted to {task.budget}; keep less (`keep_last`), "
                "shorten results (`DropToolOutput`), or begin a new conversation"
            )
        return result


_MOST_FRUITLESS: Final = 2


def _checked(compactor: object) -> Compactor:
    if isinstance(compactor, type) or not isinstance(compactor, Compactor):
        raise TypeError(f"{compactor!r} is no compactor: it has no async method compact(history, task)")
    return compactor
