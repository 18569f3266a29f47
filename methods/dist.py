"""DIST: distillation from a stronger teacher by matching relations, not values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import labels_at, level_pairs, roi_pair, target

EPS = 1e-8
"""Added to the product of the two norms (not a clamp, not inside the root), as released."""


def correlation(u: Tensor, v: Tensor) -> Tensor:
    """Pearson correlation of matching rows, [R, D] x [R, D] -> [R]; 0 for a row of no variance."""
    u = u - u.mean(dim=1, keepdim=True)
    v = v - v.mean(dim=1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(u, dim=1) * torch.linalg.vector_norm(v, dim=1)
    return (u * v).sum(dim=1) / (norms + EPS)


def inter_class(ys: Tensor, yt: Tensor) -> Tensor:
    """1 - mean over instances of the correlation across classes; `ys` and `yt` are [B, C] predictions."""
    return 1 - correlation(ys, yt).mean()


def intra_class(ys: Tensor, yt: Tensor) -> Tensor:
    """1 - mean over classes of the correlation across instances; `ys` and `yt` are [B, C] predictions."""
    return inter_class(ys.T, yt.T)


class DIST(Method):
    """weight * tau^2 * (beta * inter_class + gamma * intra_class) of activation(logits / tau).

    What a row and a column are:
        classification: [N, C], an image and a class.
        segmentation: [N, C, h, w] raw logits, a pixel and a class; plus aux_weight times the same loss on
            `extra["aux_logits"]` where both networks show them.
        dense detectors: per level [N, A*K, H, W], a location and an anchor's class; a loss a level, summed, sigmoid.
            Joining the levels into one matrix would divide the loss by about the number of levels.
        two-stage detectors: `extra["roi_logits"]` [sum R_i, K + 1], an RoI and a class, background included.

    Columns depend on which images are seen together, so on several devices the paper's loss is that of one device's
    images. A single row has no variance down its columns: intra_class is then 1 and has no gradient.

    Args:
        setting: the run's shapes.
        weight: factor on all of it (2 in the classification tables, 1 elsewhere).
        beta: factor on the inter-class part.
        gamma: factor on the intra-class part.
        tau: temperature (4 on CIFAR-100).
        tau_squared: multiply by tau^2, as released; the paper's appendix has no such factor.
        chunk: images per chunk, the paper's batch on one device; the loss is the mean over chunks. Rows of [N, C],
            pixels and locations go with their image; RoIs by the number of proposals of each image. None: one chunk.
        activation: "softmax" or "sigmoid"; None is the paper's choice, sigmoid for dense detectors, else softmax.
        ignore_index: segmentation only: leave out pixels whose target, resized to the logits by nearest neighbour,
            equals it (void pixels: 255). None, as released, keeps them all.
        aux_weight: segmentation only.
    """

    name = "dist"
    citation = (
        "T. Huang, S. You, F. Wang, C. Qian, C. Xu. Knowledge distillation from a stronger teacher. NeurIPS 2022. "
        "https://github.com/hunto/DIST_KD"
    )
    tasks = frozenset({"classification", "detection", "segmentation"})

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        tau: float = 1.0,
        tau_squared: bool = True,
        chunk: int | None = None,
        activation: str | None = None,
        ignore_index: int | None = None,
        aux_weight: float = 0.4,
    ) -> None:
        super().__init__(setting)
        if tau <= 0:
            raise MethodError(f"dist: tau is {tau}; it must be positive")
        if chunk is not None and chunk < 1:
            raise MethodError(f"dist: chunk is {chunk}; use a number of images or null")
        if activation not in (None, "softmax", "sigmoid"):
            raise MethodError(f"dist: activation is {activation!r}; use 'softmax', 'sigmoid' or null")
        if ignore_index is not None and setting.task != "segmentation":
            raise MethodError(f"dist: ignore_index has no meaning for {setting.task}; leave it null")
        self.weight, self.beta, self.gamma, self.tau = weight, beta, gamma, tau
        self.factor = tau**2 if tau_squared else 1.0
        self.chunk, self.activation, self.ignore_index, self.aux_weight = chunk, activation, ignore_index, aux_weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        if "roi_logits" in student.extra:
            total = self._rois(student, teacher)
        elif isinstance(student.logits, tuple):
            others = teacher.logits if isinstance(teacher.logits, tuple) else ()
            pairs = level_pairs(self.name, student.logits, others, "class logits")
            total = torch.stack([self._maps(own, other, None, "sigmoid") for own, other in pairs]).sum()
        else:
            total = self._maps(student.logits, teacher.logits, batch)
            if "aux_logits" in student.extra and "aux_logits" in teacher.extra:
                aux = self._maps(student.extra["aux_logits"], teacher.extra["aux_logits"], batch)
                total = total + self.aux_weight * aux
        return {self.name: self.weight * total}

    def _maps(
        self,
        student: Tensor | tuple[Tensor, ...],
        teacher: Tensor | tuple[Tensor, ...],
        batch: Batch | None,
        activation: str = "softmax",
    ) -> Tensor:
        """The loss of [N, C] or [N, C, h, w] logits, chunk by chunk of images."""
        if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
            raise MethodError("dist: one network shows one map of logits and the other several; choose the same family")
        teacher = target(self.name, student, teacher, "logits")
        size = self.chunk or max(len(student), 1)
        students = [_rows(part) for part in torch.split(student, size)]
        teachers = [_rows(part) for part in torch.split(teacher, size)]
        if self.ignore_index is not None and batch is not None:
            labels = labels_at(self.name, batch, student.shape[2:])
            keep = [part.flatten() for part in torch.split(labels != self.ignore_index, size)]
            students = [rows[kept] for rows, kept in zip(students, keep, strict=True)]
            teachers = [rows[kept] for rows, kept in zip(teachers, keep, strict=True)]
        return self._mean(students, teachers, activation)

    def _rois(self, student: Outputs, teacher: Outputs) -> Tensor:
        own, other = roi_pair(self.name, "roi_logits", student, teacher)
        sizes = [len(own)]
        if self.chunk is not None:
            counts = [len(boxes) for boxes in student.extra.get("proposals", ())]
            if sum(counts) != len(own):
                raise MethodError(f"dist: chunk needs each image's proposals; {sum(counts)} shown for {len(own)} RoIs")
            sizes = [sum(counts[start : start + self.chunk]) for start in range(0, len(counts), self.chunk)]
        return self._mean(torch.split(own, sizes), torch.split(other, sizes), "softmax")

    def _mean(self, students: Sequence[Tensor], teachers: Sequence[Tensor], activation: str) -> Tensor:
        """Mean over chunks of [rows, C] logits; chunks without rows do not count."""
        losses = []
        for own, other in zip(students, teachers, strict=True):
            if len(own):
                ys, yt = self._activate(own, activation), self._activate(other, activation)
                losses.append(self.beta * inter_class(ys, yt) + self.gamma * intra_class(ys, yt))
        if not losses:
            return 0.0 * torch.cat(list(students)).sum()
        return self.factor * torch.stack(losses).mean()

    def _activate(self, rows: Tensor, activation: str) -> Tensor:
        scaled = rows / self.tau
        return scaled.sigmoid() if (self.activation or activation) == "sigmoid" else scaled.softmax(dim=1)


def _rows(logits: Tensor) -> Tensor:
    """[N, C] as it is; [N, C, h, w] -> [N*h*w, C]."""
    return logits if logits.ndim == 2 else logits.permute(0, 2, 3, 1).flatten(0, 2)
