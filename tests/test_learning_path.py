"""Who begins with the agent and follows each `Next` reads the pages in their order."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PATH = ["agent", "tools", "streaming", "context", "sessions", "errors", "cancellation", "testing", "production"]
NEXT = re.compile(r"^Next: \[[^]]+\]\((\w+)\.md\)\.\n\Z", re.MULTILINE)


def test_each_page_ends_with_a_link_to_the_next_one():
    ends = [NEXT.search((DOCS / f"{page}.md").read_text("utf-8")) for page in PATH]
    assert [end and end[1] for end in ends] == [*PATH[1:], None]


def test_no_other_page_is_on_the_way():
    others = [page for page in DOCS.rglob("*.md") if page.stem not in PATH and NEXT.search(page.read_text("utf-8"))]
    assert others == []
