"""Errors can be sent to another process, and copied, with all that they carry."""

import copy
import pickle

import pytest

from kimi_agent import errors
from kimi_agent.errors import KimiAgentError
from kimi_agent.message import Message, ToolCall

MADE = {
    "StreamInterruptedError": ("cut", Message.assistant("Par")),
    "APIStatusError": (429, "slow down"),
    "FunctionCallException": (True, "no"),
    "WrappedCallException": (True, ValueError("x")),
    "NoSuchFunction": ("look",),
    "ToolArgumentsError": ("no",),
    "FunctionTimeout": ("look", 2.5),
    "CallRejected": ("no",),
    "SubAgentError": ("no", "scout"),
    "ApprovalPending": ([ToolCall(id="look_0", function=ToolCall.FunctionBody(name="look", arguments="{}"))],),
    "StructuredOutputError": ("no", "raw"),
}


def made(kind: type[KimiAgentError]) -> KimiAgentError:
    arguments = next((MADE[base.__name__] for base in kind.__mro__ if base.__name__ in MADE), ("text",))
    return kind(*arguments)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_is_the_same_after_a_journey(name: str) -> None:
    error = made(getattr(errors, name))
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again).keys() == vars(error).keys()
        assert getattr(again, "partial", None) == getattr(error, "partial", None)
        assert getattr(again, "status_code", None) == getattr(error, "status_code", None)
