"""Ranks of methods over pairs: which are compared, what the tests say, and the figure."""

from __future__ import annotations

import pytest

from kdbench.report import plots, ranks
from kdbench.report.ranks import Scores, measured_scores, ranking, ranks_figure
from kdbench.report.reported_scores import reported_scores
from kdbench.spec.reported import Reported

pytest.importorskip("scikit_posthocs")


def scores(pairs: int = 10, **gains: float) -> Scores:
    """Scores of methods that gain the same everywhere, but for a little in turn."""
    return {
        f"pair {i}": {name: 70 + i + gain + 0.01 * ((i + j) % 3) for j, (name, gain) in enumerate(gains.items())}
        for i in range(pairs)
    }


def test_methods_are_ranked_within_pairs_and_the_best_is_first() -> None:
    found = ranking(scores(c=0.0, a=2.0, b=1.0))
    assert found is not None and found.pairs == 10
    assert dict(found.ranks) == {"a": 1.0, "b": 2.0, "c": 3.0}
    assert found.p_value < 0.001 and found.pairwise.loc["a", "c"] < 0.001 < 0.05 < found.pairwise.loc["a", "b"]
    assert found.left_out == ()


def test_equal_methods_are_not_told_apart() -> None:
    found = ranking(scores(a=0.0, b=0.0, c=0.0))
    assert found is not None and found.p_value > 0.5
    assert (found.pairwise.to_numpy() > 0.5).all()


def test_a_method_without_a_score_in_most_pairs_is_left_out_rather_than_the_pairs() -> None:
    rare = {pair: dict(of) for pair, of in scores(a=0.0, b=1.0, c=2.0, rare=3.0).items()}
    for pair in list(rare)[2:]:
        del rare[pair]["rare"]
    found = ranking(rare)
    assert found is not None and found.pairs == 10 and found.left_out == ("rare",)
    assert set(found.ranks.index) == {"a", "b", "c"}


@pytest.mark.parametrize("few", [scores(4, a=0.0, b=1.0, c=2.0), scores(10, a=0.0, b=1.0), {}])
def test_too_few_pairs_or_methods_have_no_ranking(few: Scores) -> None:
    assert ranking(few) is None and ranks_figure("few", few) is None


def number(method: str, value: float, teacher_value: float = 75.0, student: str = "small", **more: str) -> Reported:
    names = {"paper": "p", "table": "t", "dataset": "d", "strategy": "", "metric": "top1", "selection": "", **more}
    texts = {"source": "a", "evidence": "primary", "note": "", "teacher": "large", "student": student}
    numbers = {"teacher_value": teacher_value, "student_value": 70.0, "value": value, "std": None}
    return Reported.model_validate({"method": method, **names, **texts, **numbers})


def test_reported_numbers_are_ranked_without_teachers_and_students_alone() -> None:
    rows = [number(method, 71.0 + i) for i, method in enumerate(("teacher", "none", "kd", "dkd"))]
    table = reported_scores({"a": rows})["a"]["t, top1"]
    assert list(table.scores.values()) == [{"kd": 73.0, "dkd": 74.0}] and table.quoted == set()


def test_numbers_with_other_teachers_are_other_pairs() -> None:
    rows = [number("kd", 73.0), number("dkd", 74.0, table="t"), number("crd", 76.0, teacher_value=80.0)]
    scores = reported_scores({"a": rows})["a"]["t, top1"].scores
    assert sorted(list(of) for of in scores.values()) == [["crd"], ["kd", "dkd"]]


def test_a_number_quoted_from_tables_with_another_teacher_is_not_ranked() -> None:
    origin = {name: [number("kd", 73.0), number("crd", 74.0)] for name in ("a", "b")}
    own = [number("kd", 73.0, teacher_value=80.0), number("crd", 75.0, teacher_value=80.0)]
    found = reported_scores({**origin, "quoting": own})
    quoting = found["quoting"]["t, top1"]
    assert list(quoting.scores.values()) == [{"crd": 75.0}] and quoting.quoted == {"kd"}
    assert found["a"]["t, top1"].quoted == set()


def test_a_papers_own_method_is_not_quoted_however_many_quote_it() -> None:
    quoting = {name: [number("p", 73.0, paper=name)] for name in ("a", "b")}
    own = reported_scores({**quoting, "p": [number("p", 73.0, teacher_value=80.0)]})["p"]["t, top1"]
    assert list(own.scores.values()) == [{"p": 73.0}] and own.quoted == set()


def test_a_number_belongs_to_the_networks_of_its_methods_paper_however_few_give_it_with_them() -> None:
    own = [number("p", 73.0, teacher_value=80.0, paper="p")]
    found = reported_scores({"p": own, **{name: [number("p", 73.0, paper=name)] for name in ("a", "b")}})
    for name in ("a", "b"):
        table = found[name]["t, top1"]
        assert not table.scores and table.quoted == {"p"}


def test_the_figure_names_methods_with_quoted_numbers() -> None:
    figure = ranks_figure("a test", scores(a=0.0, b=1.0, c=2.0), {"kd"})
    assert figure is not None and "other teachers or students: kd" in figure.get_suptitle().replace("\n", " ")


def test_equal_scores_give_equal_files() -> None:
    first, again = (ranks_figure("a test", scores(a=0.0, b=1.0, c=2.0)) for _ in range(2))
    assert first is not None and again is not None
    assert plots.render(first, "svg") == plots.render(again, "svg")
    assert "Ranks differ" in first.get_suptitle() and "over 10 pairs" in first.get_suptitle()


def test_a_missing_library_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: plots.Path) -> None:
    monkeypatch.setattr(ranks.importlib.util, "find_spec", lambda _name: None)
    drawing = plots.draw_reported_ranks(tmp_path)
    assert drawing.files == [] and drawing.messages == [
        "ranks are not drawn: scikit-posthocs is not installed; pip install 'kdbench[report]'"
    ]


def test_a_table_without_measured_students_has_no_scores() -> None:
    assert measured_scores(()) == {}
