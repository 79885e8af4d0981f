"""`Kimi`: Moonshot AI's chat-completions as a `ChatProvider`."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self, Unpack
from urllib.parse import urlsplit

from ..errors import ChatProviderError, InvalidRequestError
from ..events import RequestSent, tell
from ..history import Repaired, is_begun, repair
from ..kinds import NUMBER, TEXT_OR_NONE, Kinds, check_kinds
from ..message import Message
from ..prompt.tokens import quickly_counted
from ..provider import GenerationKwargs, OnEvent, checked
from ..tools.base import Tool
from ..tools.texts import DEFAULT_TEXTS
from . import endpoints
from .answer import KimiStreamedMessage
from .endpoints import Balance
from .models import ModelInfo, ThinkingEffort, model_info, refreshed, thinking_fields
from .patience import RETRIES, TIMEOUTS, Retries, Timeouts
from .prompts import Prompt, prompt_request
from .request import ChatRequest, merged, renamed
from .status import without_login
from .wire import DEFAULT_REASONING_KEY, Dialect, joined, messages_json

if TYPE_CHECKING:
    import httpx

    from .files import KimiFiles
    from .formulas import KimiFormulas
    from .http import Place

__all__ = ["Kimi"]

BASE_URL: Final = "https://api.moonshot.ai/v1"
KEY_NAMES: Final = ("KIMI_API_KEY", "MOONSHOT_API_KEY")
BASE_URL_NAMES: Final = ("KIMI_BASE_URL", "MOONSHOT_BASE_URL", "MOONSHOT_API_BASE")
_KINDS: Final[Kinds] = {
    "model": (str, "the name of a model, such as 'kimi-k3'"),
    "base_url": (TEXT_OR_NONE, "text, or None"),
    "timeout": (NUMBER | Timeouts | None, "a number of seconds, Timeouts(...), or None for ever"),
    "max_retries": (NUMBER, "a number"),
    "max_retry_time": (NUMBER, "a number of seconds"),
    "max_concurrency": (NUMBER | None, "a number, or None for no limit"),
}
_THINKING: Final = frozenset({"thinking", "reasoning_effort"})


@dataclass(slots=True)
class _Learnt:
    """What a server has told of itself. Shared by all copies of a client."""

    reasoning_key: str = DEFAULT_REASONING_KEY
    models: dict[str, ModelInfo] = field(default_factory=dict[str, ModelInfo])

    def learn_reasoning_key(self, key: str) -> None:
        self.reasoning_key = key


class Kimi:
    """A model of Moonshot AI.

    Args:
        model: its name.
        api_key: else from `KIMI_API_KEY` or `MOONSHOT_API_KEY`.
        base_url: else from `KIMI_BASE_URL`, `MOONSHOT_BASE_URL` or `MOONSHOT_API_BASE`, else api.moonshot.ai, the
            international platform.
        stream: whether answers are streamed. Without it a long answer may outlast what gateways wait for.
        timeout: how long to wait, in seconds: one number for every kind of wait, `Timeouts`, or `None` for ever.
        max_retries: how often a request is sent again, if that can help and nothing of its answer was delivered.
        max_retry_time: seconds after the first attempt in which others may begin.
        max_concurrency: how many requests may be under way at a time, in this client and its copies and in one event
            loop; a new account may have one. First come, first served.
        http_client: an `httpx.AsyncClient` of your own, for proxies, certificates or limits; you close it. Its timeouts
            give way to `timeout`.

    Raises:
        ChatProviderError: there is no key, it has characters that no key has, or the base URL is none.
        TypeError: an argument is of another kind.
        ValueError: a number is out of its range.
    """

    name = "kimi"

    def __init__(
        self,
        model: str = "kimi-k3",
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        stream: bool = True,
        timeout: float | Timeouts | None = TIMEOUTS,
        max_retries: int = RETRIES.most,
        max_retry_time: float = RETRIES.total_time,
        max_concurrency: int | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        key = _Key(api_key or _from_environment(KEY_NAMES))
        api_key = None  # log tools print the variables of a traceback
        check_kinds(_KINDS, locals())
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError("max_concurrency is 1 or more, or None for no limit")
        self.model_name = model
        self.base_url: str = (base_url or "").strip() or _from_environment(BASE_URL_NAMES) or BASE_URL
        _check_url(self.base_url)
        self.stream = stream
        self._thinking_effort: ThinkingEffort | None = None
        self._generation: dict[str, Any] = {}
        self._learnt = _Learnt()
        from .http import HttpTransport  # brings httpx, which takes as long to import as all of this package

        self._http = HttpTransport(
            self.base_url,
            key.checked(),
            http_client,
            timeouts=_timeouts(timeout),
            retries=Retries(max_retries, max_retry_time),
            max_concurrency=max_concurrency,
        )

    def __repr__(self) -> str:
        return f"Kimi({self.model_name!r}, base_url={without_login(self.base_url)!r})"

    # ---- the model ----

    @property
    def model_info(self) -> ModelInfo:
        """What is known of the model; `models()` asks for more."""
        return self._learnt.models.get(self.model_name) or model_info(self.model_name)

    @property
    def context_window(self) -> int:
        """How many tokens prompt and completion may have together."""
        return self.model_info.context_window

    @property
    def thinking_effort(self) -> ThinkingEffort | None:
        """What `with_thinking` asked for; `None` for the model's default."""
        return self._thinking_effort

    @property
    def generation_kwargs(self) -> Mapping[str, Any]:
        """What is sent with each request, as `with_generation_kwargs` and the others said."""
        return copy.deepcopy(self._generation)

    @property
    def model_parameters(self) -> dict[str, Any]:
        """The base URL and what is sent with each request, for logs and traces. The key is not in it."""
        return {"base_url": without_login(self.base_url), **self.generation_kwargs}

    async def models(self) -> list[ModelInfo]:
        """Ask the server which models there are. What it says of them holds from now on, in all copies of this client.

        Raises:
            ChatProviderError: it did not say.
        """
        entries = await endpoints.models(self._http)
        today = datetime.now(UTC).date()
        known = self._learnt.models
        listed = {name: refreshed(known.get(name) or model_info(name), entry, today) for name, entry in entries.items()}
        known.update(listed)
        return list(listed.values())

    # ---- copies that differ in one thing ----

    def with_thinking(self, effort: ThinkingEffort) -> Self:
        """A copy whose model thinks as hard as that. Copies share one pool of connections.

        Changing the effort in the middle of a conversation costs its cached prompt: the effort stands at its head.

        Raises:
            InvalidRequestError: the model cannot do it.
        """
        fields = thinking_fields(self.model_info, effort)
        if "thinking" in fields and (known := self._generation.get("thinking")):
            fields["thinking"] = {**known, **fields["thinking"]}
        changed = copy.copy(self)
        changed._generation = {**_without_thinking(self._generation), **fields}
        changed._thinking_effort = effort
        return changed

    def with_model(self, model: str) -> Self:
        """A copy that asks another model. Copies share one pool of connections.

        What `with_thinking` asked for is said in the words of the other model. If that cannot think so hard, it thinks
        as it does by default, and `thinking_effort` is `None`.

        Args:
            model: its name.
        """
        changed = copy.copy(self)
        changed.model_name = model
        if self._thinking_effort is None:
            return changed
        try:
            return changed.with_thinking(self._thinking_effort)
        except InvalidRequestError:
            changed._generation, changed._thinking_effort = _without_thinking(self._generation), None
            return changed

    def with_generation_kwargs(self, **kwargs: Unpack[GenerationKwargs]) -> Self:
        """A copy that sends these with each request. What was said last counts; a request's own overrides go first.

        `extra_body` goes before all of them, whenever it was said.

        Raises:
            TypeError: a name that no request knows.
        """
        changed = copy.copy(self)
        changed._generation = {**self._generation, **copy.deepcopy(renamed(checked(kwargs, GenerationKwargs)))}
        if _THINKING & (kwargs.keys() | (kwargs.get("extra_body") or {}).keys()):
            changed._thinking_effort = None
        return changed

    def with_extra_body(self, extra_body: Mapping[str, Any]) -> Self:
        """A copy that sends more top-level fields beside those that it sends already; `thinking` is merged."""
        return self.with_generation_kwargs(extra_body=merged(self._generation.get("extra_body") or {}, extra_body))

    # ---- asking ----

    async def generate(
        self,
        system_prompt: str,
        tools: Sequence[Tool],
        history: Sequence[Message],
        *,
        generation_overrides: GenerationKwargs | None = None,
        on_event: OnEvent | None = None,
    ) -> KimiStreamedMessage:
        """Ask the model. Returns when the first piece of the answer is there; close what it returns.

        Args:
            system_prompt: goes before the history; `""` for none.
            tools: what the model may call.
            history: the messages; they are not changed. What Kimi would refuse in them is mended in the copy that is
                sent: calls without a result, results without a call, empty messages.
            generation_overrides: for this request only.
            on_event: gets `RequestSent` and `RequestRetried`, and is awaited if it is async.

        Raises:
            InvalidRequestError: the model would refuse the request; it was not sent.
            ChatProviderError: the model could not be asked, or refused.
            TypeError: an override that no request knows.
        """
        history = _sendable(history)
        request = self._request(system_prompt, tools, history, self._asked(generation_overrides))
        body = request.body() if quickly_counted(history) else await asyncio.to_thread(request.body)
        continues = bool(history) and is_begun(history[-1])
        return await self._send("/chat/completions", body, on_event, may_be_empty=continues)

    async def complete(
        self,
        prompt: Prompt,
        *,
        generation_overrides: GenerationKwargs | None = None,
        on_event: OnEvent | None = None,
    ) -> KimiStreamedMessage:
        """Let a model on a server of one's own go on with a prompt that is written as the model reads it.

        Args:
            prompt: a text for `/completions`, or messages as JSON for `/chat/completions`. It is sent as it is.
            generation_overrides: for this request only.
            on_event: gets `RequestSent` and `RequestRetried`, and is awaited if it is async.

        Raises:
            InvalidRequestError: there is no prompt, or an override is none of a text completion.
            ChatProviderError: the model could not be asked, or refused.
            TypeError: an override that no request knows.
        """
        path, body = prompt_request(self.model_info, prompt, self._asked(generation_overrides), stream=self.stream)
        return await self._send(path, body, on_event, may_be_empty=False)

    def _asked(self, overrides: GenerationKwargs | None) -> dict[str, Any]:
        asked = {**self._generation, **renamed(checked(overrides or {}, GenerationKwargs))}
        if (extra := self._generation.get("extra_body")) and (more := asked["extra_body"]) is not extra:
            asked["extra_body"] = merged(extra, more or {})
        return asked

    async def _send(
        self, path: str, body: bytes, on_event: OnEvent | None, *, may_be_empty: bool
    ) -> KimiStreamedMessage:
        if on_event is not None:
            await tell(on_event, RequestSent(body.decode()))
        return await self._http.retried(
            lambda place: self._begin(path, body, place, may_be_empty=may_be_empty), on_event
        )

    def _request(
        self, system_prompt: str, tools: Sequence[Tool], history: Sequence[Message], asked: Mapping[str, Any]
    ) -> ChatRequest:
        return ChatRequest(
            self.model_info,
            system_prompt,
            tools,
            history,
            asked,
            stream=self.stream,
            reasoning_key=self._learnt.reasoning_key,
        )

    async def _begin(self, path: str, body: bytes, place: Place, *, may_be_empty: bool) -> KimiStreamedMessage:
        """Send the request once, and read the first piece of the answer."""
        response = await self._http.post(path, body, place=place, streamed=self.stream)
        try:
            answer = KimiStreamedMessage(
                response,
                patience=self._http.timeouts.between_chunks,
                hide=self._http.without_key,
                on_reasoning_key=self._learnt.learn_reasoning_key,
            )
            await answer.begin(may_be_empty=may_be_empty)
        except BaseException:
            await response.aclose()
            raise
        return answer

    # ---- the rest of the platform ----

    async def balance(self) -> Balance:
        """Ask for the money that is left.

        Raises:
            ChatProviderError: the server did not say.
        """
        return await endpoints.balance(self._http)

    async def estimate_tokens(self, messages: Sequence[Message], *, system_prompt: str = "") -> int:
        """Let the server count the prompt tokens of messages. It counts no tools.

        Raises:
            ChatProviderError: it did not count.
        """
        dialect = Dialect(self._learnt.reasoning_key, self.model_info.is_known)
        encoded = messages_json(dialect, system_prompt, _sendable(messages))
        body = joined(encoded, (), {"model": self.model_name})
        return await endpoints.estimate_tokens(self._http, body)

    @property
    def files(self) -> KimiFiles:
        """Files that are kept on the platform."""
        from .files import KimiFiles

        return KimiFiles(self._http)

    @property
    def formulas(self) -> KimiFormulas:
        """Tools that run on the platform."""
        from .formulas import KimiFormulas

        return KimiFormulas(self._http)

    # ---- its life ----

    async def aclose(self) -> None:
        """Close the connections. Used afterwards, they open again."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        self._http.enter()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.leave()


def _sendable(history: Sequence[Message]) -> Repaired:
    if isinstance(history, Repaired):
        return history
    if strange := next((message for message in history if not isinstance(message, Message)), None):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = f"{type(strange).__module__}.{type(strange).__qualname__}"
        raise TypeError(f"a history is made of kimi_agent.Message, not of {kind}; see Message.user(...)")
    return repair(history, interrupted=DEFAULT_TEXTS.interrupted())


def _without_thinking(generation: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent with each request but for how hard the model thinks, wherever that was said."""
    rest = {name: value for name, value in generation.items() if name not in _THINKING}
    if extra := rest.get("extra_body"):
        rest["extra_body"] = {name: value for name, value in extra.items() if name not in _THINKING}
    return rest


def _timeouts(timeout: float | Timeouts | None) -> Timeouts:
    return timeout if isinstance(timeout, Timeouts) else Timeouts(timeout, timeout, timeout)


def _from_environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), None)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return
    except ValueError:  # a port that is none, half an address
        pass
    raise ChatProviderError(f"{without_login(url)!r} is no base URL; one looks like {BASE_URL}")


class _Key:
    """An API key whose repr does not tell it."""

    def __init__(self, value: str | None) -> None:
        self._value = value.strip() if isinstance(value, str) else value

    def __repr__(self) -> str:
        return "(the API key)"

    def checked(self) -> str:
        """The key.

        Raises:
            ChatProviderError: there is none, or it has characters that no key has.
            TypeError: it is no text.
        """
        if not isinstance(self._value, TEXT_OR_NONE):
            raise TypeError(f"api_key is text, or None; not of the type {type(self._value).__name__}")
        if not self._value:
            raise ChatProviderError(f"no API key: pass api_key= or set {' or '.join(KEY_NAMES)}")
        if not self._value.isascii() or not self._value.isprintable() or " " in self._value:
            raise ChatProviderError("the API key has characters that no key has; was something else pasted with it?")
        return self._value
