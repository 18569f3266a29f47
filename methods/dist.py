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
    """Pearson correlation of matching rows, [R, D] x [R, D] -> [R]; 0 for a row without variance."""
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

    Rows and columns of the logits:
        classification: [N, C], images and classes.
        segmentation: [N, C, h, w] raw logits, pixels and classes; plus aux_weight times the same loss on
            `extra["aux_logits"]` if both networks output them.
        dense detectors: per level [N, A*K, H, W], locations and classes of anchors; losses summed over levels; sigmoid.
            Concatenating the levels would divide the loss by about their number.
        two-stage detectors: `extra["roi_logits"]` [sum R_i, K + 1], RoIs and classes, including the background.

    intra_class depends on the images of a batch; on several devices the paper's loss is that of one device's images.
    With a single row the columns have no variance: intra_class is 1 and has no gradient.

    Args:
        setting: the run's shapes.
        weight: factor on the loss (2 in the classification tables, 1 elsewhere).
        beta: factor on the inter-class part.
        gamma: factor on the intra-class part.
        tau: temperature (4 on CIFAR-100).
        tau_squared: multiply by tau^2, as released; the paper's appendix has no such factor.
        chunk: images per chunk, the paper's batch on one device; the loss is the mean over chunks. RoIs are
            assigned to images by the number of proposals. None: one chunk.
        activation: "softmax" or "sigmoid"; None is the paper's: sigmoid for dense detectors, else softmax.
        ignore_index: segmentation only: exclude pixels whose target, resized to the logits by nearest neighbor, is this
            value (IGNORE_INDEX, 255). None, as released, includes all.
        aux_weight: segmentation only: factor on the loss of the auxiliary head.
    """

    name = "dist"
    citation = (
        "T. Huang, S. You, F. Wang, C. Qian, C. Xu. Knowledge distillation from a stronger teacher. NeurIPS 2022. "
        "https://github.com/hunto/DIST_KD"
    )
    tasks = frozenset({"classification", "detection", "segmentation"})
    min_classes = 2

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
            raise MethodError(f"dist: ignore_index has no effect in {setting.task}; set it to null")
        self.weight, self.beta, self.gamma, self.tau = weight, beta, gamma, tau
        self.factor = tau**2 if tau_squared else 1.0
        self.chunk, self.activation, self.ignore_index, self.aux_weight = chunk, activation, ignore_index, aux_weight

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        if "roi_logits" in student.extra:
            total = self._rois(student, teacher)
        elif isinstance(student.logits, tuple):
            teacher_levels = teacher.logits if isinstance(teacher.logits, tuple) else ()
            pairs = level_pairs(self.name, student.logits, teacher_levels, "class logits")
            total = torch.stack([self._maps(s, t, None, "sigmoid") for s, t in pairs]).sum()
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
        """The loss of [N, C] or [N, C, h, w] logits, in chunks of images."""
        if not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
            raise MethodError(
                "dist: one network has a single map of logits and the other several; choose the same family"
            )
        teacher = target(self.name, student, teacher, "logits")
        size = self.chunk or max(len(student), 1)
        students = [_rows(chunk) for chunk in torch.split(student, size)]
        teachers = [_rows(chunk) for chunk in torch.split(teacher, size)]
        if self.ignore_index is not None and batch is not None:
            labels = labels_at(self.name, batch, student.shape[2:])
            masks = [chunk.flatten() for chunk in torch.split(labels != self.ignore_index, size)]
            students = [rows[mask] for rows, mask in zip(students, masks, strict=True)]
            teachers = [rows[mask] for rows, mask in zip(teachers, masks, strict=True)]
        return self._mean(students, teachers, activation)

    def _rois(self, student: Outputs, teacher: Outputs) -> Tensor:
        s, t = roi_pair(self.name, "roi_logits", student, teacher)
        sizes = [len(s)]
        if self.chunk is not None:
            counts = [len(boxes) for boxes in student.extra.get("proposals", ())]
            if sum(counts) != len(s):
                raise MethodError(f"dist: chunk needs the proposals; the student has {sum(counts)} for {len(s)} RoIs")
            sizes = [sum(counts[start : start + self.chunk]) for start in range(0, len(counts), self.chunk)]
        return self._mean(torch.split(s, sizes), torch.split(t, sizes), "softmax")

    def _mean(self, students: Sequence[Tensor], teachers: Sequence[Tensor], activation: str) -> Tensor:
        """Mean over chunks of [rows, C] logits, without empty chunks."""
        losses = []
        for s, t in zip(students, teachers, strict=True):
            if len(s):
                ys, yt = self._activate(s, activation), self._activate(t, activation)
                losses.append(self.beta * inter_class(ys, yt) + self.gamma * intra_class(ys, yt))
        if not losses:
            return 0.0 * torch.cat(list(students)).sum()
        return self.factor * torch.stack(losses).mean()

    def _activate(self, rows: Tensor, activation: str) -> Tensor:
        scaled = rows / self.tau
        return scaled.sigmoid() if (self.activation or activation) == "sigmoid" else scaled.softmax(dim=1)


def _rows(logits: Tensor) -> Tensor:
    """[N, C] unchanged; [N, C, h, w] -> [N*h*w, C]."""
    return logits if logits.ndim == 2 else logits.permute(0, 2, 3, 1).flatten(0, 2)
