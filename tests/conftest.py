"""What every test may use."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from kimi_agent.kimi import patience

settings.register_profile("suite", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None)
settings.load_profile("nightly" if "KIMI_AGENT_FUZZ" in os.environ else "suite")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors: terminals, servers and processes that end are waited for."""
    return (os.cpu_count() or 1) + 1


def pytest_sessionstart() -> None:
    """While tests are found there is hardly any garbage, and more and more to look through for it."""
    gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What stays for the whole run, ten thousand tests and all modules, is no garbage, and is not looked through again.

    What a test leaves behind is collected as ever, in a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def nothing_but_garbage_is_collected() -> None:
    """What the modules of tests before have opened for good, other modules above all, stays as well."""
    gc.collect()
    gc.freeze()


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
