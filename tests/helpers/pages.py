"""Commands and examples of README.md and docs/, read from their fenced blocks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": ROOT / "README.md", "CONTRIBUTING.md": ROOT / "CONTRIBUTING.md"} | {
    f"docs/{path.name}": path for path in sorted((ROOT / "docs").glob("*.md"))
}


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of a page in a language; "" for those without one."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", PAGES[page].read_text(), flags=re.S | re.M)
    return [text for name, text in found if name == language]


def block(page: str, contains: str, language: str = "python") -> str:
    """The one block that contains a text."""
    found = [text for text in blocks(page, language) if contains in text]
    assert len(found) == 1, f"{len(found)} blocks of {page} contain {contains!r}"
    return found[0]


def commands(page: str) -> Iterator[list[str]]:
    """The words of every `kdbench` and `make` command of a page: lines of blocks, and inline code."""
    text = PAGES[page].read_text()
    lines = [line for each in blocks(page) for line in each.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    for line in (*lines, *inline):
        words = re.match(r"(?:\.venv/bin/)?(kdbench|make)\s+[a-z-]", line.strip())
        if words and "..." not in line:
            name, *rest = shlex.split(line, comments=True)
            yield [Path(name).name, *rest]
