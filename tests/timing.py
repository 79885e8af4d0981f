"""How long something takes, in seconds of the processor: what others do meanwhile does not count."""

import gc
import sys
import time
from collections.abc import Callable

import pytest

untraced = pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer takes time, and files, of its own")
"""For a test of one against another, or of a disk that is full: whoever measures coverage is in its way."""


def seconds(work: Callable[[], object]) -> float:
    """What one run takes, without the collections that fall into it by chance."""
    collects = gc.isenabled()
    gc.disable()
    try:
        begun = time.process_time()
        work()
        return time.process_time() - begun
    finally:
        if collects:
            gc.enable()


def takes_at_most(times: float, few: Callable[[], object], many: Callable[[], object], spare: float = 0.005) -> bool:
    """Whether `many` takes at most so many times as long as `few`, each at the best of five runs.

    Where it plainly does, one run of `many` is enough: that is why this costs little where all is well.

    Args:
        times: between what is allowed and what would be a fault: with eight times as much, 24 is far from 8 and 64.
        few: a run, long enough to be measured.
        many: the same with more of everything.
        spare: seconds that `many` may take beside that, far fewer than a fault would take.
    """
    few_took, many_took = min(seconds(few), seconds(few)), seconds(many)
    for _ in range(4):
        if many_took <= times * few_took + spare:
            break
        few_took, many_took = min(few_took, seconds(few)), min(many_took, seconds(many))
    return many_took <= times * few_took + spare
