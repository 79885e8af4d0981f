"""What every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded streams and expected figures."""
    folder = os.environ.get("KIMI_AGENT_TEST_DATA")
    if not folder:
        pytest.skip("KIMI_AGENT_TEST_DATA does not name the folder with the recorded data")
    return Path(folder)
