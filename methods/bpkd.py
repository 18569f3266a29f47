"""BPKD: boundary-privileged knowledge distillation for segmentation. Our reading: no training code was released."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import IGNORE_INDEX, Batch, Method, MethodError, Outputs, Setting
from .functional import logits_pair


class BPKD(Method):
    """KL between class probabilities near boundaries of classes, and between the classes' shapes elsewhere.

        M_k = dilation - erosion of the mask of class k by a square of 2 radius + 1 pixels, 0 at ignored pixels,
              averaged down to the size of the logits                                               [N, K, h, w]
        phi = T^2 KL over classes of softmax(z_t M / T) and softmax(z_s M / T), at each position    [N, h, w]
        edge = edge_weight * alpha * mean_n sum_k sum_{hw} phi M_k / max(sum_{hw} M_k, 1)
        body = body_weight * T^2 / K * mean_n sum_k KL over space of softmax_{hw}(z_t (1 - M) / T) and the student's

    z_s, z_t [N, K, h, w]: raw logits. Outside of the image there is no class. **The authors released code for
    evaluation only.** Formula and default values are a third party's reading of the paper's equations, and another
    reading differs, so the reported numbers are not to be expected.

    Args:
        setting: the run's shapes.
        edge_weight: factor on edge.
        body_weight: factor on body.
        alpha: further factor on edge.
        temperature: T.
        radius: pixels on each side of a boundary that belong to it.
    """

    name = "bpkd"
    citation = (
        "L. Liu, Z. Wang, M. H. Phan, B. Zhang, J. Ge, Y. Liu. BPKD: boundary privileged knowledge distillation for "
        "semantic segmentation. WACV 2024. https://github.com/AkideLiu/BPKD (evaluation only)"
    )
    tasks = frozenset({"segmentation"})
    min_classes = 2

    def __init__(
        self,
        setting: Setting,
        edge_weight: float = 50.0,
        body_weight: float = 20.0,
        alpha: float = 2.0,
        temperature: float = 4.0,
        radius: int = 3,
    ) -> None:
        super().__init__(setting)
        if temperature <= 0 or radius < 1:
            raise MethodError(
                f"bpkd: temperature is {temperature} and radius {radius}; they must be positive and at least 1"
            )
        self.edge_weight, self.body_weight, self.alpha = edge_weight, body_weight, alpha
        self.temperature, self.radius = temperature, radius

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `edge` and `body`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        targets = batch.targets
        if not isinstance(targets, Tensor) or targets.ndim != 3:
            raise MethodError("bpkd: the targets must be masks [N, H, W] of class indices")
        edges = edge_masks(targets, s.shape[1], self.radius, (s.shape[2], s.shape[3]))
        return {"edge": self.edge_weight * self._edge(s, t, edges), "body": self.body_weight * self._body(s, t, edges)}

    def _edge(self, student: Tensor, teacher: Tensor, edges: Tensor) -> Tensor:
        phi = self._divergence(student * edges, teacher * edges, dim=1)
        share = edges / edges.sum(dim=(2, 3), keepdim=True).clamp_min(1)
        return self.alpha * (phi[:, None] * share).sum() / len(edges)

    def _body(self, student: Tensor, teacher: Tensor, edges: Tensor) -> Tensor:
        inside = 1 - edges
        return self._divergence((student * inside).flatten(2), (teacher * inside).flatten(2), dim=2).mean()

    def _divergence(self, student: Tensor, teacher: Tensor, dim: int) -> Tensor:
        """T^2 KL of the softmax of logits / T over a dimension, which is summed."""
        log_p, log_q = (F.log_softmax(x / self.temperature, dim=dim) for x in (student, teacher))
        return self.temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=dim)


@torch.no_grad()
def edge_masks(targets: Tensor, classes: int, radius: int, size: tuple[int, int]) -> Tensor:
    """M of the class for masks [N, H, W]: float32 [N, K, *size].

    Image by image, because a mask of each class takes as many bytes as four times the pixels of the batch and K.
    """
    return torch.stack([_edges(target, classes, radius, size) for target in targets])


def _edges(target: Tensor, classes: int, radius: int, size: tuple[int, int]) -> Tensor:
    """M of one image [H, W]: [K, *size]."""
    members = (target == torch.arange(classes, device=target.device)[:, None, None]).float()
    grown, shrunk = _largest(members, radius), -_largest(-members, radius)
    return F.adaptive_avg_pool2d((grown - shrunk) * (target != IGNORE_INDEX), size)


def _largest(maps: Tensor, radius: int) -> Tensor:
    """The largest value in the square of 2 radius + 1 pixels around each one, within the image: [K, H, W]."""
    side = 2 * radius + 1
    rows = F.max_pool2d(maps, (side, 1), stride=1, padding=(radius, 0))
    return F.max_pool2d(rows, (1, side), stride=1, padding=(0, radius))
