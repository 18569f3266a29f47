"""Text from outside, made safe to print and to write."""

from __future__ import annotations

import pytest

from kdbench.text import counted, markdown_cell, one_line, printable, shortened, spreadsheet_cell


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ± é → 汉字\n\ttabs stay", "plain ± é → 汉字\n\ttabs stay"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("left\u202eright", "left\\u202eright"),
        ("\ud800", "\\ud800"),
        ("a\rb\x00", "a\\rb\\x00"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, expected: str) -> None:
    assert printable(text) == expected
    printable(text).encode("utf-8")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_a_formula_is_a_text_in_a_spreadsheet(text: str) -> None:
    assert spreadsheet_cell(text) == f"'{text}"
    assert spreadsheet_cell("kd=1") == "kd=1"


def test_markdown_has_no_html_no_link_and_no_further_column() -> None:
    assert markdown_cell("<img onerror=x>") == "&lt;img onerror=x>"
    assert markdown_cell("[a](javascript:b) | c\nd") == "[a]\\(javascript:b) \\| c d"


def test_one_line_and_shortened() -> None:
    assert one_line("a\n  b\x1b") == "a b\\x1b"
    assert shortened("short") == "short"
    long = shortened("a" * 5000 + "z")
    assert len(long) < 2100 and long.startswith("a") and long.endswith("z") and "3001 characters left out" in long


def test_a_count_of_one_is_singular() -> None:
    assert [counted(n, "pair") for n in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]
    assert [counted(n, "box is", "boxes are") for n in (0, 1, 2)] == ["0 boxes are", "1 box is", "2 boxes are"]
