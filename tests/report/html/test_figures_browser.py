"""The page of figures in a real browser: what is drawn, what a choice changes, and that each figure is a table, too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.figure_pages import COMMITS, build, build_empty
from tests.helpers.report_pages import HOSTILE

pytestmark = pytest.mark.integration

pytest.importorskip("itables", reason="itables is not installed: pip install 'kdbench[report]'")
pytest.importorskip("plotly", reason="plotly is not installed: pip install 'kdbench[report]'")
pytest.importorskip("scikit_posthocs", reason="scikit-posthocs is not installed: pip install 'kdbench[report]'")

Open = Callable[..., Any]

SECTIONS = ("gains", "cost", "ranks-measured", "ranks-reported", "history")
LAST = "#history .js-plotly-plot .scatterlayer"
"""What is drawn last."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("figures"))


@pytest.fixture
def opened(open_page: Open, report: Path) -> Open:
    """Opens the page of figures at an address within it."""
    return lambda address="", width=1440, **options: open_page(f"{report.as_uri()}{address}", LAST, width, **options)


def names(page: Any, section: str) -> list[str]:
    """The names beside a figure."""
    return [text.strip() for text in page.locator(f"#{section} .yaxislayer-above text").all_text_contents()]


def table(page: Any, section: str) -> list[list[str]]:
    """A figure's table, line by line."""
    numbers = page.locator(f"#{section} > details.numbers")
    if not numbers.evaluate("each => each.open"):
        numbers.locator("summary").click()
    numbers.locator("tbody tr").first.wait_for()
    lines = numbers.locator("tbody tr")
    return [lines.nth(k).locator("th, td").all_inner_texts() for k in range(lines.count())]


def choose(page: Any, section: str, name: str, label: str) -> None:
    page.locator(f"#{section} select[name={name}]").select_option(label=label)


def words(page: Any, section: str) -> str:
    return str(page.locator(f"#{section} > .words").inner_text())


@pytest.mark.parametrize("width", [1440, 390])
def test_every_figure_is_drawn_and_says_from_what_rows(opened: Open, width: int) -> None:
    page = opened(width=width)
    for section in SECTIONS:
        assert page.locator(f"#{section} .js-plotly-plot .scatterlayer .trace").count() > 0, section
        assert re.match(r"From \d+ (rows|methods)", page.locator(f"#{section} > .origin").inner_text()), section
        label = page.locator(f"#{section} .figure").get_attribute("aria-label")
        assert label.startswith("Figure: ") and len(table(page, section)) > 2
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_gains_have_their_interval_and_lead_to_the_cell(opened: Open) -> None:
    page = opened()
    lines = {name: values for name, *values in table(page, "gains")}
    gain, half, n, reported = lines["dkd"]
    assert 1.5 < float(gain) < 2.7 and 0 < float(half) < 1 and n == "4" and reported == "-"
    assert list(lines) == sorted(lines, key=lambda name: -float(lines[name][0]))
    assert page.locator("#gains .errorbar path").count() == len(lines)
    page.locator("#gains").get_by_role("link", name="dkd", exact=True).click()
    page.wait_for_selector("#details dl")
    assert page.locator("#details-title").inner_text() == "dkd: resnet56 → resnet20"


def test_gains_over_plain_kd_leave_kd_out(opened: Open) -> None:
    page = opened()
    assert "kd" in names(page, "gains")
    choose(page, "gains", "over", "plain KD")
    page.wait_for_function("document.querySelector('#gains .figure').ariaLabel.includes('plain KD')")
    assert "kd" not in names(page, "gains") and "dkd" in names(page, "gains")


def test_reported_gains_stand_beside_measured_ones(opened: Open) -> None:
    page = opened()
    choose(page, "gains", "table", next(text for text in offered(page, "table") if text.startswith("akd/coco")))
    page.wait_for_function("document.querySelector('#gains .figure').ariaLabel.includes('akd/coco')")
    values = {line[0]: line[4] for line in table(page, "gains")}
    assert re.fullmatch(r"\+\d\.\d\d", values["maskd"]), values
    assert page.locator("#gains > .origin").inner_text().endswith("Reported by akd, maskd.")
    assert page.locator("#gains .legendtext").all_text_contents() == ["measured, 95 % interval", "reported"]
    assert page.locator("#cost select[name=table]").input_value() == "akd/coco, full scale"


def offered(page: Any, name: str) -> list[str]:
    return [str(text) for text in page.locator(f"select[name={name}]").first.locator("option").all_inner_texts()]


def test_the_pareto_front_is_marked_and_named(opened: Open) -> None:
    page = opened()
    front = {line[0] for line in table(page, "cost") if line[4] == "yes"}
    assert {"none", "kd", "dkd"} <= front and not {"at", "dist"} & front
    assert words(page, "cost").startswith("On the Pareto front: none (+0.00 at ×1.00)")
    choose(page, "cost", "cost", "seconds of a training step")
    page.wait_for_function("document.querySelector('#cost .figure').ariaLabel.includes('seconds')")
    assert " ms)" in words(page, "cost")


def test_ranks_from_rows_and_from_reported_numbers_are_apart(opened: Open) -> None:
    page = opened()
    assert table(page, "ranks-measured")[0][:2] == ["dkd", "1.00"]
    assert offered(page, "reported") == ["lskd: cifar100, top1"]
    assert "on 14 pairs, one reported number each" in page.locator("#ranks-reported > .origin").inner_text()
    assert "critical difference" in page.locator("#ranks-reported .annotation-text").text_content()
    assert "Friedman" in words(page, "ranks-reported") and "Nemenyi" in words(page, "ranks-reported")


def test_history_marks_regressions_and_lists_them(opened: Open) -> None:
    page = opened()
    changes = page.locator("#changes tbody tr")
    texts = [changes.nth(k).inner_text() for k in range(changes.count())]
    dist = [text for text in texts if "\tdist\t" in text]
    assert len(dist) == 5 and all("regressed" in text and "accuracy -3." in text for text in dist)
    assert sum("step time ×2.00" in text and "\tat\t" in text for text in texts) == 5
    assert all(text.startswith(COMMITS[1][:7]) for text in texts)
    changes.nth(next(k for k, text in enumerate(texts) if "step time" in text)).get_by_role("link").click()
    page.wait_for_function("document.querySelector('#history .figure').ariaLabel.includes('step (ms)')")
    page.wait_for_selector(LAST)
    assert "regressed" in page.locator("#history .legendtext").all_text_contents()
    assert "1 regressed, 0 improved" in words(page, "history")


def test_the_address_restores_the_choices(opened: Open) -> None:
    page = opened()
    choose(page, "gains", "pair", "resnet56 → vgg8")
    choose(page, "cost", "cost", "seconds of a training step")
    page.wait_for_function("location.hash.includes('cost=step')")
    again = opened(page.evaluate("location.hash"))
    assert again.locator("#gains select[name=pair]").input_value() == "resnet56 → vgg8"
    assert "vgg8" in again.locator("#cost .figure").get_attribute("aria-label")
    assert " ms)" in words(again, "cost")


def test_an_address_of_what_is_gone_shows_the_first(opened: Open) -> None:
    page = opened("#table=gone&pair=none&history=old&other=1")
    assert page.locator("#gains .js-plotly-plot").count() == 1


def test_choices_are_made_by_keyboard(opened: Open) -> None:
    page = opened()
    page.locator(".contents a", has_text="Ranks").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.name") == "measured"
    page.locator("#gains select[name=over]").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("document.querySelector('#gains .figure').ariaLabel.includes('plain KD')")
    page.locator("#gains > details summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#gains details tbody tr")


def test_names_are_text_in_figures(opened: Open) -> None:
    page = opened()
    for section in ("gains", "ranks-measured"):
        assert any(name.startswith("<img src=x") for name in names(page, section)), section
        assert any(line[0] == HOSTILE for line in table(page, section))
    page.locator("#gains .trace .points path").nth(2).hover(force=True)
    page.wait_for_selector("#gains .hoverlayer text")
    assert HOSTILE[:40] in page.locator("#gains .hoverlayer").text_content()
    assert any(HOSTILE[:10] in text for text in page.locator("#history .legendtext").all_text_contents())
    assert page.locator("img").count() == 0


def test_figures_follow_the_theme(opened: Open) -> None:
    page = opened(color_scheme="light")
    color = "getComputedStyle(document.querySelector('#gains .xaxislayer-above text')).fill"
    light = page.evaluate(color)
    page.get_by_role("button", name="Dark").click()
    page.wait_for_function(f"{color} !== '{light}'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_serious(
    opened: Open, serious_violations: Callable[[Any], list[Any]], scheme: str, width: int
) -> None:
    page = opened(width=width, color_scheme=scheme)
    for section in SECTIONS:
        table(page, section)
    assert serious_violations(page) == []


def test_without_numbers_a_sentence_names_what_is_missing(
    open_page: Open, tmp_path: Path, serious_violations: Callable[[Any], list[Any]]
) -> None:
    page = open_page(build_empty(tmp_path).as_uri(), "#history > .empty:not([hidden])")
    for section, part in (
        ("gains", "kdbench run ad/cifar100"),
        ("cost", "kdbench run ad/cifar100"),
        ("ranks-measured", "kdbench run dkd/cifar100"),
        ("ranks-reported", "kdbench report"),
        ("history", "kdbench baseline"),
    ):
        assert part in page.locator(f"#{section} > .empty code").all_inner_texts(), section
        assert page.locator(f"#{section} .js-plotly-plot").count() == 0
    assert "No change was found" in page.locator("#changes-words").inner_text()
    assert serious_violations(page) == []
