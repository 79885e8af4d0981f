"""Doubles of Kimi for tests and demos. Not imported by the top level.

`KimiServer` speaks HTTP, `ScriptedKimi` is a provider in the same process; both answer by the same scripts.
"""

from .checks import check_request
from .persona import persona
from .script import Answer, Call, Delivery, Failure, Gate, RawBody, Recorded, Reply, ScriptSource, Step, call, say
from .scripted import ScriptedKimi, ScriptedRequest
from .server import ChatRequest, KimiServer

__all__ = [
    # doubles
    "KimiServer",
    "ScriptedKimi",
    # what they were asked
    "ChatRequest",
    "ScriptedRequest",
    # scripts
    "Answer",
    "Call",
    "Failure",
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
    # what they are made of
    "check_request",
    "persona",
]
