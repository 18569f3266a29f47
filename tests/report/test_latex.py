"""LaTeX files compile as they are, within one text width of an article."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from kdbench.records.row import Row
from kdbench.report.cells import collect
from kdbench.report.latex import SPECIAL, escape, width
from kdbench.report.packing import pack
from kdbench.report.paper import PaperView, paper_view
from kdbench.report.paper_latex import LABEL, PAGE, TEXT_WIDTH, latex
from kdbench.spec.scale import Scale
from kdbench.spec.table import MethodEntry, Networks, Pair, load_table
from tests.helpers.rows import COCO, expand
from tests.helpers.tables import cifar_table

SHIPPED = ("granularity/cifar100", "crd/cifar100", "cirkd/cityscapes", "akd/coco", "ekd/cifar100", "dist/imagenet")
HOSTILE = r"""a_b%c&d#e~f^g$h{i}j\k<l>m|n"o`p'q->r±s--t×α鸟é—…"""
LETTERS = "".join(map(chr, [*range(0x21, 0x7F), *range(0xA1, 0x180), *range(0x391, 0x3CA), 0x2014, 0x1F600]))

needs_pdflatex = pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")


def rows_of(name: str, scale: Scale) -> list[Row]:
    """Three seeds of every cell, near 70."""
    noise = random.Random(name)
    return expand(load_table(name), scale, (0, 1, 2), lambda *_: 70 + noise.gauss(0, 2))


def shipped(name: str, scale: Scale, with_rows: bool = True) -> PaperView:
    table = load_table(name)
    return paper_view(table, collect(table, rows_of(name, scale) if with_rows else [], scale), scale)


def hostile(methods: int = 60, pairs: int = 3) -> PaperView:
    """Long labels of every kind, more methods than a page has lines, and more pairs than fit beside each other."""
    names = [HOSTILE, LETTERS, "x" * 90, "masked_generative+akd:tau=2,weight=1.5", "kd"]
    entries = [MethodEntry(method="kd", label=f"{names[i % len(names)]}{i}") for i in range(methods)]
    networks = Networks(teacher="resnet56", student="resnet20")
    some = tuple(Pair(teacher=f"{names[i % 4]}{i}", student=HOSTILE, networks=networks) for i in range(pairs))
    table = cifar_table("none", *entries, pairs=some, title=f"{LETTERS[::20]} {HOSTILE} {'x/' * 60}")
    plain = table.model_copy(update={"pairs": (Pair(teacher="resnet56", student="resnet20"),)})
    data = COCO.model_copy(update={"name": "cifar100"})
    view = paper_view(table, collect(table, expand(plain, "full", (0, 1), lambda *_: 70.0, data=data), "full"), "full")
    assert len(view.rows) == methods + 2 and len(view.columns) == pairs
    assert all(entry and entry.measured for row in view.rows for entry in row.entries)
    return view


def compiled(sources: Sequence[str], folder: Path, options: str = "10pt") -> str:
    """The log of pdflatex, of an article that inputs the files."""
    for i, source in enumerate(sources):
        (folder / f"table{i}.tex").write_text(source)
    inputs = "".join(f"\\input{{table{i}}}\\clearpage\n" for i in range(len(sources)))
    preamble = rf"\documentclass[{options}]{{article}}\usepackage{{booktabs}}\usepackage{{xcolor}}"
    (folder / "main.tex").write_text(f"{preamble}\\begin{{document}}\n{inputs}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def sources() -> list[str]:
    """Files of shipped tables, with and without rows."""
    measured = [latex(shipped(name, scale)) for name in SHIPPED for scale in ("full", "mini")]
    return measured + [latex(shipped(name, "full", with_rows=False)) for name in SHIPPED[:3]]


@needs_pdflatex
@pytest.mark.parametrize("size", ["10pt", "11pt", "12pt"])
def test_shipped_tables_compile_within_one_text_width(size: str, sources: list[str], tmp_path: Path) -> None:
    log = compiled(sources, tmp_path, size)
    assert "Overfull" not in log and "too large" not in log and "undefined" not in log


@needs_pdflatex
@pytest.mark.parametrize(("methods", "pairs"), [(60, 3), (1, 1), (2, 12)])
def test_labels_of_every_character_compile_within_one_text_width(methods: int, pairs: int, tmp_path: Path) -> None:
    log = compiled([latex(hostile(methods, pairs))], tmp_path)
    assert "Overfull" not in log and "too large" not in log


@needs_pdflatex
def test_estimated_widths_are_never_below_those_of_the_fonts(tmp_path: Path) -> None:
    texts = ["72.34", "100.00", "masked_generative", "retinanet_x101_fpn", "WRN-40-2", "MobileNetV2", "mWmW", LETTERS]
    kinds = [("", 6.0), ("", 7.0), ("", 8.0), (r"\bfseries", 8.0)]  # bold are numbers alone
    cases = [(text, bold, size) for text in texts for bold, size in kinds if not bold or text[0].isdigit()]
    lines = [
        rf"\settowidth{{\dimen0}}{{\fontsize{{{size:g}}}{{9}}\selectfont{bold} {escape(text)}}}"
        rf"\typeout{{WIDTH \the\dimen0}}"
        for text, bold, size in cases
    ]
    log = compiled(["%\n".join(lines)], tmp_path)
    measured = [float(number) for number in re.findall(r"WIDTH ([\d.]+)pt", log)]
    assert len(measured) == len(lines)
    assert [case for case, real in zip(cases, measured, strict=True) if real > width(case[0], case[2])] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_every_block_is_estimated_within_the_text_width(name: str, sources: list[str]) -> None:
    """Where pdflatex is missing: characters of each line, at 8 points, markup left out."""
    for line in sources[2 * SHIPPED.index(name)].splitlines():
        if line.endswith(r"\\"):
            plain = re.sub(
                r"\\multicolumn\{2\}\{c\}|\\kdreported|\\textbf|\\raggedright|\\allowbreak|\\(?=[_%&#])|[${}]", "", line
            )
            plain = plain.replace(r"\dagger", "").replace(r"_\pm ", "±").replace("^", "").removesuffix(r" \\")
            label, *cells = (width(cell, 7.2) for cell in plain.split(" & "))
            assert min(label, LABEL) + sum(cells) <= TEXT_WIDTH


def test_blocks_are_even_and_fit_the_page() -> None:
    assert pack([10] * 13, 45) == [range(3), range(3, 6), range(6, 10), range(10, 13)]
    assert pack([10, 100, 10], 45) == [range(1), range(1, 2), range(2, 3)]
    assert pack([10, 10, 40], 45) == [range(2), range(2, 3)]
    assert pack([10], 45) == [range(1)]
    assert pack([], 45) == []


def test_a_file_is_balanced_and_says_what_it_needs() -> None:
    text = latex(shipped("crd/cifar100", "full"))
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert r"% \usepackage{booktabs} and xcolor" in text and r"\label{tab:crd-cifar100}" in text
    assert r"\caption{CRD on CIFAR-100" in text
    assert text.index(r"\setlength{\belowcaptionskip}") < text.index(r"\caption{")  # article leaves no space below it
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\begin{tabular}") > 1
    assert "xcolor" not in latex(shipped("crd/cifar100", "mini"))


def test_tables_that_are_higher_than_a_page_are_continued() -> None:
    text = latex(hostile())
    tables = text.count(r"\begin{table}")
    assert tables > 1 and len(set(re.findall(r"\\label\{(.*?)\}", text))) == tables
    assert f"part {tables} of {tables}." in text
    for part in text.split(r"\begin{table}")[1:]:
        assert 9.5 * part.count(r" \\") <= PAGE


@pytest.mark.parametrize("char", [*SPECIAL, "鸟", "é", "a", "1", "😀"])
def test_every_character_is_literal(char: str) -> None:
    printed = {"鸟": "U+9E1F", "😀": "U+1F600"}.get(char, SPECIAL.get(char, char))
    assert escape(f"x{char}y") == f"x{printed}y"


def test_long_words_may_be_broken_and_short_ones_not() -> None:
    long = r"masked\_\allowbreak{}generative:\allowbreak{}t=\allowbreak{}2"
    assert escape("dist:tau=2 masked_generative:t=2", breakable=True) == rf"dist:tau=2 {long}"
    assert escape("a--b") == "a-{}-{}b" and escape("a -> b") == r"a $\to$ b"
