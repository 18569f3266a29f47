"""Text as LaTeX prints it literally, and how wide it is."""

from __future__ import annotations

from unicodedata import normalize

from ..text import one_line

GREEK = ("alpha", "beta", "gamma", "delta", "epsilon", "lambda", "mu", "sigma", "theta", "tau")
SPECIAL = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "→": r"$\to$",
    "←": r"$\leftarrow$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "∞": r"$\infty$",
    "°": r"$^\circ$",
    "·": r"$\cdot$",
    "†": r"$\dagger$",
    "…": r"\dots{}",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "µ": r"$\mu$",
    **{char: rf"$\{name}$" for char, name in zip("αβγδελμσθτ", GREEK, strict=True)},
}
ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c"
LETTERS = frozenset(map(chr, range(0x20, 0x7F))) | frozenset(
    char for char in map(chr, range(0xC0, 0x17F)) if char in "ßæøåÆØÅœŒłŁ" or normalize("NFD", char)[1:] in {*ACCENTS}
)
"""What pdflatex has in its usual fonts, beside `SPECIAL`."""

BREAKS = "_/:,=+.@"
LONG = 20  # characters of a word that are not broken
BREAK = r"\allowbreak{}"


def escape(text: str, breakable: bool = False) -> str:
    """`text` in one line as LaTeX prints it literally; characters that pdflatex has not are written `U+9E1F`.

    Long words of `breakable` text may be broken after `_`, `/`, `:` and the like.
    """
    words = one_line(text).replace("->", "→").split(" ")
    return " ".join(
        _word(word, breakable and (len(word) > LONG or not all(map(_has, word)))) for word in words
    ).replace("--", "-{}-{}")


def _word(word: str, breakable: bool) -> str:
    breaks = (char in BREAKS or not _has(char) or i % LONG == 0 for i, char in enumerate(word, 1))
    parts = (_escaped(char) + (BREAK if ends else "") for char, ends in zip(word, breaks, strict=True))
    return "".join(parts if breakable else map(_escaped, word))


def _escaped(char: str) -> str:
    if char in SPECIAL:
        return SPECIAL[char]
    return char if _has(char) else f"U+{ord(char):04X}"


def _has(char: str) -> bool:
    """Whether pdflatex can print a character."""
    return char in SPECIAL or char in LETTERS


def width(text: str, size: float) -> float:
    """Upper bound of the width of plain text in Computer Modern, bold numbers included, at 6 to 8 points; in points."""
    plain = "".join(char if _has(char) else f"U+{ord(char):04X}" for char in text)
    return size * sum(map(_em, plain))


def _em(char: str) -> float:
    """A character's width relative to the font size."""
    if char in "ijl.,:;!'| ":
        return 0.37
    if char in "ftrsI()[]-†":
        return 0.5
    if char in "mwMW%#&→…":
        return 1.15
    return 0.615 if char.islower() or char.isdigit() or char in "_/" else 0.95
