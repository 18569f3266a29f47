"""Which library's networks a cell's rows are looked for under, at full scale."""

from __future__ import annotations

import pytest

from kdbench.grid import cells
from kdbench.grid.cells import NetworkPair, expand
from tests.helpers.tables import fixed_table

OWN = ("retinanet_r101_fpn", "retinanet_r50_fpn")
OTHER = ("detectron2:COCO-Detection/retinanet_R_101_FPN_3x", "detectron2:COCO-Detection/retinanet_R_50_FPN_1x")


def networks_of(*ran: NetworkPair) -> tuple[str | None, str | None]:
    table = fixed_table("akd/coco")
    first = expand(table.model_copy(update={"pairs": table.pairs[:1]}), "full", measured=set(ran))[0]
    return first.teacher, first.student


@pytest.mark.parametrize("here", [OWN, OTHER], ids=["torchvision", "detectron2"])
@pytest.mark.parametrize(
    ("ran", "found"),
    [
        ([], None),
        ([OWN], OWN),
        ([OTHER], OTHER),
        ([OWN, OTHER], None),
        ([(None, OWN[1])], OWN),
        ([(None, OTHER[1])], OTHER),
        ([(None, OTHER[1]), OWN], OWN),
        ([(None, OWN[1]), OTHER], OTHER),
    ],
)
def test_a_cell_takes_the_library_that_has_rows_and_of_two_the_one_that_would_run(
    ran: list[NetworkPair], found: NetworkPair | None, here: NetworkPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "networks_at", lambda *_: here)
    assert networks_of(*ran) == (found or here)
