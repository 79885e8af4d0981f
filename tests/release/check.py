"""What is shipped: the wheel is the package and nothing else, the source archive makes the same wheel and has what its
tests need, and an empty environment with that wheel runs the first program of the README and the command, against a
Kimi on this machine. Each extra makes what needs it work.

Both are built, and installed with what they depend on, from a package index. Prints a table; what is wrong ends it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile

from kimi_agent import __version__

ROOT = Path(__file__).resolve().parents[2]

sys.path.append(str(ROOT / "tests"))  # where the server is
PACKAGE = "kimi_agent"
MOST_DISTRIBUTIONS = 25
MOST_MEGABYTES = 25.0
MOST_MEGABYTES_OF_SOURCE = 2.5
OF_EXTRAS = {
    "kimi_agent.terminal.screen.editor": "cli",
    "kimi_agent.terminal.screen.live": "cli",
    "kimi_agent.terminal.screen.painting": "cli",
    "kimi_agent.otel": "otel",
    "kimi_agent.tools.mcp.process": "mcp",
    "kimi_agent.tools.mcp.sdk": "mcp",
}
"""The modules that need an extra. All others do without any."""
EXTRAS = sorted({*OF_EXTRAS.values()})

INSTALLED = """
import json
from importlib.metadata import distributions
found = list(distributions())
files = {file.locate() for each in found for file in each.files or () if file.suffix != ".pyc"}
print(json.dumps([len(found), sum(file.stat().st_size for file in files if file.is_file())]))
"""

Environment = Mapping[str, str]


def output_of(command: Sequence[str | Path], environment: Environment, cwd: Path, said: str = "") -> str:
    """What a program prints; what it says when it fails is shown."""
    done = subprocess.run(command, env=environment, cwd=cwd, input=said, capture_output=True, text=True, timeout=600)
    assert not done.returncode, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


# ==== what is built ====


def built() -> tuple[Path, Path]:
    """The source archive, and the wheel that is made of it, in `dist/`."""
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    output_of([sys.executable, "-m", "build", "--outdir", folder, ROOT], os.environ, ROOT)
    (archive,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return archive, wheel


def files_of_the_package() -> set[str]:
    files = (path for path in (ROOT / PACKAGE).rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {path.relative_to(ROOT).as_posix() for path in files}


def needed() -> set[str]:
    """What pyproject.toml says that the package, and each extra of a user, depends on."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    of_extras = project["optional-dependencies"]
    return {*project["dependencies"], *(f"{name}; extra == '{extra}'" for extra in EXTRAS for name in of_extras[extra])}


def check_wheel(wheel: Path) -> None:
    """It has the files of the package, and says what they need."""
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        said = HeaderParser().parsestr(archive.read(metadata).decode())
    described = {name for name in names if name.startswith(metadata.removesuffix("METADATA"))}
    assert names - described == files_of_the_package(), (names - described) ^ files_of_the_package()
    assert f"{PACKAGE}/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in described)
    requirements = said.get_all("Requires-Dist", [])
    assert {name for name in requirements if not re.search("extra == '(dev|docs)'", name)} == needed()
    assert said["Version"] == __version__
    assert said["Name"] == PACKAGE
    assert said["Requires-Python"] == ">=3.11"
    assert said["License-Expression"] == "MIT"
    print(f"wheel              {wheel.stat().st_size / 1e6:7.2f} MB, {len(names)} files")


def check_archive(archive: Path) -> None:
    """Whoever has it can test and build what is in it, and it is little."""
    with tarfile.open(archive) as members:
        names = {name.partition("/")[2] for name in members.getnames()}
    for needed in (
        ".github/workflows/test.yml",
        "Makefile",
        "LICENSE",
        "SECURITY.md",
        "mkdocs.yml",
        "tests/conftest.py",
        "docs/agent.md",
        "examples",
    ):
        assert any(name == needed or name.startswith(f"{needed}/") for name in names), f"{needed} is not in the archive"
    assert files_of_the_package() <= names
    size = archive.stat().st_size / 1e6
    print(f"source archive     {size:7.2f} MB of at most {MOST_MEGABYTES_OF_SOURCE}, {len(names)} files")
    assert size <= MOST_MEGABYTES_OF_SOURCE


# ==== what is installed ====


def installed(wheel: Path, folder: Path) -> Path:
    """The Python of an environment with nothing but the wheel and what it depends on."""
    environment = folder / "environment"
    output_of([sys.executable, "-m", "venv", "--without-pip", environment], os.environ, folder)
    python = next(path for path in (environment / "bin/python", environment / "Scripts/python.exe") if path.exists())
    output_of([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel], os.environ, folder)
    return python


def check_size(python: Path, environment: Environment, folder: Path) -> None:
    """What comes with it is little, without the byte code that Python makes of it."""
    count, size = json.loads(output_of([python, "-c", INSTALLED], environment, folder))
    print(f"distributions      {count:7}    of at most {MOST_DISTRIBUTIONS}, this one counted")
    print(f"installed          {size / 1e6:7.2f} MB of at most {MOST_MEGABYTES:.0f}, byte code not counted")
    assert count <= MOST_DISTRIBUTIONS
    assert size <= MOST_MEGABYTES * 1e6


# ==== what it does there ====

IMPORTED = """
import importlib, json, sys
missing = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
print(json.dumps(missing))
"""


def missing_of(modules: Sequence[str], python: Path, environment: Environment, folder: Path) -> dict[str, str]:
    """The modules that cannot be imported, and the packages that they miss."""
    return json.loads(output_of([python, "-c", IMPORTED, *modules], environment, folder))


def check_modules(python: Path, environment: Environment, folder: Path) -> None:
    """Each module can be imported, but those that need an extra: these cannot."""
    files = [name.removesuffix(".py") for name in sorted(files_of_the_package()) if name.endswith(".py")]
    modules = [name.replace("/", ".").removesuffix(".__init__") for name in files if not name.endswith("__main__")]
    missing = missing_of(modules, python, environment, folder)
    assert missing.keys() == OF_EXTRAS.keys(), f"{missing.keys() ^ OF_EXTRAS.keys()} unlike OF_EXTRAS: {missing}"
    print(f"modules            {len(modules):7} of which {len(missing)} need an extra")


def quick_start() -> str:
    """The first program of the README."""
    readme = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"^## Quickstart$.*?^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert block, "the README has no quick start"
    return block[1]


def check_quick_start(python: Path, environment: Environment, folder: Path) -> None:
    """It talks to a Kimi, and saves what was said."""
    from serving import serving

    with serving() as server:
        of_server = {"KIMI_API_KEY": server.api_key, "KIMI_BASE_URL": server.base_url}
        (folder / "first.py").write_text(quick_start(), "utf-8")
        printed = output_of([python, "first.py"], {**environment, **of_server}, folder)
    roles = [line.split(" ", 1)[0] for line in printed.splitlines() if line]
    assert roles[0] == "assistant", printed
    assert "tool" in roles, printed
    assert (folder / "weather.json").exists()
    print(f"quick start        {len(roles):7} messages")


def check_command(python: Path, environment: Environment, folder: Path) -> None:
    """It is there, under its name and as a module, and works without a key."""
    printed = [output_of(program, environment, folder, "what is 17 * 23?\n") for program in _programs(python)]
    assert all(text.strip() for text in printed)
    assert "391" in printed[-1], printed[-1]
    print(f"kimi-agent         {len(printed):7} commands")


def _programs(python: Path) -> Iterator[list[str | Path]]:
    yield [python, "-m", PACKAGE, "--version"]
    yield [python.with_name("kimi-agent"), "--version"]
    yield [python.with_name("kimi-agent"), "models", "--offline"]
    yield [python.with_name("kimi-agent"), "demo"]


# ==== what an extra adds ====

TRACED = """
import asyncio
from kimi_agent import Agent
from kimi_agent.otel import instrument
from kimi_agent.testing import ScriptedKimi, say
agent = Agent(ScriptedKimi([say("traced")]))
instrument(agent)
print(asyncio.run(agent.chat_round("Hello?")).text)
"""
SERVED = """
import asyncio, sys
from kimi_agent import mcp_tools
async def main():
    async with mcp_tools({"counter": [sys.executable, sys.argv[1]]}) as tools:
        print(*(tool.name for tool in tools))
asyncio.run(main())
"""


def shown_in_a_chat(python: Path, environment: Environment, folder: Path) -> str:
    """The screen at the end of a chat with the demo agent, on a terminal where lines are edited."""
    from terminals import Terminal

    terminal = Terminal([python, "-P", "-m", PACKAGE, "demo"], **environment)
    try:
        terminal.until("USER:")
        terminal.press("what is 17 * 23?\r")
        terminal.until(lambda: "USER:" in terminal.screen.text.partition("391")[2])
        terminal.press("\x04")
        assert not terminal.end()
    finally:
        terminal.close()
    assert b"\x1b[?2004h" in terminal.written, f"nothing was edited:\n{terminal.screen.text}"
    return terminal.screen.text


def traced(python: Path, environment: Environment, folder: Path) -> str:
    """The answer of an agent that is traced."""
    return output_of([python, "-c", TRACED], environment, folder)


def tools_of_a_server(python: Path, environment: Environment, folder: Path) -> str:
    """The names of the tools of an MCP server."""
    return output_of([python, "-c", SERVED, ROOT / "tests/mcp_servers/counter.py"], environment, folder)


TRIED: Mapping[str, tuple[Callable[[Path, Environment, Path], str], str]] = {
    "cli": (shown_in_a_chat, "391"),
    "mcp": (tools_of_a_server, "count"),
    "otel": (traced, "traced"),
}
"""What an extra is for, and what has to come of it."""


def check_extra(extra: str, wheel: Path, python: Path, environment: Environment, folder: Path) -> None:
    """With it, its modules can be imported, and do what they are for."""
    python = with_extra(extra, wheel, python, folder)
    modules = [name for name, needed in OF_EXTRAS.items() if needed == extra]
    missing = missing_of(modules, python, environment, folder)
    assert not missing, f"{missing} with the extra {extra}"
    try_it, expected = TRIED[extra]
    found = try_it(python, environment, folder)
    assert expected in found, f"the extra {extra}: {found}"


def with_extra(extra: str, wheel: Path, python: Path, folder: Path) -> Path:
    """The Python of an environment as that of another one, with an extra besides."""
    other = folder / extra
    shutil.copytree(python.parents[1], other, symlinks=True)
    grown = other / python.relative_to(python.parents[1])
    wanted = f"{PACKAGE}[{extra}] @ {wheel.as_uri()}"
    output_of([sys.executable, "-m", "pip", "--python", grown, "install", "--quiet", wanted], os.environ, folder)
    return grown


# ==== what whoever packs it does ====


def check_tests(archive: Path, folder: Path) -> None:
    """The tests of what stands beside the package, and of its signatures, have all that they read."""
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    tests = ("tests/test_repository.py", "tests/test_signatures.py")
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    output_of([sys.executable, "-m", "pytest", "-q", *tests], environment, unpacked)


def main() -> None:
    """Build, look into, install and run it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive, wheel = built()
        check_wheel(wheel)
        check_archive(archive)
        python = installed(wheel, folder)
        environment = {"HOME": name, "PATH": os.environ["PATH"], "PYTHONUTF8": "1"}
        for check in (check_size, check_modules, check_quick_start, check_command):
            check(python, environment, folder)
        with ThreadPoolExecutor() as pool:
            tested = pool.submit(check_tests, archive, folder)
            tried = [pool.submit(check_extra, extra, wheel, python, environment, folder) for extra in EXTRAS]
            for each in (tested, *tried):
                each.result()
        print(f"extras             {len(tried):7} of which each does what it is for")
        print("tests              of the source archive have what they read")


if __name__ == "__main__":
    main()
