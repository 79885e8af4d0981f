"""A process is killed while it writes: what it was told to last is there, whole, and the session goes on.

`KIMI_AGENT_KILLS` is how often that is done to each kind of session. A life that fails names its seed.
"""

import os
import random
import sys
from pathlib import Path

import pytest
from killing import TALKS, Nursery, ids_of, open_session

from kimi_agent import history

KILLS = int(os.environ.get("KIMI_AGENT_KILLS", "40"))
LIVES = 10
"""Of one session."""

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL"),
    pytest.mark.timeout(60 + KILLS),
]
KINDS = ["journal", "sqlite"]


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_lost_that_was_said_before_a_kill(tmp_path: Path, kind: str):
    try:
        open_session(kind, tmp_path)
    except ImportError:
        pytest.skip(f"there is no {kind} yet")
    with Nursery() as nursery:
        for seed in range(KILLS):
            folder = tmp_path / str(seed // LIVES)
            folder.mkdir(exist_ok=True)
            await live_and_look(nursery, kind, folder, seed)


@pytest.mark.parametrize("kind", TALKS)
async def test_nothing_is_lost_that_a_round_has_handed_out_before_a_kill(tmp_path: Path, kind: str):
    with Nursery() as nursery:
        for seed in range(KILLS // 2):
            chance = random.Random(seed)
            folder = tmp_path / str(seed // LIVES)
            folder.mkdir(exist_ok=True)
            life = nursery.life(kind, folder, seed, changes=chance.randint(-1, 12), delay=chance.random() / 500)
            session = open_session(TALKS[kind], folder)
            state = await session.load()
            await session.aclose()
            said = {message.text for message in state.chat_history}
            assert set(life.lasts or ()) <= said, f"seed {seed}: {life}"
            assert not history.problems(history.repair(state.chat_history, interrupted="interrupted"))


async def live_and_look(nursery: Nursery, kind: str, folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    life = nursery.life(kind, folder, seed, changes=chance.randint(-1, 15), delay=chance.random() / 1000)
    session = open_session(kind, folder)
    state = await session.load()
    assert await session.load() == state
    await session.aclose()
    assert life.allows(ids_of(state.chat_history)), f"seed {seed}: {life} and {ids_of(state.chat_history)}"
    assert not history.problems(history.repair(state.chat_history, interrupted="interrupted"))
