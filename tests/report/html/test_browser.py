"""The report in a real browser, opened from disk: what a reader does with it, and that nothing leaves the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdbench.report.html.site import write
from tests.helpers.report_pages import FORMULA, HOSTILE, build, content

pytestmark = pytest.mark.integration

pytest.importorskip("itables", reason="itables is not installed: pip install 'kdbench[report]'")
pytest.importorskip("plotly", reason="plotly is not installed: pip install 'kdbench[report]'")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("report"))


@pytest.fixture
def opened(open_page: Open, report: Path) -> Open:
    """Opens the report at an address within it."""
    return lambda address="", width=1440, **options: open_page(
        f"{report.as_uri()}{address}", "#cells tbody td", width, **options
    )


def column(page: Any, title: str) -> list[str]:
    """The texts of a column as shown."""
    headings = [text.strip() for text in page.locator("#cells thead th").all_inner_texts()]
    place = headings.index(title) + 1
    return [text.strip() for text in page.locator(f"#cells tbody td:nth-child({place})").all_inner_texts()]


def heading(page: Any, title: str) -> Any:
    return page.locator("#cells thead th").filter(has_text=re.compile(rf"^\s*{title}\s*$"))


def count(page: Any) -> int:
    found = re.search(r"of (\d+) lines", page.locator(".dt-info").inner_text())
    return int(found[1]) if found else 0


def choose(page: Any, name: str, value: str) -> None:
    page.locator(f"#filters select[name={name}]").select_option(value)


def means(texts: list[str]) -> list[float]:
    return [float(text.split(" ")[0]) for text in texts if text != "-"]


def test_headings_sort_by_value_with_missing_values_last(opened: Open) -> None:
    page = opened()
    for direction, reverse in (("descending", True), ("ascending", False)):
        heading(page, "gain over none").click()
        assert heading(page, "gain over none").get_attribute("aria-sort") == direction
        texts = column(page, "gain over none")
        values = means(texts)
        assert len(values) > 10
        assert values == sorted(values, reverse=reverse)
        assert texts[: len(values)] == [text for text in texts if text != "-"]


def test_headings_sort_by_keyboard(opened: Open) -> None:
    page = opened()
    heading(page, "measured").locator("[role=button]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#cells th[aria-sort]")  # a table sorts after the key's event
    assert heading(page, "measured").get_attribute("aria-sort") == "descending"


def test_the_table_of_papers_fits_a_tablet(opened: Open) -> None:
    page = opened(width=1024)
    assert page.evaluate("document.getElementById('papers').scrollWidth") <= 992


def test_a_scale_that_all_lines_have_is_offered_and_not_shown(open_page: Open, tmp_path: Path) -> None:
    every = content()
    one_scale = replace(every, lines=[line for line in every.lines if line.scale == every.lines[0].scale])
    for wanted, shown in ((every, True), (one_scale, False)):
        page = open_page(write(wanted, tmp_path).as_uri(), "#cells tbody td")
        assert heading(page, "scale").is_visible() == shown
        assert page.locator("#column-choices").get_by_label("scale").count() == 1


def test_search_and_filters_narrow_the_lines(opened: Open) -> None:
    page = opened()
    every = count(page)
    choose(page, "verdict", "reproduced")
    assert set(column(page, "verdict")) == {"reproduced"}
    assert 0 < count(page) < every
    choose(page, "pair", "fcos_r101_fpn → fcos_r50_fpn")
    assert set(column(page, "student")) == {"fcos_r50_fpn"}
    page.get_by_role("button", name="Reset").click()
    assert count(page) == every
    page.get_by_label("Search").fill("FCOS_r50 Maskd")
    page.wait_for_function("document.querySelector('.dt-info').textContent.includes('(of')")
    assert all("maskd" in text for text in column(page, "method"))


def test_a_filter_offers_what_the_others_leave(opened: Open) -> None:
    page = opened("#dataset=digits")
    assert page.locator("select[name=scale] option").all_inner_texts() == ["all", "mini"]
    assert {"coco", "digits"} <= set(page.locator("select[name=dataset] option").all_inner_texts())


def test_the_address_restores_the_view(opened: Open) -> None:
    page = opened()
    choose(page, "dataset", "coco")
    page.get_by_label("Search").fill("retinanet")
    page.wait_for_function("location.hash.includes('q=retinanet')")
    heading(page, "measured").click()
    page.locator("#columns summary").click()
    page.get_by_role("checkbox", name="params, M").check()
    page.get_by_role("checkbox", name="paper", exact=True).uncheck()
    shown = page.locator("#cells").inner_text()
    assert "params, M" in shown
    address = page.evaluate("location.hash")
    again = opened(address)
    assert again.locator("#cells").inner_text() == shown
    assert again.get_by_label("Search").input_value() == "retinanet"
    assert again.locator("#filters select[name=dataset]").input_value() == "coco"
    assert heading(again, "measured").get_attribute("aria-sort") == "descending"
    assert "paper" not in again.locator("#cells thead th").all_inner_texts()


def test_names_in_an_address_that_the_page_lacks_are_ignored(opened: Open) -> None:
    page = opened("#sort=nothing:desc&columns=method,nothing&other=1&verdict=")
    assert [text.strip() for text in page.locator("#cells thead th").all_inner_texts()] == ["method"]


def test_a_line_opens_its_details(opened: Open) -> None:
    page = opened("#method=akd%2Bmaskd")
    page.locator("#cells a").first.click()
    page.wait_for_selector("#details .js-plotly-plot .scatterlayer")
    text = page.locator("#details").inner_text()
    for part in (
        "tolerance",
        "t s / √n",
        "Seeds",
        "Resolved specification",
        "Teacher",
        "Cost",
        "Environment",
        "commit",
    ):
        assert part in text
    assert page.locator("#details .js-plotly-plot").count() == 2
    address = page.evaluate("location.hash")
    page.keyboard.press("Escape")
    assert not page.locator("#details").is_visible()
    assert "cell=" not in page.evaluate("location.hash")
    again = opened(address)
    again.wait_for_selector("#details .js-plotly-plot")
    assert again.locator("#details-title").inner_text() == "akd+maskd: retinanet_r101_fpn → retinanet_r50_fpn"


def test_the_back_button_closes_details(opened: Open) -> None:
    page = opened()
    page.locator("#cells a").first.click()
    page.wait_for_selector("#details dl")
    page.go_back()
    page.wait_for_selector("#details", state="hidden")


def test_an_address_of_a_line_that_is_gone_says_so(opened: Open) -> None:
    page = opened("#cell=0123456789abcdef")
    assert "no such line" in page.locator("#details-subtitle").inner_text()


def test_a_paper_shows_its_lines(opened: Open) -> None:
    page = opened()
    page.locator("#papers a", has_text="maskd").click()
    page.wait_for_function("document.querySelector('.dt-info').textContent.includes('(of')")
    assert set(column(page, "paper")) == {"maskd"}


def download(page: Any, button: str) -> str:
    with page.expect_download() as waited:
        page.get_by_role("button", name=button).click()
    return Path(waited.value.path()).read_text(encoding="utf-8")


def test_downloads_have_the_lines_and_columns_that_are_shown(opened: Open) -> None:
    page = opened("#dataset=coco&sort=measured:desc&columns=student,method,reported,measured,verdict")
    csv = download(page, "CSV").splitlines()
    assert csv[0] == "student,method,reported,measured,measured_sd,measured_n,verdict"
    assert len(csv) == count(page) + 1
    assert csv[1].split(",")[0] == column(page, "student")[0]
    tex = download(page, "LaTeX")
    assert "student & method & reported & measured & verdict \\\\" in tex
    assert tex.count("\\\\\n") == count(page) + 1
    assert r"retinanet\_r50\_fpn" in tex and "$\\pm$" in tex


def test_a_download_has_no_formula(opened: Open) -> None:
    csv = download(opened("#dataset=digits&columns=method"), "CSV")
    assert f"'{FORMULA}" in csv.splitlines()


def test_dark_mode_follows_the_system_and_the_switch_is_remembered(opened: Open) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = opened(color_scheme="light").evaluate(background)
    page = opened(color_scheme="dark")
    dark = page.evaluate(background)
    assert dark != light
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(background) == light
    page.reload()
    assert page.evaluate(background) == light
    assert page.locator("#theme").get_attribute("aria-pressed") == "false"


def test_names_are_text_and_never_code(opened: Open) -> None:
    page = opened("#dataset=digits")
    assert HOSTILE in column(page, "method")
    page.get_by_role("link", name=HOSTILE).click()
    page.wait_for_selector("#details .js-plotly-plot")
    assert HOSTILE in page.locator("#details-title").inner_text()
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.locator("section.note").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("cell", [False, True])
def test_axe_finds_nothing_serious(
    opened: Open, serious_violations: Callable[[Any], list[Any]], scheme: str, cell: bool
) -> None:
    page = opened("#dataset=coco", color_scheme=scheme)
    page.locator("#columns summary").click()
    if cell:
        page.locator("#cells a").first.click()
        page.wait_for_selector("#details .js-plotly-plot")
    assert serious_violations(page) == []


def test_a_phone_shows_the_verdict_without_scrolling_the_page(opened: Open) -> None:
    page = opened("#dataset=coco", width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = heading(page, "verdict").bounding_box()
    assert box["x"] + box["width"] <= 390
    page.locator("#cells a").first.click()
    page.wait_for_selector("#details .js-plotly-plot")
    assert page.evaluate("document.getElementById('details').scrollWidth") <= 390
