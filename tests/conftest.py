"""What every test may use."""

import os
from pathlib import Path

import pytest

from kimi_agent.kimi import patience


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is sent again is sent again at once, unless the server says otherwise."""
    monkeypatch.setattr(patience, "FIRST_DELAY", 0.0)


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tokens are estimated, also on a machine that has the rank file, unless a test asks for it."""
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(tmp_path_factory.getbasetemp() / "no ranks here"))


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded streams and expected figures."""
    folder = os.environ.get("KIMI_AGENT_TEST_DATA")
    if not folder:
        pytest.skip("KIMI_AGENT_TEST_DATA does not name the folder with the recorded data")
    return Path(folder)
