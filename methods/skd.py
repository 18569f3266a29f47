"""SKD: the pair-wise loss of structured knowledge distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, Method, Outputs, Setting
from .functional import head_pair


class SKD(Method):
    """Squared error between similarities of positions within an image.

        A(F)[n, i, j] = cosine of cells i and j of image n;  cells are the maxima of 2x2 positions
        loss = weight * mean_{n,i,j} (A(S) - A(T))^2

    S [N, C_s, h, w], T [N, C_t, h, w], the maps before the classifiers; widths may differ. Ignored pixels are included.
    The paper's pixel-wise loss is `kd` and its holistic loss `adversarial`: CIRKD's scripts run `skd+kd+adversarial`,
    and `skd+kd` omits the holistic loss.

    Args:
        setting: the run's shapes.
        weight: CIRKD's scripts: 10.
    """

    name = "skd"
    citation = (
        "Y. Liu, K. Chen, C. Liu, Z. Qin, Z. Luo, J. Wang. Structured knowledge distillation for semantic "
        "segmentation. CVPR 2019. https://arxiv.org/abs/1903.04197; as run by https://github.com/winycg/CIRKD"
    )
    tasks = frozenset({"segmentation"})

    def __init__(self, setting: Setting, weight: float = 10.0) -> None:
        super().__init__(setting)
        self.weight = weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = head_pair(self.name, student, teacher)
        return {self.name: self.weight * (similarities(s) - similarities(t)).square().mean()}


def similarities(features: Tensor) -> Tensor:
    """Cosines of all pairs of cells of each image: [N, C, h, w] -> [N, P, P], P = ceil(h / 2) * ceil(w / 2)."""
    cells = F.normalize(F.max_pool2d(features, 2, ceil_mode=True), dim=1).flatten(2)
    return cells.mT @ cells
