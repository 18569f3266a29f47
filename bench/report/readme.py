"""The part of README that says what reproduces: `python -m kdbench.report.readme README.md` writes it anew."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ..errors import SpecError
from ..records.store import read_rows
from ..records.weights import COMMITTED, read_weights
from ..spec.reported import load_reported, reported_names
from ..spec.reruns import all_reruns, all_settings
from ..spec.table import load_table, table_names
from . import overview_text
from .evidence import Published
from .overview import Summary, summarize

BEGIN, END = "<!-- what reproduces: written by `make readme` -->", "<!-- end -->"


def committed() -> list[Summary]:
    """The overview of what comes with kdbench, without anything that was trained or evaluated since."""
    rows, _ = read_rows([Path(str(files("kdbench.results"))) / "measured"])
    published = Published(all_reruns(), all_settings(), read_weights([COMMITTED])[0])
    tables = [load_table(name) for name in table_names()]
    return summarize(tables, {name: load_reported(name) for name in reported_names()}, rows, published)


def with_overview(text: str, papers: Sequence[Summary]) -> str:
    """`text` with the overview of the papers that have a table between its two marks.

    Raises:
        SpecError: the marks are missing.
    """
    block = f"{BEGIN}\n{overview_text.markdown(papers, short=True)}\n{END}"
    replaced, count = re.subn(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL)
    if count != 1:
        raise SpecError(f"README: exactly one part between {BEGIN} and {END} is needed, not {count}")
    return replaced


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_overview(path.read_text(), committed()))
