"""What of a conversation fits the model's window.

A prompt is the pinned messages, then the newest whole exchanges. As long as everything from the first kept message on
fits, that message stays the first, so that the prompt's beginning, which Kimi caches, does not move. When it overflows,
the prompt is cut down to `trim_ratio` of the budget at once. Never cut are the newest user message and the newest
exchange; in a long round the older exchanges may go and the user message before them stays.

A result belongs to the nearest assistant message before it, as in `history`: no cut comes between the two.
The cost is linear in what is kept. Nothing older is counted but the first that is too much, and nothing searched
except for the newest user message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, NotRequired, TypedDict, Unpack

from ..errors import MessageTooLong, PromptTooLong
from ..message import Message, TokenUsage
from ..tools.base import ToolsPart
from .counting import ESTIMATE, TokenCounter, cost
from .running import Anchor, RunningCount
from .tokens import quickly_counted

__all__ = ["Fit", "Window", "assemble", "fit", "fit_in_time"]


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a history is kept.

    Args:
        start: index of the first message of the kept end.
        anchor: index of the newest user message when it lies before `start`; it is kept all the same.
        tokens: the estimate for the whole prompt, not scaled.
    """

    start: int
    anchor: int | None
    tokens: int


def assemble(pinned: Sequence[Message], history: Sequence[Message], kept: Fit) -> list[Message]:
    """The messages of the prompt."""
    anchor = () if kept.anchor is None else (history[kept.anchor],)
    return [*pinned, *anchor, *history[kept.start :]]


class Limits(TypedDict):
    """What `fit` goes by, beside the messages."""

    fixed: int
    budget: int
    trim_ratio: float
    cut: int
    scale: float
    counter: NotRequired[TokenCounter]


def fit(
    pinned: Sequence[Message],
    history: Sequence[Message],
    *,
    fixed: int,
    budget: int,
    trim_ratio: float,
    cut: int = 0,
    scale: float = 1.0,
    counter: TokenCounter = ESTIMATE,
) -> Fit:
    """What of `history` to send. Nothing is changed.

    Args:
        pinned: messages that every prompt starts with.
        history: the conversation.
        fixed: tokens of the tools and of the request itself, as counted.
        budget: tokens that the prompt may have.
        trim_ratio: the share of `budget` that is left after an overflow, from 0 to 1.
        cut: index in `history` of the first message that was kept so far.
        scale: how many tokens a counted one really is.
        counter: who counts.

    Raises:
        PromptTooLong: what is fixed and pinned does not fit.
        MessageTooLong: the newest user message and the newest exchange do not fit beside it.
    """
    limit = int(budget / scale)  # in counted tokens, as everything below
    base = fixed + cost(counter, pinned)
    if base > limit:
        raise PromptTooLong(
            f"the pinned messages and the tools need about {int(base * scale)} tokens, and {budget} are there "
            "for the prompt; pin less, offer fewer tools, or set a lower `desired_response_tokens`"
        )
    if not history:
        return Fit(0, None, base)
    essential = _essential(counter, history, limit - base, scale)
    end = _kept_end(
        counter, history, essential, min(cut, essential.newest), limit - base, int(limit * trim_ratio) - base
    )
    anchor = essential.user if essential.user is not None and essential.user < end.start else None
    apart = 0 if anchor is None else counter.message_cost(history[anchor])
    return Fit(end.start, anchor, base + apart + end.cost)


async def fit_in_time(pinned: Sequence[Message], history: Sequence[Message], **limits: Unpack[Limits]) -> Fit:
    """`fit`, in a thread when long texts have to be counted first."""
    key = limits.get("counter", ESTIMATE).cost_key
    if quickly_counted(pinned, key) and quickly_counted(history, key, start=limits.get("cut", 0)):
        return fit(pinned, history, **limits)
    return await asyncio.to_thread(fit, pinned, history, **limits)


class Window:
    """Where the prompt of a conversation begins, and how far the estimate is off.

    The beginning is remembered as a message, not as an index: the history may be edited in any way between two prompts.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.counter: TokenCounter = ESTIMATE
        """Who counts."""
        self.running = RunningCount()
        """What the server counted last."""
        self.scale = min(max(scale, _LOWEST), _HIGHEST)
        """How many tokens a counted one really is."""
        self.expected = 0
        """The count of the prompt that was sent last; 0 when nobody knows."""
        self.tokens = 0
        """What the server will say that the prompt has; 0 when nobody knows."""
        self.cached = 0
        """How many of these the server has seen before."""
        self.told: frozenset[str] | None = None
        """The functions that the model has been told of, by name; `None` before the first request."""
        self._sent: tuple[Sequence[Message], int] = (), 0
        self._cut: Message | None = None
        self._hint = 0

    def start_in(self, history: Sequence[Message]) -> int:
        """The index of the first kept message; 0 when nothing was cut, or when the message is gone."""
        if self._cut is None:
            return 0
        if not (self._hint < len(history) and history[self._hint] is self._cut):
            self._hint = _index(history, self._cut)
        return self._hint

    def move_to(self, history: Sequence[Message], start: int) -> None:
        """Begin at `history[start]` from now on. Called when a prompt is really sent, or a conversation loaded."""
        self._cut = history[start] if 0 < start < len(history) else None
        self._hint = start

    def use(self, counter: TokenCounter) -> TokenCounter:
        """Let `counter` count from now on. What was learnt of another one does not hold for it."""
        if counter.cost_key != self.counter.cost_key:
            self.counter, self.scale = counter, 1.0
        return counter

    def expect(self, prompt: Sequence[Message], overhead: int) -> None:
        """A prompt is about to be sent.

        Args:
            prompt: its messages.
            overhead: of it, beside its messages, as `counter` has it.
        """
        self._sent = prompt, overhead
        holds = self.running.holds(self.counter, prompt)
        self.cached = self.running.anchor.tokens if holds and self.running.anchor else 0
        self.expected = overhead + cost(self.counter, prompt)
        self.tokens = self.running.of(self.counter, prompt, overhead, self.scale)

    def counted(self, history: Sequence[Message]) -> dict[str, Any] | None:
        """What the server counted last, to be saved: `answer` is the index in `history` of the answer."""
        anchor, last = self.running.anchor, self.running.last
        if anchor is None or last is None or not any(message is last for message in history):
            return None
        return {**asdict(anchor), "answer": _index(history, last)}

    def go_on(self, counted: Mapping[str, Any], pinned: Sequence[Message], history: Sequence[Message]) -> None:
        """Go on with what `counted` gave; after `move_to`."""
        end = history[self.start_in(history) : counted["answer"] + 1]
        self.running.put_back(Anchor(counted["tokens"], counted["overhead"], counted["by"]), [*pinned, *end])

    def expect_nothing(self) -> None:
        """What the server counts next is no measure of the count."""
        self.expected = self.tokens = self.cached = 0

    def answer_limit(self, window: int, reserved: int) -> int | None:
        """How long the answer to the expected prompt may be, if that has to be said: when little is left.

        Args:
            window: of the model, in tokens.
            reserved: for the answer, in tokens.
        """
        left = window - self.tokens
        return max(left - left // _MARGIN, reserved, 1) if left < window // _USUAL_ANSWER else None

    def learn(self, usage: TokenUsage, answer: Message, *, cut_off: bool = False) -> int:
        """Learn from what the server counted for the expected prompt; returns by how much that was more.

        Args:
            usage: what the server said.
            answer: as it stands in the history.
            cut_off: whether it ended before the model was done.
        """
        if not self.tokens:
            return 0
        drift = usage.input - self.tokens
        self.correct(usage.input)
        self.running.put(self.counter, *self._sent, usage, answer, cut_off=cut_off)
        return drift

    def correct(self, actual: int) -> None:
        """Correct the scale by what the server counted for the expected prompt.

        Small prompts say nothing. One answer moves the scale by a quarter at most, so that an odd one does no harm and
        the next ones make up for it.
        """
        if min(self.expected, actual) < _TELLING:
            return
        step = min(max(actual / self.expected, self.scale / _STEP), self.scale * _STEP)
        self.scale = min(max(step, _LOWEST), _HIGHEST)


_TELLING: Final = 200  # tokens
_USUAL_ANSWER: Final = 8  # an answer may take one part in so many of the window: what Kimi's models allow by themselves
_MARGIN: Final = 4  # one part in so many of what is left stays free
_STEP: Final = 1.25
_LOWEST, _HIGHEST = 0.5, 4.0


def _index(history: Sequence[Message], message: Message) -> int:
    for index in range(len(history) - 1, -1, -1):
        if history[index] is message:
            return index
    return 0


# ==== what is kept ====


class _Essential(NamedTuple):
    """What is never cut: everything from `newest` on, and the newest user message if there is one."""

    newest: int
    user: int | None


class _End(NamedTuple):
    """The messages from `start` to the last, and what they cost together."""

    start: int
    cost: int

    def moved(self, counter: TokenCounter, history: Sequence[Message], start: int) -> _End:
        """The end that begins at `start` instead; only what lies between is counted."""
        more, less = cost(counter, history[start : self.start]), cost(counter, history[self.start : start])
        return _End(start, self.cost + more - less)


def _essential(counter: TokenCounter, history: Sequence[Message], room: int, scale: float) -> _Essential:
    essential = _Essential(_newest(history), _newest_user(history))
    needed, named = cost(counter, history[essential.newest :]), _named(history, essential.newest)
    if essential.user is not None and essential.user < essential.newest:
        needed += counter.message_cost(history[essential.user])
        named = f"message {essential.user} (user) and {named}"
    if needed > room:
        raise MessageTooLong(
            f"{named} of the history must be in the prompt and need about {int(needed * scale)} tokens; "
            f"{int(room * scale)} are left beside the pinned messages and the tools"
        )
    return essential


def _named(history: Sequence[Message], newest: int) -> str:
    last = len(history) - 1
    return (
        f"message {last} ({history[last].role})" if newest == last else f"the exchange of messages {newest} to {last}"
    )


def _newest(history: Sequence[Message]) -> int:
    """Where the newest exchange begins; the last message, when that is no result. Declarations do not count."""
    last = len(history) - 1
    while last > 0 and _is_declaration(history[last]):
        last -= 1
    index = last
    while index > 0 and history[last].role == "tool" and history[index].role != "assistant":
        index -= 1
    return index if history[index].tool_calls else last


def _is_declaration(message: Message) -> bool:
    return message.role == "system" and any(isinstance(part, ToolsPart) for part in message.content)


def _newest_user(history: Sequence[Message]) -> int | None:
    return next((index for index in range(len(history) - 1, -1, -1) if history[index].role == "user"), None)


def _kept_end(
    counter: TokenCounter, history: Sequence[Message], essential: _Essential, cut: int, room: int, trimmed: int
) -> _End:
    """From `cut` on while that fits, else from as early as `trimmed` allows."""
    user = essential.user
    apart = counter.message_cost(history[user]) if user is not None and user < cut else 0
    end = _reach(counter, history, cut, room - apart)
    if end.start > cut:
        end = _shorter(counter, history, user, end, cut, trimmed)
    return end.moved(counter, history, min(_aligned(history, end.start), essential.newest))


def _shorter(
    counter: TokenCounter, history: Sequence[Message], user: int | None, fitting: _End, cut: int, trimmed: int
) -> _End:
    """What is left after an overflow. `fitting` is what would fit without getting any shorter than it must."""
    end = _reach(counter, history, cut, trimmed)
    if user is None or end.start <= user:
        return end
    if fitting.start <= user:  # all that came after the question fits; better that than a shorter prompt
        return fitting.moved(counter, history, user)
    return _reach(counter, history, cut, trimmed - counter.message_cost(history[user]))


def _reach(counter: TokenCounter, history: Sequence[Message], stop: int, room: int) -> _End:
    """The longest end that costs at most `room` and does not begin before `stop`.

    It grows by ever more messages at once, as long as these are counted already and likely to fit, and else by one.
    """
    key, end, step = counter.cost_key, _End(len(history), 0), 1
    while end.start > stop:
        if key not in history[end.start - 1].__dict__:
            step = 1
        start = max(end.start - step, stop)
        more = cost(counter, history[start : end.start]) if step == 1 else _known(key, history[start : end.start])
        if more is not None and end.cost + more <= room:
            end = _End(start, end.cost + more)
            step = max(1, min(2 * step, _likely(len(history) - start, end.cost, room) // 2))
        elif step == 1:
            break
        else:
            step = 1
    return end


def _known(key: str, messages: Sequence[Message]) -> int | None:
    """What messages cost; `None` when one of them is not counted yet."""
    try:
        return sum([message.__dict__[key] for message in messages])
    except KeyError:
        return None


def _likely(kept: int, tokens: int, room: int) -> int:
    """How many messages more will fit if they cost as much as the `kept` ones, which have `tokens`."""
    return (room - tokens) * kept // max(tokens, 1)


def _aligned(history: Sequence[Message], start: int) -> int:
    """The first index from `start` on that parts no result from its call."""
    for index in range(start, len(history)):
        role = history[index].role
        if role == "tool":
            start = index + 1
        elif role == "assistant" or not start:  # before 0 nothing is cut
            break
    return start
