"""A conversation for the page of `kimi-agent view`: what was said, and what it might have taken.

Nobody was asked. Times and tokens are made up, so that the page is the same in each build; everything else is as a
session keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kimi_agent.kimi.models import model_info
from kimi_agent.limits import Spent
from kimi_agent.measured import KEY, MeasuredAnswer, MeasuredCall, Retry
from kimi_agent.message import Message, TextPart, ThinkPart, TokenUsage, ToolCall
from kimi_agent.session.state import SessionState
from kimi_agent.terminal.page.view import page

__all__ = ["NAME", "html"]

NAME: Final = "pictures/page.html"
"""Of the file in the site."""

MODEL: Final = "kimi-k2.6"
NINE_O_CLOCK: Final = 1_795_165_200.0
"""On 20 November 2026, in UTC."""


@dataclass
class Talk:
    """A conversation in the making, with a clock and a counter of tokens that go as told."""

    now: float = NINE_O_CLOCK
    prompt: int = 1_850
    """Tokens of the next prompt."""
    known: int = 0
    """Those of them that the cache has."""
    usage: Spent = field(default_factory=Spent)
    messages: list[Message] = field(default_factory=list[Message])

    def user(self, text: str, *, later: float = 0.0, tokens: int = 40) -> None:
        """Somebody says something, so many seconds later."""
        self.now += later
        self.prompt += tokens
        self.messages.append(Message.user(text))

    def model(
        self,
        text: str = "",
        *calls: ToolCall,
        thinks: str = "",
        seconds: float,
        first: float = 0.7,
        tokens: int,
        retries: Sequence[Retry] = (),
    ) -> None:
        """The model answers, in so many seconds and tokens."""
        info = model_info(MODEL)
        usage = TokenUsage(input_other=self.prompt - self.known, output=tokens, input_cache_read=self.known)
        measured = MeasuredAnswer(
            began=self.now,
            seconds=seconds,
            first=first,
            model=MODEL,
            window=info and info.context_window,
            prompt=self.prompt,
            input=usage.input,
            cached=self.known,
            output=tokens,
            retries=tuple(retries),
        )
        parts = [*([ThinkPart(think=thinks)] if thinks else []), *([TextPart(text=text)] if text else [])]
        extra = {KEY: measured.model_dump(exclude_defaults=True)}
        self.messages.append(Message.assistant(parts, tool_calls=calls, extra=extra))
        self.usage = self.usage.with_answer(usage, info and info.prices).with_calls(len(calls))
        self.now, self.known, self.prompt = self.now + seconds, self.prompt, self.prompt + tokens

    def results(self, *results: tuple[str, str, float, int]) -> None:
        """Calls that ran at the same time gave this: id, text, seconds, tokens."""
        for call, text, seconds, tokens in results:
            measured = MeasuredCall(began=self.now, seconds=seconds)
            extra = {KEY: measured.model_dump(exclude_defaults=True)}
            is_error = text.startswith("Error") or None
            self.messages.append(Message.tool(text, call, is_tool_call_error=is_error, extra=extra))
            self.prompt += tokens
        self.now += max(seconds for _, _, seconds, _ in results)


def html() -> str:
    """The page."""
    talk = Talk()
    _tells_the_story(talk)
    pinned = (Message.system("You plan trips. Look things up before you answer."),)
    state = SessionState(always_included_messages=pinned, chat_history=tuple(talk.messages), usage=talk.usage)
    return page(state, "A weekend in Bergen")


def _call(number: int, name: str, arguments: str) -> ToolCall:
    return ToolCall.model_validate(
        {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
    )


# ==== what was said ====

TRAINS: Final = """{"trains": [
  {"leaves": "08:25", "arrives": "15:05", "seats": 14, "nok": 549},
  {"leaves": "12:03", "arrives": "18:55", "seats": 0, "nok": 449},
  {"leaves": "16:05", "arrives": "22:58", "seats": 71, "nok": 399}]}"""

PLAN: Final = """Take the train at **08:25**: it is the last one with seats that arrives before dark.

| when | what | NOK |
|---|---|--:|
| Friday, 08:25 | train to Bergen | 549 |
| Friday, 16:00 | hotel by the harbour, two nights | 2,380 |
| Sunday, 15:59 | train home | 399 |

Together that is **3,328 NOK**. It rains on Friday, and Saturday is dry:

1. Saturday morning: up to Fløyen, on foot.
2. Saturday evening: the fish market.

```python
total = 549 + 2380 + 399  # 3,328
```"""


def _tells_the_story(talk: Talk) -> None:
    talk.user("Plan a weekend in Bergen for me: train from Oslo, two nights, below 4,000 NOK.")
    talk.model(
        "I look up trains, hotels and the weather.",
        _call(1, "find_trains", '{"from": "Oslo", "to": "Bergen", "day": "2026-11-27"}'),
        _call(2, "find_hotels", '{"city": "Bergen", "nights": 2}'),
        _call(3, "get_weather", '{"city": "Bergen", "days": 3}'),
        thinks="Three things are missing, and none depends on another. I ask for all of them at once.",
        seconds=3.1,
        tokens=640,
    )
    talk.results(
        ("call_1", TRAINS, 2.4, 6_400),
        ("call_2", "Error: the list of hotels did not answer in time. Ask for one area.", 4.0, 60),
        ("call_3", '{"friday": "rain, 6 °C", "saturday": "dry, 4 °C", "sunday": "rain, 5 °C"}', 0.6, 220),
    )
    talk.model(
        "",
        _call(4, "find_hotels", '{"city": "Bergen", "area": "harbour", "nights": 2}'),
        thinks="The harbour is close to the station. One area is what it wants.",
        seconds=9.6,
        first=7.2,
        tokens=140,
        retries=(
            Retry(0.4, 2.0, "RateLimitError: the organization sends too much (429)"),
            Retry(2.7, 3.0, "RateLimitError: the organization sends too much (429)"),
        ),
    )
    talk.results(("call_4", '{"hotels": [{"name": "Harbour", "nok": 1190, "rooms": 3}, …]}', 1.8, 21_300))
    talk.model(
        PLAN, thinks="549 and 2 times 1,190 and 399 make 3,328, which is below 4,000.", seconds=6.2, tokens=1_480
    )

    talk.user("Book it, please.", later=95.0)
    talk.model(
        "",
        _call(5, "book_train", '{"leaves": "2026-11-27T08:25", "seats": 1}'),
        _call(6, "book_hotel", '{"name": "Harbour", "nights": 2}'),
        seconds=2.4,
        tokens=180,
    )
    talk.results(
        ("call_5", '{"ticket": "NSB-4711", "coach": 3, "seat": 42}', 3.2, 150),
        ("call_6", '{"booking": "H-0815", "check_in": "15:00"}', 1.1, 130),
    )
    talk.model(
        "Both are booked: ticket `NSB-4711`, coach 3, seat 42, and room `H-0815`, from 15:00.", seconds=2.0, tokens=90
    )

    talk.user("What should I read on the train?", later=40.0)
    talk.model("", _call(7, "search_books", '{"about": "Bergen", "most": 40}'), seconds=1.6, tokens=60)
    talk.results(("call_7", '{"books": [{"title": "…", "pages": 312}, …]}', 2.2, 38_600))
    talk.model(
        "Something with rain in it. Seven hours are about 300 pages:\n\n- a crime novel that begins on *Fløyen*\n"
        "- letters of Edvard Grieg, who lived there\n\n> Take a pencil. There is no signal in the tunnels.",
        thinks="The train takes 6 h 40 min. At 45 pages an hour that is 300.",
        seconds=5.4,
        tokens=1_120,
    )
