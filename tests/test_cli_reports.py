"""`kimi-agent models`, `balance`, `doctor` and `view`, offline and against a server."""

import asyncio
import re
import socket
import stat
import sys
from pathlib import Path

import pytest
from serving import Run, runner, serving

from kimi_agent import Agent
from kimi_agent.kimi import patience
from kimi_agent.kimi.models import MODELS as MODELS_KNOWN
from kimi_agent.kimi.models import TODAY
from kimi_agent.session import JournalSession, SQLiteSessionStore
from kimi_agent.terminal.command import reports
from kimi_agent.testing import Failure, ScriptedKimi, say

SECRET = "sk-very-secret"
NO_TERMINAL = "standard input or output is no terminal for UTF-8"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("KIMI_AGENT_SESSIONS", str(tmp_path / "sessions.db"))
    for name in (*reports.PROXIES, *map(str.lower, reports.PROXIES), "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return runner(monkeypatch, capsys)


# ==== models and balance ====

MODELS = """\
MODEL      WINDOW     THINKING      SEES            PRICES
kimi-k3    1,048,576  low high max  pictures films  3 0.3 15
kimi-k2.6  262,144    on off        pictures films  0.95 0.16 4
"""


def test_the_models_of_the_stand_in_are_a_table(run: Run):
    done = run("models", "--offline")
    assert (done.code, done.out, done.err) == (0, MODELS, "")


def test_the_models_are_those_of_the_server(run: Run):
    with serving() as server:
        server.models = [
            {"id": "月\x1b[2J\n"},
            {"id": "kimi-k2-thinking", "context_length": 1000},
            {"id": "mine", "max_model_len": 8000},
        ]
        done = run("models", server=server)
    assert (done.code, done.out.splitlines()[1:]) == (
        0,
        [
            "月\\x1b[2J         -       -         -     -",
            "kimi-k2-thinking  1,000   on        -     -",
            "mine              8,000   -         -     -",
        ],
    )


def test_the_models_that_are_known_fit_a_terminal_and_a_person_reads_what_the_prices_are(
    run: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reports, "is_watched", lambda stream: True)
    with serving() as server:
        server.models = [{"id": name} for name, info in MODELS_KNOWN.items() if info.last_seen == TODAY]
        done = run("models", server=server)
    assert max(map(len, done.out.splitlines())) < 80
    assert done.out.endswith("\nPrices: USD for a million tokens that are new, cached, written by the model.\n")


@pytest.mark.parametrize("command", ["models", "balance"])
def test_a_server_that_is_silent_is_not_waited_for_long(run: Run, command: str, monkeypatch: pytest.MonkeyPatch):
    assert reports.PATIENCE == {"timeout": 15.0, "max_retries": 0}
    monkeypatch.setattr(reports, "PATIENCE", {"timeout": 0.05, "max_retries": 0})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("KIMI_API_KEY", "sk-test")
        monkeypatch.setenv("KIMI_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/v1")
        done = run(command)
    assert (done.code, done.out) == (1, "")
    assert " in time " in done.err


def test_the_balance_is_three_amounts(run: Run):
    done = run("balance", "--offline")
    assert (done.code, done.out, done.err) == (0, "available  49.50\nvoucher    46.50\ncash       3.00\n", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.moonshot.ai/v1", "1,234.50 USD"),
        ("https://api.moonshot.cn/v1", "1,234.50 CNY"),
        ("http://localhost/v1", "1,234.50"),
    ],
)
def test_money_has_the_currency_of_the_platform(url: str, shown: str):
    from kimi_agent import Kimi

    assert reports._money(1234.5, Kimi(api_key="sk-test", base_url=url)) == shown


@pytest.mark.parametrize("command", ["models", "balance"])
def test_a_report_without_a_key_or_with_a_wrong_one_is_one_line(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch
):
    done = run(command)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("kimi-agent: no API key: ")
    with serving() as server:
        monkeypatch.setenv("KIMI_API_KEY", SECRET)
        monkeypatch.setenv("KIMI_BASE_URL", server.base_url)
        done = run(command)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert SECRET not in done.err


# ==== doctor ====


def lines(out: str) -> dict[str, tuple[str, str]]:
    """What the doctor found, by name: the state, and the text."""
    rows = [re.fullmatch(r"(\w+) +((?:\w| (?! ))+?) {2,}(.*)", line) for line in out.splitlines()]
    return {row[2]: (row[1], row[3]) for row in rows if row}


def test_offline_nothing_is_wrong(run: Run, tmp_path: Path):
    done = run("doctor", "--offline")
    assert (done.code, done.err) == (0, "")
    found = lines(done.out)
    assert len(found) == len(done.out.splitlines())
    assert list(found) == [
        *("kimi_agent", "packages", "extra cli", "extra mcp", "extra otel", "key", "models", "balance", "rank file"),
        *("sessions", "chat"),
    ]
    assert found["key"] == ("ok", "not needed offline")
    assert found["sessions"] == ("note", f"none yet; they will be in {tmp_path}/sessions.db")
    assert found["rank file"][0] == "note"
    assert found["chat"] == ("note", f"plain: {NO_TERMINAL}")
    assert not (tmp_path / "sessions.db").exists()


def test_it_says_where_the_key_is_from_and_nothing_of_it(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOONSHOT_API_KEY", SECRET)
    with serving() as server:
        done = run("doctor", server=server)
    assert (done.code, done.err) == (0, "")
    found = lines(done.out)
    assert found["key"] == ("ok", "from KIMI_API_KEY; MOONSHOT_API_KEY not used")
    assert found["server"] == ("ok", f"{server.base_url}, from KIMI_BASE_URL")
    assert re.fullmatch(r"2, kimi-k3 among them; answered in \d+\.\d s", found["models"][1])
    assert found["balance"] == ("ok", "49.50")
    assert SECRET not in done.out
    assert server.api_key not in done.out


def test_without_a_key_nobody_is_asked(run: Run):
    done = run("doctor")
    assert (done.code, done.err) == (1, "kimi-agent: something is wrong: key\n")
    found = lines(done.out)
    assert found["key"] == ("WRONG", "there is none: set KIMI_API_KEY")
    assert found["server"] == ("ok", "https://api.moonshot.ai/v1, the default")
    assert "models" not in found


@pytest.mark.parametrize("url", ["not a url", "ftp://host/v1", "http://[::1", "http://127.0.0.1:99999/v1", "host/v1"])
def test_a_base_url_that_is_none_is_wrong_and_nobody_is_asked(run: Run, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KIMI_API_KEY", "sk-test")
    monkeypatch.setenv("KIMI_BASE_URL", url)
    done = run("doctor")
    assert (done.code, done.err) == (1, "kimi-agent: something is wrong: server\n")
    found = lines(done.out)
    state, text = found["server"]
    assert state == "WRONG"
    assert text.startswith(f"{url!r} is no base URL; ")
    assert text.endswith("; it is from KIMI_BASE_URL")
    assert "models" not in found


@pytest.mark.parametrize("key", [SECRET, f"{SECRET} and more", f"{SECRET}é"])
def test_a_wrong_key_is_wrong_and_not_printed(run: Run, monkeypatch: pytest.MonkeyPatch, key: str):
    monkeypatch.setenv("KIMI_API_KEY", key)
    with serving() as server:
        monkeypatch.setenv("KIMI_BASE_URL", server.base_url)
        done = run("doctor")
    assert (done.code, done.err) == (1, "kimi-agent: something is wrong: models\n")
    assert lines(done.out)["models"][0] == "WRONG"
    assert "secret" not in done.out


def test_a_password_in_a_url_is_not_printed(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "FIRST_DELAY", 0.0)
    monkeypatch.setenv("KIMI_API_KEY", "sk-test")
    monkeypatch.setenv("KIMI_BASE_URL", "http://ada:hunter2@127.0.0.1:9/v1?token=hunter2")
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:hunter2@127.0.0.1:9")
    done = run("doctor")
    assert done.code == 1
    found = lines(done.out)
    assert found["server"] == ("ok", "http://127.0.0.1:9/v1, from KIMI_BASE_URL")
    assert found["way"] == ("note", "HTTPS_PROXY set")
    assert found["models"][0] == "WRONG"
    assert "http://127.0.0.1:9/v1" in found["models"][1]
    assert "hunter2" not in done.out + done.err


def test_a_server_without_a_balance_is_no_fault(run: Run):
    with serving() as server:
        server.failures["/users/me/balance"] = [Failure(404, "resource_not_found_error", "no such page")]
        server.models = [{"id": "other"}]
        done = run("doctor", server=server)
    assert done.code == 0
    found = lines(done.out)
    assert found["balance"] == ("note", "this server tells none")
    assert found["models"][0] == "note"
    assert found["models"][1].startswith("1, without kimi-k3: choose with --model; ")


def test_a_used_up_balance_and_a_server_that_fails_are_wrong(run: Run):
    with serving() as server:
        server.balance |= {"available_balance": 0.0}
        done = run("doctor", server=server)
        assert (done.code, lines(done.out)["balance"]) == (1, ("WRONG", "0.00"))
        server.failures["/users/me/balance"] = [Failure(500, "server_error", "down\x1b[2J")]
        done = run("doctor", server=server)
    assert lines(done.out)["balance"][0] == "WRONG"
    assert "down\\x1b[2J" in done.out


def test_a_missing_extra_says_how_to_install_it(run: Run, monkeypatch: pytest.MonkeyPatch):
    def version(package: str) -> str | None:
        return None if package == "prompt-toolkit" else "1.0"

    monkeypatch.setattr(reports, "_version", version)
    monkeypatch.setitem(sys.modules, "kimi_agent.terminal.screen.editor", None)
    done = run("doctor", "--offline")
    found = lines(done.out)
    assert (done.code, found["extra cli"]) == (0, ("note", "not installed: pip install 'kimi_agent[cli]'"))
    assert found["extra mcp"] == ("ok", "mcp 1.0")
    assert found["chat"] == ("note", f"plain: {NO_TERMINAL}, the extra cli is missing")


def test_what_makes_a_chat_plain_is_named(monkeypatch: pytest.MonkeyPatch):
    class Terminal:
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 0

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr(reports, "_version", lambda package: "1.0")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert reports._terminal() == reports.Finding("ok", "chat", "on a whole terminal")
    monkeypatch.setenv("TERM", "dumb")
    assert reports._terminal() == reports.Finding("note", "chat", "plain: TERM or NO_COLOR asks for it")


def test_the_rank_file_is_checked(run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(data / "tiktoken.model"))
    assert lines(run("doctor", "--offline").out)["rank file"] == ("ok", str(data / "tiktoken.model"))
    (tmp_path / "other").write_text("YQ== 0\n")
    monkeypatch.setenv("KIMI_AGENT_RANKS", str(tmp_path / "other"))
    done = run("doctor", "--offline")
    assert (done.code, done.err) == (1, "kimi-agent: something is wrong: rank file\n")


# ==== sessions ====


def keep(path: Path, id: str, said: str) -> None:
    async def write() -> None:
        async with SQLiteSessionStore(path) as store:
            async with Agent(ScriptedKimi([say("Hello.")]), session=store.open(id)) as agent:
                await agent.chat_round(said)

    asyncio.run(write())


def test_the_newest_session_is_named(run: Run, tmp_path: Path):
    keep(tmp_path / "sessions.db", "ada", "I am Ada.")
    found = lines(run("doctor", "--offline").out)
    assert found["sessions"] == ("ok", f"{tmp_path}/sessions.db, the newest is ada")


def test_a_database_that_is_none_is_wrong(run: Run, tmp_path: Path):
    (tmp_path / "sessions.db").write_text("no database, for sure" * 100)
    done = run("doctor", "--offline")
    assert (done.code, done.err) == (1, "kimi-agent: something is wrong: sessions\n")
    assert lines(done.out)["sessions"][0] == "WRONG"


# ==== view ====


def test_a_session_is_a_page_for_its_owner(run: Run, tmp_path: Path):
    keep(tmp_path / "sessions.db", "ada", "I am <Ada>.")
    done = run("view", "ada", "-o", str(tmp_path / "page.html"))
    assert (done.code, done.out, done.err) == (0, f"{tmp_path}/page.html\n", "")
    written = (tmp_path / "page.html").read_text("utf-8")
    assert "I am &lt;Ada&gt;." in written
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600
    printed = run("view", "ada", "--store", str(tmp_path / "sessions.db"))
    assert (printed.code, printed.out) == (0, written)


@pytest.mark.parametrize("name", ["ada.json", "ada.kimi", "ada.journal"])
def test_a_file_is_viewed_without_any_database(run: Run, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    async def write() -> None:
        session = JournalSession(name) if name.endswith("journal") else None
        async with Agent(ScriptedKimi([say("Hello.")]), session=session) as agent:
            await agent.chat_round("I am <Ada>.")
            if session is None:
                agent.save(name)

    asyncio.run(write())
    done = run("view", name)
    assert (done.code, done.err) == (0, "")
    assert "I am &lt;Ada&gt;." in done.out
    assert f"<title>{name}" in done.out
    assert not (tmp_path / "sessions.db").exists()


def test_a_file_that_is_none_of_ours_is_one_line(run: Run, tmp_path: Path):
    for content in ("", "Hello.", "[1]"):
        (tmp_path / "other").write_text(content)
        done = run("view", str(tmp_path / "other"))
        assert (done.code, done.out) == (1, ""), content
        assert done.err.startswith(f"kimi-agent: cannot load {tmp_path}/other: "), content
        assert done.err.count("\n") == 1


def test_what_cannot_be_viewed_is_one_line(run: Run, tmp_path: Path):
    page = tmp_path / "page.html"
    assert run("view", "ada", "-o", str(page)).err == (
        f"kimi-agent: there are no sessions: {tmp_path}/sessions.db does not exist\n"
    )
    keep(tmp_path / "sessions.db", "ada", "I am Ada.")
    assert run("view", "eve", "-o", str(page)).err == "kimi-agent: there is no session 'eve'\n"
    assert not page.exists()
    done = run("view", "ada", "-o", str(tmp_path))
    assert (done.code, done.err) == (1, f"kimi-agent: cannot write {tmp_path}: Is a directory\n")
