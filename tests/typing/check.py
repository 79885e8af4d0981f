"""The package keeps its types where it is installed: a program that uses it, read by pyright and by mypy.

The package is copied to where an environment has its packages; what it needs comes from the environment that runs this.
Both checkers are strict, and find every mistake that the program makes on purpose. Without `py.typed` they find no
types. Prints a table; what is wrong ends it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "kimi_agent"
PROGRAM = sorted(path for path in HERE.glob("*.py") if path.name != Path(__file__).name)
PYRIGHT = re.compile(r"# pyright: ignore\[")
MYPY = re.compile(r"# type: ignore\[")


def environment(folder: Path) -> tuple[Path, Path]:
    """One that has a copy of the package: its Python, and the copy."""
    venv.create(folder, symlinks=True)
    scripts, packages = (
        Path(sysconfig.get_path(kind, "venv", {"base": str(folder), "platbase": str(folder)}))
        for kind in ("scripts", "purelib")
    )
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    copy = packages / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return scripts / "python", copy


def pyright(python: Path, program: Path) -> str:
    return said("pyright", "--pythonpath", str(python), "--project", str(program))


def mypy(python: Path, program: Path) -> str:
    return said("mypy", "--python-executable", str(python), "--config-file", "pyproject.toml", ".", cwd=program)


def said(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=600)
    return done.stdout + done.stderr


def mistakes(mark: re.Pattern[str]) -> int:
    """How many a checker is expected to find."""
    return sum(len(mark.findall(path.read_text("utf-8"))) for path in PROGRAM)


CHECKERS: dict[str, tuple[Callable[[Path, Path], str], re.Pattern[str], str, str]] = {
    "pyright": (pyright, PYRIGHT, "0 errors, 0 warnings", "Stub file not found for "),
    "mypy": (mypy, MYPY, "Success: no issues found", "module is installed, but missing library stubs or py.typed"),
}
"""Who reads, how a mistake is marked, and what is said when all is well, and when there are no types."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="kimi-agent-types-") as name:
        python, copy = environment(Path(name) / "environment")
        program = Path(name) / "program"
        program.mkdir()
        for path in (HERE / "pyproject.toml", *PROGRAM):
            shutil.copy(path, program)
        print(f"{'':8}  {'lines':>5}  {'mistakes found':>14}  {'without py.typed':>16}  {'seconds':>7}")
        lines = sum(len(path.read_text("utf-8").splitlines()) for path in PROGRAM)
        for checker, (read, mark, well, untyped) in CHECKERS.items():
            begun = time.perf_counter()
            answer = read(python, program)
            assert well in answer, f"{checker} says:\n{answer}"
            (copy / "py.typed").rename(copy / "no py.typed")
            answer = read(python, program)
            assert untyped in answer, f"{checker} misses no py.typed:\n{answer}"
            (copy / "no py.typed").rename(copy / "py.typed")
            seconds = time.perf_counter() - begun
            print(f"{checker:8}  {lines:5}  {mistakes(mark):14}  {'no types':>16}  {seconds:7.1f}")


if __name__ == "__main__":
    main()
