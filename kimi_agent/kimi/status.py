"""Answers that are errors: which one, and whether asking again can help. No I/O.

`ANSWERS` is the table of Kimi's errors. An `error.type` decides, whatever the status; without one, with a type that is
not in the table, or with the one that gateways give to every refusal, the status does. Two more errors are known by
the words of the message alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite, nan
from typing import Any, Final, NamedTuple, cast

from pydantic_core import from_json

from ..errors import (
    APIConnectionError,
    APIEmptyResponseError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatProviderError,
    ContentFilterError,
    ContextLengthError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
)

__all__ = ["error_in", "is_retryable", "retry_after", "status_error", "without_login"]


class Rule(NamedTuple):
    """One kind of error that Kimi answers with."""

    status: int
    type: str | None
    error: type[APIStatusError]
    retry: bool


ANSWERS: Final = (
    Rule(400, "invalid_request_error", BadRequestError, False),
    Rule(400, "content_filter", ContentFilterError, False),
    Rule(400, "exceed_context_size_error", ContextLengthError, False),  # of llama.cpp
    Rule(401, "invalid_authentication_error", AuthenticationError, False),
    Rule(401, "incorrect_api_key_error", AuthenticationError, False),
    Rule(402, None, PermissionDeniedError, False),
    Rule(403, "permission_denied_error", PermissionDeniedError, False),
    Rule(404, "resource_not_found_error", NotFoundError, False),
    Rule(408, None, APIStatusError, True),
    Rule(409, None, APIStatusError, True),
    Rule(413, None, RequestTooLargeError, False),
    Rule(422, None, BadRequestError, False),
    Rule(429, "rate_limit_reached_error", RateLimitError, True),
    Rule(429, "engine_overloaded_error", RateLimitError, True),
    Rule(429, "exceeded_current_quota_error", QuotaExceededError, False),
    Rule(429, "insufficient_quota", QuotaExceededError, False),
    Rule(499, "client_closed_request", APIStatusError, False),
    Rule(500, "server_error", ServerError, True),
    Rule(500, "unexpected_output", ServerError, True),
    Rule(503, "server_unavailable", ServerError, True),
)
"""The first row of a status is for answers that do not tell their type."""

BY_TYPE: Final = {rule.type: rule for rule in ANSWERS if rule.type}
BY_STATUS: Final = {rule.status: rule for rule in reversed(ANSWERS)}

VAGUE: Final = "invalid_request_error"
"""The type that gateways give to every refusal, whatever its status: the status says more."""

TOO_LONG: Final = re.compile(
    r"exceeded model token limit|input token length too long"
    r"|maximum context length|model's context length|maximum model length|exceeds the available context size"
)
"""How Kimi says it, and then vLLM, SGLang and llama.cpp."""
OUT_OF_MONEY: Final = re.compile(
    r"account balance|insufficient balance|recharge|billing|exceeded your current token quota"
)
"""How a 429 speaks of billing when a gateway has dropped its type. A bare "quota" also stands in throttling texts."""
TRY_AGAIN: Final = re.compile(r"try again (?:after|in) (\d+(?:\.\d+)?) ?s")
"""How a 429 says in its text for how many seconds to wait."""

OTHER_PLATFORM: Final = (
    "Keys of api.moonshot.ai, of api.moonshot.cn and of the Kimi Code membership are separate: check that the key"
    " belongs to the base URL."
)
NO_SUCH_PATH: Final = "Check the base URL; Kimi's ends with /v1."


def is_retryable(error: ChatProviderError) -> bool:
    """Whether the same request may go better in a moment."""
    if isinstance(error, APIStatusError):
        return _rule(error.status_code, error.type, str(error).lower()).retry
    return isinstance(error, APIConnectionError | APITimeoutError | APIEmptyResponseError)


def status_error(status_code: int, body: bytes, headers: Mapping[str, str]) -> APIStatusError:
    """The error that an answer with this status is."""
    decoded = _decoded(body)
    error = error_in(decoded, status_code, headers)
    if error is not None:
        return error
    return _made(status_code, _readable(body, status_code, headers), {}, decoded, headers)


def error_in(
    decoded: Any, status_code: int | None = None, headers: Mapping[str, str] | None = None
) -> APIStatusError | None:
    """The error that a decoded body or chunk tells of; `None` when it tells of none.

    Without a status, as inside a stream, it is the one that Kimi gives this type of error elsewhere.
    """
    error = _told_in(cast("dict[str, Any]", decoded)) if isinstance(decoded, dict) else None
    if not error:
        return None
    fields: dict[str, Any] = cast("dict[str, Any]", error) if isinstance(error, dict) else {"message": str(error)}
    if status_code is None:
        status_code = _status_of(fields)
    return _made(status_code, str(fields.get("message") or "no message"), fields, decoded, headers or {})


def _told_in(body: dict[str, Any]) -> Any:
    """What a body says of an error. Some versions of vLLM and SGLang have no `error`: the body itself is one."""
    return body if body.get("object") == "error" else body.get("error")


def _status_of(fields: dict[str, Any]) -> int:
    """What the status of an error would be that came with success: gateways write it into `code`."""
    if rule := BY_TYPE.get(str(fields.get("type"))):
        return rule.status
    code = str(fields.get("code"))
    if code.isascii() and code.isdigit() and 400 <= int(code) < 600:
        return int(code)
    return 429 if OUT_OF_MONEY.search(str(fields.get("message")).lower()) else 500


def _made(
    status_code: int, message: str, fields: dict[str, Any], body: Any, headers: Mapping[str, str]
) -> APIStatusError:
    error_type = _text(fields.get("type"))
    kind = _rule(status_code, error_type, message.lower()).error
    wait = retry_after(headers)
    if wait is None and kind is RateLimitError:
        wait = _wait_in(message)
    return kind(
        status_code,
        f"{message.rstrip('.')}. {hint}" if (hint := _hint(status_code, error_type, kind)) else message,
        type=error_type,
        code=_text(fields.get("code")),
        body=body,
        request_id=headers.get("msh-request-id") or headers.get("x-request-id"),
        trace_id=headers.get("x-trace-id"),
        retry_after=wait,
    )


def _hint(status_code: int, error_type: str | None, kind: type[APIStatusError]) -> str | None:
    """What most often is the matter."""
    if kind is AuthenticationError:
        return OTHER_PLATFORM
    return NO_SUCH_PATH if status_code in (404, 405) and error_type is None else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _rule(status_code: int, error_type: str | None, message: str) -> Rule:
    by_type = BY_TYPE.get(error_type or "") if error_type != VAGUE else None
    rule = by_type or BY_STATUS.get(status_code) or _unlisted(status_code)
    if rule.error is BadRequestError and TOO_LONG.search(message):
        return rule._replace(error=ContextLengthError)
    if rule.error is RateLimitError and by_type is None and OUT_OF_MONEY.search(message):
        return rule._replace(error=QuotaExceededError, retry=False)
    return rule


def _unlisted(status_code: int) -> Rule:
    failed = status_code >= 500
    return Rule(status_code, None, ServerError if failed else APIStatusError, failed)


# ==== how long to wait ====


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the `Retry-After` header, which has seconds or a date."""
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _seconds_until(value)
    return max(seconds, 0.0) if isfinite(seconds) else None


def _seconds_until(date: str) -> float:
    """Not a number when it is no date."""
    try:
        until = parsedate_to_datetime(date)
        return (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return nan


def _wait_in(message: str) -> float | None:
    found = TRY_AGAIN.search(message.lower())
    return float(found[1]) if found else None


# ==== bodies that are no JSON ====


def _decoded(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        return body.decode(errors="replace")


def _readable(body: bytes, status_code: int, headers: Mapping[str, str]) -> str:
    text = " ".join(body.decode(errors="replace").split())
    if 300 <= status_code < 400:
        return f"the server wants to be asked at {headers.get('location', 'another address')}; give that as base_url"
    if not text:
        return f"the server answered {status_code} without a word"
    if text.startswith("<"):
        return f"the server answered {status_code} with HTML: {text[:200]}"
    return text[:500]


def without_login(url: str) -> str:
    """A URL without what may be secret in it: user and password, and what stands behind a `?`."""
    scheme, mark, rest = url.partition("?")[0].rpartition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"
