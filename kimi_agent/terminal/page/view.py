"""A conversation as one page: everything in it, nothing loaded, nothing run.

Whatever a model or a tool has written is text in it. There is no script, and the page says so to the browser: its
policy allows its own style, by its digest, and pictures that the page itself carries.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from ...history import calls_of, paired
from ...measured import MeasuredAnswer, of_answer, of_call
from ...message import AudioURLPart, ContentPart, ImageURLPart, Message, TextPart, ThinkPart, ToolCall, VideoURLPart
from .charts import context, tokens
from .drawing import Answer, Call, Days, Figure, clock, duration
from .prose import folded, markdown, plain, text
from .timeline import busy, time_line

if TYPE_CHECKING:
    from ...limits import Spent
    from ...session.state import SessionState

__all__ = ["page"]


def page(state: SessionState, title: str) -> str:
    """The conversation as one HTML page, which loads nothing and runs nothing. Times in it are UTC.

    Args:
        state: of the conversation.
        title: of the page.
    """
    turns = list(_turns(state.chat_history))
    figures = _figures(turns)
    body = [
        f"<header><h1>{text(title)}</h1>{_damage(state)}{_summary(state, turns)}</header>",
        f'<section id="charts"><h2>Measured</h2>{_unmeasured(turns)}{"".join(each.html for each in figures)}</section>',
        f'<section id="conversation"><h2>Conversation</h2>{_pinned(state)}{_said(state, turns)}</section>',
    ]
    return _document(title, "<main>" + "\n".join(body) + "</main>", [each.rule for each in figures])


# ==== the document ====


def _document(title: str, body: str, rules: Iterable[str]) -> str:
    """A page that may load nothing and run nothing."""
    style = "\n".join([_style(), *rules])
    policy = f"default-src 'none'; style-src '{_digest(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f'<link rel="icon" href="data:,">\n<title>{text(title)}</title>\n<style>{style}</style>\n'
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


@cache
def _style() -> str:
    return files(__name__.rpartition(".")[0]).joinpath("page.css").read_text("utf-8").replace("\r\n", "\n")


def _digest(style: str) -> str:
    return f"sha256-{b64encode(sha256(style.encode()).digest()).decode()}"


# ==== what belongs together ====


@dataclass(frozen=True, slots=True)
class _Turn:
    """A message with what belongs to it.

    Args:
        place: in the history.
        message: that was said.
        number: among the answers of the model, from 1; 0 for what it did not say.
        took: what the answer took, if that was measured.
        when: it began, in words; the day where it is another one than before.
        calls: with their results.
    """

    place: int
    message: Message
    number: int = 0
    took: MeasuredAnswer | None = None
    when: str = ""
    calls: Sequence[tuple[ToolCall, Message | None]] = ()

    @property
    def ran(self) -> list[Call]:
        """Its calls that were measured."""
        results = [(call, result) for call, result in self.calls if result is not None]
        return [
            Call(call.name, took, bool(result.is_tool_call_error), self.number)
            for call, result in results
            if (took := of_call(result)) is not None
        ]


def _turns(history: Sequence[Message]) -> Iterator[_Turn]:
    """The messages, results with their calls. Results that belong to no call stand alone."""
    answers, answered, days = 0, set[int](), Days()
    for place, message in enumerate(history):
        if id(message) in answered:
            continue
        if message.role != "assistant":
            yield _Turn(place, message)
            continue
        answers += 1
        calls = paired(calls_of(message), _results(history, place + 1)) if message.tool_calls else []
        answered = {id(result) for _, result in calls if result is not None}
        took = of_answer(message)
        when = f"{days.change(took.began)} {clock(took.began)}".strip() if took else ""
        yield _Turn(place, message, answers, took, when, calls)


def _results(history: Sequence[Message], start: int) -> Iterator[Message]:
    """The results that belong to the assistant message before `start`: all until the next one."""
    for place in range(start, len(history)):
        if history[place].role == "assistant":
            return
        if history[place].role == "tool":
            yield history[place]


# ==== the head ====


def _summary(state: SessionState, turns: Sequence[_Turn]) -> str:
    measured = [turn.took for turn in turns if turn.took is not None]
    models = dict.fromkeys(took.model for took in measured if took.model)
    facts = [
        ("Model", ", ".join(name[:_LONGEST_NAME] for name in models) or "not known"),
        ("Messages", f"{len(state.chat_history):,}"),
        *_spent(state.usage, any(turn.number for turn in turns)),
        ("Began", clock(measured[0].began, "%Y-%m-%d %H:%M:%S UTC") if measured else "not known"),
        ("Time of work", _worked(turns)),
    ]
    return (
        f'<dl class="facts">{"".join(f"<div><dt>{name}</dt><dd>{text(fact)}</dd></div>" for name, fact in facts)}</dl>'
    )


_LONGEST_NAME: Final = 80


def _spent(usage: Spent, answered: bool) -> list[tuple[str, str]]:
    """What was used. Where there are answers and no request was counted, nothing was."""
    facts = {
        "Requests": f"{usage.requests:,}",
        "Calls of functions": f"{usage.tool_calls:,}",
        "Prompt tokens": f"{usage.input:,}" + (f" ({usage.prompt_cache_hit:.0%} cached)" if usage.input else ""),
        "Answer tokens": f"{usage.output:,}",
        "Cost": _cost(usage),
    }
    counted = usage.requests or not answered
    return [(name, fact if counted else "not known") for name, fact in facts.items()]


def _cost(usage: Spent) -> str:
    words = f"${usage.known_cost:.4f}"
    return words if usage.is_known else f"at least {words}" if usage.known_cost else "not known"


def _worked(turns: Sequence[_Turn]) -> str:
    """How long the model answered and functions ran; what ran at the same time counts once."""
    took = [*(turn.took for turn in turns if turn.took), *(call.took for turn in turns for call in turn.ran)]
    return duration(busy((each.began, each.began + each.seconds) for each in took)) if took else "not known"


def _damage(state: SessionState) -> str:
    if not state.damage:
        return ""
    pieces = [f"<li>{each.length:,} bytes at {each.offset:,}: {text(each.reason)}</li>" for each in state.damage]
    return f'<div class="notice"><p>Some of the file could not be read:</p><ul>{"".join(pieces)}</ul></div>'


def _figures(turns: Sequence[_Turn]) -> list[Figure]:
    answers = [Answer(turn.number, turn.took) for turn in turns if turn.took is not None]
    calls = [call for turn in turns for call in turn.ran]
    drawn = (tokens(answers), context(answers), time_line(answers, calls))
    return [figure for figure in drawn if figure is not None]


def _unmeasured(turns: Sequence[_Turn]) -> str:
    """What is not in the pictures."""
    answers = [turn for turn in turns if turn.number]
    unknown = sum(turn.took is None for turn in answers)
    if not unknown:
        return "" if answers else '<p class="note">There is no answer yet.</p>'
    which = "None of the answers was" if unknown == len(answers) else f"{unknown} of {len(answers)} answers were not"
    return f'<p class="note">{which} measured: that is done while a conversation keeps a session.</p>'


# ==== the conversation ====


def _pinned(state: SessionState) -> str:
    pinned = state.always_included_messages
    if not pinned:
        return ""
    inner = "".join(_message(_Turn(-1, message)) for message in pinned)
    return f'<details class="pinned"><summary>Pinned messages: {len(pinned)}</summary>{inner}</details>'


def _said(state: SessionState, turns: Sequence[_Turn]) -> str:
    pieces: list[str] = []
    marked = state.cut <= 0
    for turn in turns:
        if not marked and turn.place >= state.cut:
            pieces.append('<p class="cut">What stands above is no longer sent to the model.</p>')
            marked = True
        pieces.append(_message(turn))
    return "".join(pieces) or '<p class="note">Nothing was said yet.</p>'


_WHO: Final = {"user": "User", "assistant": "Model", "system": "System", "tool": "Result"}


def _message(turn: _Turn) -> str:
    message = turn.message
    name = f" · {text(message.name)}" if message.name else ""
    head = f'<span class="who">{_WHO[message.role]}{name}</span><span class="meta">{_meta(turn)}</span>'
    parts = "".join(_part(part, message.role) for part in message.parts)
    calls = "".join(_call(call, result) for call, result in turn.calls)
    return f'<article class="message {message.role}"><div class="head">{head}</div>{parts}{calls}</article>'


def _meta(turn: _Turn) -> str:
    """What is known of a message, in a line."""
    number = f"answer {turn.number}" if turn.number else ""
    if (took := turn.took) is None:
        return number
    counted = [] if took.input is None else [f"{took.input:,} tokens in"]
    counted += [] if took.output is None else [f"{took.output:,} out"]
    again = [f"asked again {len(took.retries)} ×"] if took.retries else []
    return " · ".join([number, turn.when, duration(took.seconds), *counted, *again])


# ---- parts ----


def _part(part: ContentPart, role: str) -> str:
    if isinstance(part, TextPart):
        return markdown(part.text) if role == "assistant" else _text(part.text, role)
    if isinstance(part, ThinkPart):
        return _thought(part.think)
    if isinstance(part, ImageURLPart):
        return _picture(part.image_url.url)
    for kind, url in _other_media(part):
        return _link(kind, url)
    return f'<p class="note">{text(part.type)}</p>{_json(part.model_dump(mode="json", exclude={"type", "extra"}))}'


def _text(value: str, role: str) -> str:
    return folded(value, _code) if role == "tool" else folded(value)


def _thought(value: str) -> str:
    if not value.strip():
        return ""
    label = f"Reasoning · {len(value):,} characters"
    return f'<details class="thought"><summary>{label}</summary>{folded(value)}</details>'


_PICTURE: Final = re.compile(r"data:image/(?:png|jpeg|gif|webp|avif|bmp);base64,[A-Za-z0-9+/=\s]*", re.IGNORECASE)
"""What is shown: what browsers decode, and cannot contain anything else."""


def _picture(url: str) -> str:
    if not _PICTURE.fullmatch(url):
        return _link("picture", url)
    return f'<img src="{text(url)}" alt="a picture of the conversation" loading="lazy">'


def _other_media(part: ContentPart) -> Iterator[tuple[str, str]]:
    if isinstance(part, AudioURLPart):
        yield "sound", part.audio_url.url
    if isinstance(part, VideoURLPart):
        yield "film", part.video_url.url


def _link(kind: str, url: str) -> str:
    """Where something is, as text; of what is there in full, only how much."""
    where = f"{url[:60]}… {len(url):,} characters" if url.startswith("data:") else url[:2000]
    return f'<p class="note">{kind}: <code>{text(where)}</code></p>'


# ---- calls ----


def _call(call: ToolCall, result: Message | None) -> str:
    failed = result is not None and bool(result.is_tool_call_error)
    took = None if result is None else of_call(result)
    outcome = [] if took is None else [duration(took.seconds)]
    outcome += ["no result"] if result is None else ["went wrong"] if failed else []
    head = f'<code>{text(call.name)}</code> <span class="arguments">{text(_shortened(call.arguments))}</span>'
    answer = "" if result is None else "<h4>Result</h4>" + "".join(_part(part, "tool") for part in result.parts)
    return (
        f'<details class="call{" wrong" if failed else ""}"><summary>{head}'
        f'<span class="meta">{" · ".join(outcome)}</span></summary>'
        f"<h4>Arguments</h4>{_arguments(call.arguments)}{answer}</details>"
    )


def _shortened(arguments: str) -> str:
    line = " ".join(arguments[:400].split())
    return line if len(line) <= 80 else f"{line[:79]}…"


def _arguments(written: str) -> str:
    try:
        return _json(json.loads(written))
    except (ValueError, RecursionError):
        return folded(written, _code)


def _json(value: Any) -> str:
    return folded(json.dumps(value, ensure_ascii=False, indent=2), _code)


def _code(value: str) -> str:
    return f'<pre tabindex="0">{text(value)}</pre>' if value else plain("")
