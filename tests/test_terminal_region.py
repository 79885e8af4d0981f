"""The last rows of a terminal, and what functions do with the terminal while they are there."""

import signal
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pty", reason="there are no pseudo-terminals here")
pytest.importorskip("pyte", reason="pyte, which is the screen, is not installed")
pytest.importorskip("rich", reason="the extra `cli` is not installed")

from terminals import Drawn

from kimi_agent.terminal.screen import region as regions
from kimi_agent.terminal.screen.painting import Painter
from kimi_agent.terminal.screen.region import ENTER, LEAVE, MOST_LINES, Region


def test_what_a_function_prints_stands_above_the_region_and_later_where_it_always_does() -> None:
    out = Drawn()
    with Region(out, Painter().colored) as region:
        kept = sys.stdout
        region.draw(["one", "two"])
        print("\x1b[31mred\x1b[0m\x1b[2J", end="")
        region.print("for good\n")
        region.draw(["three"])
        assert out.screen.text == "for good\nthree"
        assert (out.screen.cursor.y, out.screen.cursor.x, out.screen.cursor.hidden) == (1, 0, True)
    print("later", file=kept)
    assert out.screen.text == "for good\nred\\x1b[2J\nlater"
    assert out.screen.buffer[1][0].fg == "red"
    assert not out.screen.cursor.hidden


@given(st.lists(st.lists(st.sampled_from(("a", "bb", "ccc", "x" * 79, "")), max_size=5), max_size=6))
def test_rows_are_there_whatever_was_there_before(drawings: list[list[str]]) -> None:
    out = Drawn()
    with Region(out, str) as region:
        for rows in drawings:
            region.draw(rows)
            assert out.screen.text == "\n".join(rows).rstrip()
            assert (out.screen.cursor.y, out.screen.cursor.x) == (0, 0)
    assert out.screen.text == ""


def test_rows_never_scroll_what_they_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Drawn()
    with Region(out, str) as region:
        for rows in (24, 3, 1):
            monkeypatch.setattr(regions, "size_of", lambda out, rows=rows: (80, rows))
            region.draw([f"row {number}" for number in range(100)])
            last = range(100 - max(rows - 1, 1), 100)
            assert out.screen.text == "\n".join(f"row {number}" for number in last)


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    class Gone(Drawn):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    with Region(Gone(), str) as region:
        print("lost")
        assert not region.draw(["row"])


# ==== what functions print and read ====


def test_a_line_that_has_not_ended_is_the_first_row() -> None:
    out = Drawn()
    with Region(out, Painter().colored) as region:
        for dots in (".", "..", "..."):
            print(".", end="", flush=True)
            region.draw(["row"])
            assert out.screen.text == f"{dots}\nrow"
        print(" 10 %\r 20 %\r", end="", flush=True)
        region.draw(["row"])
        assert out.screen.text == " 20 %\nrow"
        print("\n" + "x" * 100, end="", flush=True)
        region.draw(["row"])
        assert out.screen.text == r"... 10 %\x0d 20 %" + "\n" + "x" * 80 + "\nrow"
    assert out.screen.text == r"... 10 %\x0d 20 %" + "\n" + "x" * 80 + "\n" + "x" * 20


def test_what_is_begun_stands_before_what_is_printed_behind_it() -> None:
    out = Drawn()
    with Region(out, str) as region:
        print("Your name? ", end="", flush=True)
        region.print("No answer.\n")
        region.draw(["row"])
        assert out.screen.text == "Your name?\nNo answer.\nrow"


def test_of_many_printed_lines_a_drawing_takes_a_few_and_the_end_all() -> None:
    out = Drawn()
    with Region(out, str) as region:
        for number in range(2 * MOST_LINES):
            print(number)
        region.draw(["row"])
        assert out.getvalue().count("\n") == MOST_LINES
    assert [int(line) for line in out.screen.text.split("\n")] == list(range(2 * MOST_LINES))


def test_a_line_in_many_pieces_is_put_together_once() -> None:
    taken: list[str] = []
    with Region(Drawn(), lambda line: taken.append(line) or line) as region:
        for _ in range(10_000):
            sys.stdout.write(".")
            sys.stdout.flush()
        region.draw(["row"])
        print()
    assert sorted(map(len, taken)) == [80, 10_000]


def test_functions_have_a_whole_stdout() -> None:
    out = Drawn()
    with Region(out, str) as region:
        sys.stdout.buffer.write("first\nhalf a \u6f22".encode()[:-1])
        sys.stdout.buffer.write("\u6f22\n".encode()[-2:] + b"\xff\n")
        print("\udcff")
        assert (sys.stdout.encoding, sys.stdout.errors) == ("utf-8", "backslashreplace")
        region.draw(["row"])
        assert out.screen.text == "first\nhalf a \u6f22\n\ufffd\n\\udcff\nrow"


def test_lines_of_threads_are_lines() -> None:
    out = Drawn()
    with Region(out, str) as region:
        threads = [threading.Thread(target=lambda: [sys.stdout.write("line\n") for _ in range(200)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        region.draw([])
    assert out.screen.text.split("\n") == ["line"] * 800


def test_a_function_that_reads_finds_the_end_of_the_input() -> None:
    before = sys.stdin
    out = Drawn()
    with Region(out, str) as region:
        with pytest.raises(EOFError):
            input("Your name? ")
        region.draw(["row"])
        assert out.screen.text == "Your name?\nrow"
    assert sys.stdin is before


# ==== modes ====


@pytest.fixture
def stops() -> Iterator[list[str]]:
    """What was there on the terminal each time that the program stopped."""
    yield []
    assert signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL


def test_ctrl_z_gives_the_terminal_back_until_the_program_goes_on(
    stops: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Drawn()

    def stop(number: int) -> None:
        assert (number, signal.getsignal(number)) == (signal.SIGTSTP, signal.SIG_DFL)
        stops.append(out.screen.text)
        assert out.getvalue().endswith(LEAVE)
        out.write("\nfg\n")

    with Region(out, str) as region:
        assert out.getvalue() == ENTER
        region.draw(["one", "two"])
        signal.raise_signal(signal.SIGTSTP)
        monkeypatch.setattr(signal, "raise_signal", stop)
        print("printed")
        region.draw(["one", "two"])
        assert (stops, out.screen.text) == (["printed"], "printed\n\nfg\none\ntwo")
        assert out.getvalue().count(ENTER) == 2
    assert out.getvalue().endswith(LEAVE)
