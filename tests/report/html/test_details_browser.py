"""Details of a line in a real browser: curves, pictures, tables of classes, and that names stay text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdbench.report.html.site import write
from tests.helpers.detail_pages import content, panel, write_runs
from tests.helpers.report_pages import HOSTILE

pytestmark = pytest.mark.integration

pytest.importorskip("itables", reason="itables is not installed: pip install 'kdbench[report]'")
pytest.importorskip("plotly", reason="plotly is not installed: pip install 'kdbench[report]'")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("details")
    panel(folder / "plots/a-panel.png", write_runs(folder / "runs"))
    return write(content(folder / "runs", folder / "plots"), folder / "out")


@pytest.fixture
def opened(open_page: Open, report: Path) -> Open:
    """Opens the details of a method of one of the pairs."""

    def opened(method: str = "dist", student: str = "retinanet", width: int = 1440, **options: Any) -> Any:
        page = open_page(f"{report.as_uri()}#q={method} {student}_mini_student", "#cells tbody td", width, **options)
        page.get_by_role("link", name=method, exact=True).first.click()
        page.wait_for_selector("#details .js-plotly-plot .scatterlayer")
        return page

    return opened


def part(page: Any, title: str) -> Any:
    return page.locator("#details section").filter(has=page.get_by_role("heading", name=title))


def texts(page: Any, column: int) -> list[str]:
    cells = part(page, "AP of classes").locator(f"tbody td:nth-child({column})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_the_metric_is_over_epochs_beside_loss_terms_over_steps(opened: Open) -> None:
    page = opened()
    metric, losses = (page.locator(".curves .figure").nth(k) for k in range(2))
    assert metric.locator(".xtitle").text_content() == "epoch"
    assert losses.locator(".xtitle").text_content() == "optimizer step"
    assert losses.get_attribute("aria-label") == "weighted loss terms over steps, mean of each epoch"
    boxes = [each.bounding_box() for each in (metric, losses)]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    x, y = (
        page.evaluate(f"Array.from(document.querySelectorAll('.curves .figure')[1].data[0].{axis})") for axis in "xy"
    )
    assert x == [x[0] * (k + 1) for k in range(len(x))] and x[0] > 1
    assert y == pytest.approx([1 / (k + 1) for k in range(len(y))], rel=1e-3)


def test_predictions_are_side_by_side_with_words_and_other_methods_on_demand(opened: Open) -> None:
    page = opened()
    predictions = part(page, "Predictions")
    shown = predictions.locator(".tiles").first.locator("figure")
    assert [text.split()[0] for text in shown.locator("figcaption").all_inner_texts()] == [
        *("truth", "teacher", "none", "dist")
    ]
    words = shown.nth(3).locator("img").get_attribute("alt")
    assert re.fullmatch(rf"dist on one: {re.escape(HOSTILE)} 0\.\d0", words)
    page.wait_for_function(
        "[...document.querySelectorAll('.tiles img')].slice(0, 4).every((each) => each.naturalWidth)"
    )
    tops = {round(shown.nth(k).bounding_box()["y"]) for k in range(4)}
    assert len(tops) == 1
    others = predictions.locator("details").first
    assert not others.locator("img").first.is_visible()
    others.locator("summary").click()
    assert others.locator("img").first.is_visible()


def test_a_missing_picture_is_a_sentence(open_page: Open, tmp_path: Path) -> None:
    panel(tmp_path / "plots/a-panel.png", write_runs(tmp_path / "runs"))
    address = write(content(tmp_path / "runs", tmp_path / "plots"), tmp_path / "out").as_uri()
    for path in (tmp_path / "out/data/pictures").iterdir():
        path.write_bytes(b"")
    page = open_page(f"{address}#q=dist retinanet_mini_student", "#cells tbody td")
    page.get_by_role("link", name="dist", exact=True).first.click()
    page.wait_for_selector(".tiles .missing")
    assert "This picture is missing; build the report again." in part(page, "Predictions").inner_text()


def test_without_pictures_the_command_is_told(opened: Open) -> None:
    text = part(opened(student="faster_rcnn"), "Predictions").inner_text()
    assert "There are no pictures of its runs; kdbench plots dist/coco --scale mini draws them." in text


def test_classes_are_sorted_by_any_column_also_by_keyboard(opened: Open) -> None:
    page = opened()
    table = part(page, "AP of classes")
    best_first = texts(page, 3)
    assert [float(text) for text in best_first] == sorted(map(float, best_first), reverse=True)
    assert HOSTILE in texts(page, 1) and texts(page, 5)[0][0] in "+-"
    table.get_by_role("button", name="- teacher").focus()
    page.keyboard.press("Enter")
    assert table.get_by_role("columnheader", name="- teacher").get_attribute("aria-sort") == "descending"
    values = [float(text) for text in texts(page, 4)]
    assert values == sorted(values, reverse=True)
    table.get_by_role("button", name="class").click()
    names = texts(page, 1)
    assert names == [HOSTILE, *(f"digit {k}" for k in range(9))]
    assert table.get_by_role("columnheader", name="- teacher").get_attribute("aria-sort") is None


def test_names_of_classes_and_files_are_text(opened: Open) -> None:
    page = opened()
    text = part(page, "Predictions").inner_text()
    assert text.count(HOSTILE) >= 2  # an image and the legend
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(
    opened: Open, serious_violations: Callable[[Any], list[Any]], width: int, scheme: str
) -> None:
    page = opened(width=width, color_scheme=scheme)
    page.locator(".pictures summary").first.click()
    assert serious_violations(page) == []


def test_a_phone_needs_no_scrolling_sideways(opened: Open) -> None:
    page = opened(width=390)
    assert page.evaluate("document.getElementById('details').scrollWidth") <= 390
    boxes = [page.locator(".curves .figure").nth(k).bounding_box() for k in range(2)]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]


def test_the_next_line_needs_no_other_file(opened: Open) -> None:
    page = opened()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("Escape")
    page.locator("#cells a", has_text="mimic").first.click()
    page.wait_for_selector("#details .js-plotly-plot .scatterlayer")
    assert not [url for url in asked if "data/cells" in url or "plotly" in url]
