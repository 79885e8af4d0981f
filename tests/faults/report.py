"""What comes of a campaign: counts that are summed over its parts, what must not be, and the table of both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple, get_args

from proxy import FAULTS

from kimi_agent.testing import ChaosFault

__all__ = ["ALL_FAULTS", "MUST_BE_ZERO", "Finding", "Report"]

ALL_FAULTS: Final = (*FAULTS, *(f"chaos: {name}" for name in get_args(ChaosFault)))
"""Those of the proxy, and those of a `ChaosTransport`."""
ENOUGH: Final = 2_000
"""Rounds in which every fault strikes."""

MOSTLY: Final = 0.8
"""How many rounds of a whole campaign are answered right, on such a way: nine tenths are usual."""

MUST_BE_ZERO: Final = (
    "rounds that hang",
    "errors outside the tree",
    "requests refused as invalid",
    "answers wrong",
    "histories invalid",
    "results lost",
    "pieces that differ",
    "events that differ",
    "requests nobody asked for",
    "usage that differs",
    "sessions that differ",
    "tasks leaked",
    "sockets leaked",
    "complaints of the event loop",
    "faults that never struck",
    "answers too seldom right",
)


class Finding(NamedTuple):
    """What must not be."""

    round: int
    kind: str
    text: str


@dataclass
class Report:
    """What was done, and what came of it."""

    rounds: int = 0
    injected: Counter[str] = field(default_factory=Counter[str])
    """Faults, by kind."""
    endings: Counter[str] = field(default_factory=Counter[str])
    """How the rounds ended."""
    helped: Counter[str] = field(default_factory=Counter[str])
    """What it took to get answers."""
    errors: Counter[str] = field(default_factory=Counter[str])
    """Those that a consumer got, by class."""
    findings: list[Finding] = field(default_factory=list[Finding])

    def add(self, other: Report) -> None:
        """What another part has done, too."""
        self.rounds += other.rounds
        for name in ("injected", "endings", "helped", "errors"):
            getattr(self, name).update(getattr(other, name))
        self.findings += other.findings

    def find_what_is_missing(self) -> None:
        """A fault that never strikes proves nothing, and neither does an agent that answers with nothing but errors."""
        if self.rounds < ENOUGH:
            return
        idle = [name for name in ALL_FAULTS if not self.injected[name]]
        self.findings += [Finding(0, "faults that never struck", name) for name in idle]
        if (right := self.endings["answered right"]) < MOSTLY * self.rounds:
            self.findings.append(Finding(0, "answers too seldom right", f"{right:,} of {self.rounds:,}"))

    def table(self) -> str:
        """All of it, for a person."""
        zeros = Counter(finding.kind for finding in self.findings)
        parts = [
            ("", {"rounds": self.rounds, "faults injected": self.injected.total()}),
            ("faults injected", {name: self.injected[name] for name in ALL_FAULTS}),
            ("rounds ended", dict(self.endings.most_common())),
            ("answers needed", dict(self.helped.most_common())),
            ("errors raised", dict(self.errors.most_common())),
            ("must be zero", {kind: zeros[kind] for kind in MUST_BE_ZERO}),
        ]
        return "\n".join(line for title, rows in parts for line in _section(title, rows))


def _section(title: str, rows: dict[str, int]) -> list[str]:
    indent = "  " if title else ""
    return [*([title] if title else []), *(f"{indent + name:36}{count:10,}" for name, count in rows.items())]
