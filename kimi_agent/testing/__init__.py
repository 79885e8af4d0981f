"""Doubles of Kimi for tests and demos. Not imported by the top level.

`KimiServer` speaks HTTP, `ScriptedKimi` is a provider in the same process; both answer by the same scripts. The server
also has Kimi's endpoints beside chat. `ChaosTransport` stands between a client and either Kimi, and does harm.
"""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from .chaos import ChaosFault, ChaosTransport

__all__ = [
    # test doubles
    "KimiServer",
    "ScriptedKimi",
    # faults on the way
    "ChaosFault",
    "ChaosTransport",
    # requests
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
    # delivery
    "Delivery",
    "Gate",
    # what the other endpoints know
    "Account",
    "Formula",
    "StoredFile",
    # checks and personas
    "check_request",
    "persona",
]


def __getattr__(name: str) -> Any:
    """`chaos.py` brings httpx, which takes as long to import as all of this package."""
    if name not in ("ChaosFault", "ChaosTransport"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import chaos

    value = globals()[name] = getattr(chaos, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
