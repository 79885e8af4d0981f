"""How fast markdown becomes events: a megabyte in pieces of four characters, and in single characters.

markdown-it-py parses the same text once, as a whole, which is what a stream cannot wait for. The figures are CPU of
this process, the best of some runs, in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from markdown_it import MarkdownIt

from kimi_agent.structured.markdown import MarkdownStream

SIZE = 1_000_000
"""Characters."""
PIECE = 4
RUNS = 3
BOUND = 0.5
"""A stream in pieces may take so many times what markdown-it-py takes for the whole."""
DOUBLED = 2.6
"""Times the time that twice the text may take."""

SECTION = """\
## {number}. The harbour of Bergen

Bergen is Norway's second city, and *most* of its harbour is **older** than the rest: see [the map](https://example.org).
Ships come in from the north, and the quay has been rebuilt after each of the great fires.

- **Founded**: about 1070, by `Olav Kyrre`
- **Rain**: 2,495 mm a year
  - most of it in October
  - [x] bring an umbrella
- **Trade**: stockfish

1. Take the train.
2. Walk to the quay, which takes ten minutes
   when it does not rain.

```python
def depth(metres: float, tide: float = 0.0) -> float:
    # the chart has it at low tide
    return metres + tide
```

| quay  | depth | built |
|-------|------:|-------|
| north |  11.2 | 1702  |
| south |   9.8 | 1916  |

> The sea gives, and the sea takes.

---

"""


def document(size: int) -> str:
    count = size // len(SECTION) + 1
    return "".join(SECTION.replace("{number}", str(number)) for number in range(count))[:size]


def streamed(text: str, size: int) -> int:
    """How many events a stream makes of a text in pieces of a size."""
    stream = MarkdownStream()
    events = sum(len(stream.feed(text[place : place + size])) for place in range(0, len(text), size))
    return events + len(stream.close())


def seconds(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def measured(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The best of some runs, in turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(RUNS):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work))
    return best


def main() -> None:
    """Print the tables; fail where a bound is broken."""
    text = document(SIZE)
    judge = MarkdownIt("commonmark").enable("table")
    stream, whole = f"MarkdownStream, {PIECE} characters a piece", "markdown-it-py, the whole at once"
    best = measured({stream: lambda: streamed(text, PIECE), whole: lambda: judge.parse(text)})
    ratio = best[stream] / best[whole]
    print(f"{SIZE:,} characters of markdown: CPU, and times that of markdown-it-py")
    for name, cost in best.items():
        print(f"  {name:38} {cost * 1e3:8.1f} ms   {cost / best[whole]:5.2f} x")

    texts = {"markdown": text, "one line": "a" * SIZE}
    half = {f"{name}, half": (lambda text=text: streamed(text[: SIZE // 2], 1)) for name, text in texts.items()}
    full = {name: (lambda text=text: streamed(text, 1)) for name, text in texts.items()}
    best = measured({**half, **full})
    doubled = {name: best[name] / best[f"{name}, half"] for name in texts}
    print(f"{SIZE:,} single characters: CPU, and times that of half as many")
    for name, times in doubled.items():
        print(f"  {name:38} {best[name] * 1e3:8.1f} ms   {times:5.2f} x")

    assert ratio <= BOUND, f"a stream takes {ratio:.2f} times what markdown-it-py takes; the bound is {BOUND}"
    for name, times in doubled.items():
        assert times <= DOUBLED, f"{name}: twice the text takes {times:.2f} times as long; the bound is {DOUBLED}"


if __name__ == "__main__":
    main()
