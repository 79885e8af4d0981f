"""The package keeps its types where it is installed: a program that uses it, read by pyright and by mypy.

The package is copied to where an environment has its packages; what it needs comes from the environment that runs this.
Both checkers are strict, and find every mistake that the program makes on purpose. Without `py.typed` they find no
types. Prints a table; what is wrong ends it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

HERE: Final = Path(__file__).resolve().parent
PACKAGE: Final = HERE.parents[1] / "kimi_agent"
PROGRAM: Final = sorted(path for path in HERE.glob("*.py") if path.name != Path(__file__).name)
ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
"""Without the paths on which checkers would find the package where it is not installed."""
LIMIT: Final = 600
"""Seconds that a checker may take."""


class Checker(NamedTuple):
    """Who reads the program.

    Args:
        command: as a module of Python, run in the folder of the program; the path of its Python comes last.
        mark: stands at each mistake that it has to find.
        well: what it says when it finds these and no others.
        untyped: what it says of a package without types.
    """

    command: tuple[str, ...]
    mark: str
    well: str
    untyped: str

    def read(self, program: Path, python: Path) -> str:
        """What it says."""
        command = [sys.executable, "-m", *self.command, python]
        done = subprocess.run(command, cwd=program, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT)
        return done.stdout + done.stderr

    def mistakes(self) -> int:
        """How many it has to find."""
        return sum(path.read_text("utf-8").count(self.mark) for path in PROGRAM)


CHECKERS: Final = {
    "pyright": Checker(
        ("pyright", "--pythonpath"),
        "# pyright: ignore[",
        "\n0 errors, 0 warnings",
        "Stub file not found for ",
    ),
    "mypy": Checker(
        ("mypy", ".", "--python-executable"),
        "# type: ignore[",
        "Success: no issues found",
        "module is installed, but missing library stubs or py.typed",
    ),
}


def installed(folder: Path) -> tuple[Path, Path]:
    """An environment that has a copy of the package: its Python, and the copy."""
    venv.create(folder, symlinks=True)
    scripts, packages = (
        Path(sysconfig.get_path(kind, "venv", {"base": str(folder), "platbase": str(folder)}))
        for kind in ("scripts", "purelib")
    )
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    copy = packages / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return scripts / "python", copy


def written(folder: Path) -> Path:
    """A folder with the program alone."""
    folder.mkdir()
    for path in (HERE / "pyproject.toml", *PROGRAM):
        shutil.copy(path, folder)
    return folder


@contextmanager
def without_types(package: Path) -> Generator[None]:
    """A package that does not say that it has types, while the block runs."""
    marker = package / "py.typed"
    marker.unlink()
    try:
        yield
    finally:
        marker.touch()


def check(name: str, program: Path, python: Path, package: Path) -> None:
    """Print what a checker takes; fail where it says what it should not."""
    checker, begun = CHECKERS[name], time.perf_counter()
    said = checker.read(program, python)
    assert checker.well in f"\n{said}", f"{name} says:\n{said}"
    with without_types(package):
        said = checker.read(program, python)
    assert checker.untyped in said, f"{name} misses no py.typed:\n{said}"
    lines = sum(len(path.read_text("utf-8").splitlines()) for path in PROGRAM)
    print(f"{name:8}  {lines:5}  {checker.mistakes():14}  {time.perf_counter() - begun:7.1f}")


def main() -> None:
    """Let each checker read the program, with the types of the package and without."""
    with tempfile.TemporaryDirectory(prefix="kimi-agent-types-") as name:
        python, package = installed(Path(name, "environment"))
        program = written(Path(name, "program"))
        print(f"{'':8}  {'lines':>5}  {'mistakes found':>14}  {'seconds':>7}")
        for checker in CHECKERS:
            check(checker, program, python, package)


if __name__ == "__main__":
    main()
