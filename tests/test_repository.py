"""What stands beside the package fits it: targets of make, workflows, and what pages say of them."""

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def text_of(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def test_targets_are_no_files():
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    assert set(phony.split()) == TARGETS


def test_whoever_contributes_reads_of_every_target():
    assert set(re.findall(r"^\| `make ([a-z]+)`", text_of("CONTRIBUTING.md"), re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *sorted(map(str, (ROOT / "docs").rglob("*.md")))])
def test_a_target_that_a_page_names_exists(page: str):
    named = re.findall(r"`make ([a-z ]+)", text_of(page)) + re.findall(r"^make ([a-z ]+)", text_of(page), re.MULTILINE)
    assert {target for targets in named for target in targets.split()} <= TARGETS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_makes_what_can_be_made_with_the_rights_it_needs(workflow: Path):
    text = workflow.read_text("utf-8")
    made = {target for line in re.findall(r"run: make ([a-z ]+)$", text, re.MULTILINE) for target in line.split()}
    for listed in re.findall(r"target: \[([^]]+)\]", text):
        made |= set(listed.split(", "))
    assert made - TARGETS == set()
    assert "\npermissions:\n  contents: read\n" in text
    assert text.count("timeout-minutes:") == text.count("runs-on:")
    assert "secrets." not in text


def jobs_of(workflow: str) -> dict[str, str]:
    _, *parts = re.split(r"^  (\w+):\n", text_of(f".github/workflows/{workflow}").partition("\njobs:\n")[2], flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_a_release_is_what_is_on_main_and_passes_every_test():
    jobs = jobs_of("release.yml")
    assert jobs["test"].strip() == "uses: ./.github/workflows/test.yml"
    assert "          fetch-depth: 0\n" in jobs["build"]
    assert "        run: git merge-base --is-ancestor HEAD origin/main\n" in jobs["build"]
    assert "      - run: make package\n" in jobs["build"]
    assert "    needs: [test, build]\n" in jobs["publish"]
    assert not re.search(r"continue-on-error|\bif:|always\(", text_of(".github/workflows/release.yml"))


def test_what_a_release_calls_can_be_called_and_tests_everything():
    text = text_of(".github/workflows/test.yml")
    assert "\n  workflow_call:\n" in text.partition("\npermissions:")[0]
    assert "target: [check, contracts, coverage, lowest, package]\n" in text
    assert not re.search(r"continue-on-error|\bif:", text)


def test_a_release_is_published_without_a_token_by_the_one_job_that_may():
    jobs = jobs_of("release.yml")
    assert [name for name, job in jobs.items() if "permissions:" in job] == ["publish"]
    assert "    permissions:\n      id-token: write\n    steps:" in jobs["publish"]
    assert "password" not in jobs["publish"]


def test_every_version_of_python_that_is_tested_is_allowed():
    versions = re.findall(r'"(3\.\d+)"', text_of(".github/workflows/test.yml"))
    (least,) = re.findall(r'^requires-python = ">=3\.(\d+)"', text_of("pyproject.toml"), re.MULTILINE)
    assert {f"3.{minor}" for minor in range(int(least), int(least) + 3)} == set(versions)


# ==== what is required ====


def names_of(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize(
    ("extra", "requirement"), [("dev", "kimi_agent[cli,otel,mcp]"), ("docs", "kimi_agent[cli,otel]")]
)
def test_whoever_works_on_the_package_has_the_extras_with_their_bounds(extra: str, requirement: str):
    of_extras = PROJECT["optional-dependencies"]
    tools = of_extras[extra]
    users = [*PROJECT["dependencies"], *of_extras["cli"], *of_extras["otel"], *of_extras["mcp"]]
    assert tools[0] == requirement
    assert names_of(tools[1:]) & names_of(users) == set()
