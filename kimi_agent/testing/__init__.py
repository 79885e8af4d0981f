"""Doubles of Kimi for tests and demos. Not imported by the top level.

`KimiServer` speaks HTTP, `ScriptedKimi` is a provider in the same process; both answer by the same scripts. The server
also has Kimi's endpoints beside chat.
"""

from .checks import check_request
from .endpoints import Account, Formula, StoredFile
from .persona import persona
from .script import (
    Answer,
    Call,
    Delivery,
    Failure,
    Fault,
    Gate,
    HangUp,
    RawBody,
    Recorded,
    Reply,
    ScriptSource,
    Step,
    call,
    say,
)
from .scripted import ScriptedKimi, ScriptedRequest
from .server import AnyRequest, ChatRequest, KimiServer

__all__ = [
    # doubles
    "KimiServer",
    "ScriptedKimi",
    # what they were asked
    "AnyRequest",
    "ChatRequest",
    "ScriptedRequest",
    # scripts
    "Answer",
    "Call",
    "Failure",
    "Fault",
    "HangUp",
    "RawBody",
    "Recorded",
    "Reply",
    "ScriptSource",
    "Step",
    "call",
    "say",
    # how answers travel
    "Delivery",
    "Gate",
    # what the endpoints beside chat know
    "Account",
    "Formula",
    "StoredFile",
    # what they are made of
    "check_request",
    "persona",
]
