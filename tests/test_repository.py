"""What stands beside the package fits it: targets of make, workflows, and what pages say of them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


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


def test_a_release_is_tested_and_published_without_a_token():
    text = text_of(".github/workflows/release.yml")
    assert "run: make check contracts package\n" in text
    assert "id-token: write" in text.partition("publish:")[2]
    assert "password" not in text


def test_every_version_of_python_that_is_tested_is_allowed():
    versions = re.findall(r'"(3\.\d+)"', text_of(".github/workflows/test.yml"))
    (least,) = re.findall(r'^requires-python = ">=3\.(\d+)"', text_of("pyproject.toml"), re.MULTILINE)
    assert {f"3.{minor}" for minor in range(int(least), int(least) + 3)} == set(versions)
