"""Everything that can go wrong, as one tree, in three families by whose mistake it was.

KimiAgentError
├── ChatProviderError                      the provider, or the way to it
│   ├── InvalidRequestError                a request that the model would refuse; it was not sent
│   ├── APIConnectionError                 no connection, or one that broke
│   │   └── StreamInterruptedError         the answer stopped before its end; `.partial` has what came
│   ├── APITimeoutError                    the provider was silent for too long
│   ├── APIStatusError                     the provider answered with an error
│   │   ├── BadRequestError                400: the request is malformed
│   │   ├── ContextLengthError             400: the prompt is longer than the model's window
│   │   ├── ContentFilterError             400: moderation refused the request
│   │   ├── AuthenticationError            401: wrong key, or the key of another platform
│   │   ├── PermissionDeniedError          402, 403: the key may not do this
│   │   ├── NotFoundError                  404: no such model or file
│   │   ├── RequestTooLargeError           413: the body is too large
│   │   ├── RateLimitError                 429: too fast, or the servers are busy; wait and try again
│   │   ├── QuotaExceededError             429: the balance is used up; waiting does not help
│   │   └── ServerError                    5xx
│   ├── APIEmptyResponseError              an answer without text and without calls
│   └── StreamProtocolError                bytes that are no chat-completions answer
├── FunctionCallException                  the model called a function and it did not work
│   ├── WrappedCallException               the function raised; `.original` is what it raised
│   ├── NoSuchFunction                     the function does not exist
│   ├── ToolArgumentsError                 the arguments do not fit the function
│   ├── FunctionTimeout                    the function took longer than it may
│   └── CallRejected                       somebody has to approve the call, and did not
├── MCPServerError                         a server of functions cannot be reached
├── SubAgentError                          an agent that was called as a tool has no answer
├── ModelRetry                             raised by a function: "model, do it differently"
├── FunctionSpecError                      a function that cannot be described to a model
├── PromptError                            a prompt that cannot be built
│   ├── PromptTooLong                      the pinned messages alone do not fit
│   └── MessageTooLong                     the newest message or exchange does not fit
├── RoundInProgressError                   the agent is in the middle of a round
├── ApprovalPending                        the round waits for somebody who approves; `.calls` are the calls
├── UsageLimitExceeded                     a limit that the caller set was reached
├── RanksError                             Kimi's rank file is missing, or is another file
├── SessionError                           a session that cannot be read or written
│   └── SessionConflictError               somebody else wrote to the same session
└── StructuredOutputError                  the answer does not have the wanted shape; `.raw` is its text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .message import Message, ToolCall

__all__ = [
    "APIConnectionError",
    "APIEmptyResponseError",
    "APIStatusError",
    "APITimeoutError",
    "ApprovalPending",
    "AuthenticationError",
    "BadRequestError",
    "CallRejected",
    "ChatProviderError",
    "ContentFilterError",
    "ContextLengthError",
    "FunctionCallException",
    "FunctionSpecError",
    "FunctionTimeout",
    "InvalidRequestError",
    "KimiAgentError",
    "MCPServerError",
    "MessageTooLong",
    "ModelRetry",
    "NoSuchFunction",
    "NotFoundError",
    "PermissionDeniedError",
    "PromptError",
    "PromptTooLong",
    "QuotaExceededError",
    "RanksError",
    "RateLimitError",
    "RequestTooLargeError",
    "RoundInProgressError",
    "ServerError",
    "SessionConflictError",
    "SessionError",
    "StreamInterruptedError",
    "StreamProtocolError",
    "StructuredOutputError",
    "SubAgentError",
    "ToolArgumentsError",
    "UsageLimitExceeded",
    "WrappedCallException",
]


class KimiAgentError(Exception):
    """The root of the tree: `except KimiAgentError` catches whatever this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[KimiAgentError], args: tuple[Any, ...], fields: dict[str, Any]) -> KimiAgentError:
    """The same error in another process. What it takes to make one anew is more than what it says."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


# ---- the provider ----


class ChatProviderError(KimiAgentError):
    """The provider did not answer as it should, or could not be asked."""


class InvalidRequestError(ChatProviderError, ValueError):
    """The request has a form that the model refuses. It was not sent; the text says what to change."""


class APIConnectionError(ChatProviderError):
    """The provider could not be reached, or the connection broke."""


class StreamInterruptedError(APIConnectionError):
    """The answer stopped before a `finish_reason` or `[DONE]` said that it was whole.

    `partial` is the message as far as it came. It is not in the history.
    """

    def __init__(self, message: str, partial: Message) -> None:
        super().__init__(message)
        self.partial = partial


class APITimeoutError(ChatProviderError):
    """The provider was silent for longer than the timeout allows."""


class APIStatusError(ChatProviderError):
    """The provider answered with an error.

    Args:
        status_code: the HTTP status. For an error that came inside a stream, whose HTTP status was 200: the status that
            Kimi gives this `type` of error elsewhere.
        message: what the provider said.
        type: `error.type` of the body, such as `rate_limit_reached_error`.
        code: `error.code` of the body; often absent.
        body: the decoded JSON of the body, or its text when it is no JSON.
        request_id: quote it in a bug report.
        trace_id: the provider's `x-trace-id`.
        retry_after: seconds after which the provider wants to be asked again.
    """

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        type: str | None = None,
        code: str | None = None,
        body: Any = None,
        request_id: str | None = None,
        trace_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.type = type
        self.code = code
        self.body = body
        self.request_id = request_id
        self.trace_id = trace_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        kind = f"{self.status_code} {self.type}" if self.type else str(self.status_code)
        return f"{super().__str__()} ({kind})"


class AuthenticationError(APIStatusError):
    """401. The key is wrong, or it belongs to the other platform (`.ai` and `.cn` have separate keys)."""


class PermissionDeniedError(APIStatusError):
    """402 or 403. The key is known and may not do this."""


class NotFoundError(APIStatusError):
    """404. No such model or file, or the account may not use it."""


class BadRequestError(APIStatusError):
    """400. The request is malformed; sending it again does not help."""


class ContextLengthError(APIStatusError):
    """400. The prompt, or the prompt and the completion limit together, exceed the model's window."""


class ContentFilterError(APIStatusError):
    """400. Moderation refused the request."""


class RequestTooLargeError(APIStatusError):
    """413. The body is too large: send fewer or smaller pictures."""


class RateLimitError(APIStatusError):
    """429. Too many requests or tokens a minute, or the servers are busy. Wait `retry_after` seconds and try again.

    A 5xx whose `type` says the same is one, too.
    """


class QuotaExceededError(APIStatusError):
    """429. The balance or the quota is used up. Waiting does not help."""


class ServerError(APIStatusError):
    """5xx. Something failed on the provider's side."""


class APIEmptyResponseError(ChatProviderError):
    """The answer has neither text nor calls."""


class StreamProtocolError(ChatProviderError):
    """What came back is no chat-completions answer: broken JSON, HTML, a delta that belongs to no call."""


# ---- the model ----


class FunctionCallException(KimiAgentError):
    """A function call of the model did not work.

    Args:
        retry: whether the model may try again.
        message: what to tell the model.
    """

    def __init__(self, retry: bool, message: str = "") -> None:
        super().__init__(message)
        self.retry = retry


class WrappedCallException(FunctionCallException):
    """The function raised. `original` is the exception, also as `__cause__`."""

    def __init__(self, retry: bool, original: BaseException) -> None:
        super().__init__(retry, f"{type(original).__name__}: {text_of(original)}")
        self.original = original
        self.__cause__ = original


def text_of(error: BaseException) -> str:
    """What an error says; of one that cannot say it, that."""
    try:
        return str(error)
    except BaseException:
        return "its text cannot be read"


class NoSuchFunction(FunctionCallException):
    """The model called a function that does not exist."""

    def __init__(self, name: str) -> None:
        super().__init__(True, f"there is no function named {name!r}")
        self.name = name


class ToolArgumentsError(FunctionCallException):
    """The arguments of a call are no JSON object, or do not fit the function.

    The text names the field and what was expected, for the model to read.

    Args:
        message: that text.
        retry: whether the model may try again.
        malformed: they are no JSON at all.
    """

    def __init__(self, message: str, *, retry: bool = True, malformed: bool = False) -> None:
        super().__init__(retry, message)
        self.malformed = malformed


class FunctionTimeout(FunctionCallException):
    """A function took longer than it may. A `TimeoutError` that the function raises itself is none of these.

    Args:
        name: of the function.
        seconds: how long it may take.
        retry: whether the model may try again.
        still_running: it could not be stopped: it is in a thread, or does not end when it is cancelled.
        began: whether it ran at all; else it waited for a thread.
    """

    def __init__(
        self, name: str, seconds: float, *, retry: bool = True, still_running: bool = False, began: bool = True
    ) -> None:
        super().__init__(retry, f"{name!r} took longer than {seconds:g} seconds")
        self.began = began
        self.name = name
        self.seconds = seconds
        self.still_running = still_running


class CallRejected(FunctionCallException):
    """Somebody has to approve a call, and did not.

    Args:
        feedback: what he says about it.
        asked: whether he was asked; else there was nobody to ask.
    """

    def __init__(self, feedback: str = "", *, asked: bool = True) -> None:
        super().__init__(True, f"the call was not approved: {feedback}" if feedback else "the call was not approved")
        self.feedback = feedback
        self.asked = asked


class SubAgentError(KimiAgentError):
    """The round of an agent that was called as a tool failed. `__cause__` is why, and `name` is the tool."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class MCPServerError(KimiAgentError):
    """An MCP server cannot be reached, has ended, or does not speak MCP; the text says which one and what was tried."""


class ModelRetry(KimiAgentError):
    """Raise it in a function to tell the model in your own words what to do differently."""


# ---- the caller ----


class FunctionSpecError(KimiAgentError, TypeError, ValueError):
    """A function cannot be described to a model: a parameter without a type, `*args`, a name that Kimi refuses.

    It is a mistake in the code, or in what the code hands over: a `TypeError` and a `ValueError` alike.
    """


class PromptError(KimiAgentError):
    """No prompt can be built from the messages."""


class PromptTooLong(PromptError):
    """The system prompt, the always included messages and the functions alone do not fit the window."""


class MessageTooLong(PromptError):
    """The newest message, or the newest exchange of calls and results, does not fit the window."""


class RoundInProgressError(KimiAgentError):
    """A tool, hook or handler asked the agent of its own round for another one, or a closed round was resumed."""


class ApprovalPending(KimiAgentError):
    """The round ended because calls wait for somebody who approves them: `agent.resume(approvals)` goes on.

    The history is whole and saved. `calls` are those that wait, in their order.
    """

    def __init__(self, calls: Sequence[ToolCall]) -> None:
        self.calls: tuple[ToolCall, ...] = tuple(calls)
        names = ", ".join(dict.fromkeys(call.name for call in self.calls))
        super().__init__(f"calls of {names} wait for approval; approve or reject them with agent.resume([...])")


class UsageLimitExceeded(KimiAgentError):
    """A limit that the caller set was reached.

    `message` is the answer that went beyond it, which is finished and kept; `None` when nothing was spent.
    """

    def __init__(self, text: str, message: Message | None = None) -> None:
        super().__init__(text)
        self.message = message


class RanksError(KimiAgentError):
    """Kimi's rank file, with which tokens are counted, is missing, cannot be read, or is another file."""


class SessionError(KimiAgentError):
    """A session or a saved file cannot be read or written; the text says which one and where."""


class SessionConflictError(SessionError):
    """Two writers had the same session open; this one lost."""


class StructuredOutputError(KimiAgentError):
    """The answer does not have the wanted shape. `raw` is its text."""

    def __init__(self, message: str, raw: str) -> None:
        super().__init__(message)
        self.raw = raw
