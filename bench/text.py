"""Text from outside - rows, tables, data sets, file names, libraries - made safe to print and to write."""

from __future__ import annotations

import unicodedata

from kdbench.datasets._text import counted

__all__ = ["FORMULA", "LIMIT", "counted", "markdown", "markdown_cell", "one_line", "printable", "shortened"]
__all__ += ["option_text", "spreadsheet_cell"]

LIMIT = 2000  # characters of an error's message

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings by which spreadsheet programs take a text for a formula."""


def printable(text: str) -> str:
    """`text` with control characters, direction marks and lone surrogates as escapes; line feeds and tabs stay.

    A terminal would obey them: an escape sequence in the name of a class could rewrite what was printed before.
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def one_line(text: str) -> str:
    """`text` printable and in one line."""
    return printable(" ".join(text.split()))


def shortened(text: str, limit: int = LIMIT) -> str:
    """`text` with its middle left out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def spreadsheet_cell(text: str) -> str:
    """`text` as a field of a CSV file that no spreadsheet program evaluates: formulas begin with an apostrophe."""
    return f"'{text}" if text.startswith(FORMULA) else text


def markdown_cell(text: str) -> str:
    """`text` in one line, as a cell of a Markdown table."""
    return markdown(text).replace("|", "\\|")


def markdown(text: str) -> str:
    """`text` in one line, as Markdown shows it literally: no HTML and no link."""
    return one_line(text.replace("&", "&amp;").replace("<", "&lt;").replace("](", "]\\("))


def _visible(char: str) -> str:
    if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return char
    return char.encode("unicode_escape", "surrogatepass").decode()


def option_text(value: object) -> str:
    """An option's value as a user writes it: 4 for 4.0, true, null, [a,b], '1,2' for a text with a comma."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(option_text, value))}]"
    if isinstance(value, str) and "," in value:
        return f"'{value}'"
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
