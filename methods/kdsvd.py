"""KDSVD: knowledge distillation by singular value decomposition."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import stage_channels

CANDIDATES = 4
"""Singular vectors of the student among which the one is chosen that is compared."""

WIDTH = 8.0
"""Divides the squared differences of the radial basis functions."""


class KDSVD(Method):
    """How the main singular vector of a stage differs from that of the stage before, entry by entry.

        M = the map of an image and stage as a matrix;  v(teacher) its first right singular vector
        v(student) = of its first 4 right singular vectors the one with the largest absolute cosine to v(teacher), with
        the sign of that cosine
        R_ab = exp(-(v_a[stage] - v_b[stage - 1])^2 / 8), for every pair of entries of two neighboring stages' vectors
        loss = weight * sum over stages, pairs and images of (R(student) - R(teacher))^2 / N

    The choice of the vector has no gradient. The gradient of a singular vector is the larger the closer its singular
    value is to another; where two are equal, it leaves their part out (our choice: there is none). The largest entry of
    a teacher's vector is positive: our choice, since its sign depends on the library, and equal to the released values
    on maps without negative entries.

    Args:
        setting: the run's shapes; both networks must have the same number of stages, and two at least.
        weight: factor on the sum.
        vectors: "width" unfolds a map [C, H, W] to [C * H, W], as mdistiller does, so that vectors run over the width,
            which must be equal. "channels" unfolds it to [H * W, C], as RepDistiller does, so that the channels of each
            stage must be equal.
    """

    name = "kdsvd"
    citation = (
        "S. H. Lee, D. H. Kim, B. C. Song. Self-supervised knowledge distillation using singular value decomposition. "
        "ECCV 2018. The code of https://github.com/megvii-research/mdistiller and "
        "https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 1.0, vectors: str = "width") -> None:
        super().__init__(setting)
        if vectors not in ("width", "channels"):
            raise MethodError(f"kdsvd: vectors is {vectors!r}; use 'width' or 'channels'")
        channels = stage_channels(self.name, setting)
        if len(channels) < 2:
            raise MethodError("kdsvd: the networks have one stage, and neighboring stages are compared")
        if vectors == "channels" and any(s != t for s, t in channels):
            raise MethodError(
                f"kdsvd: vectors is 'channels' and the channels of student and teacher are {channels}; they must be "
                "equal at every stage, or vectors 'width'"
            )
        self.weight, self.over_width = weight, vectors == "width"

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        stages = list(self._vectors(student, teacher))
        losses = [
            (_relations(s, s_before) - _relations(t, t_before)).square().sum()
            for (s_before, t_before), (s, t) in pairwise(stages)
        ]
        return {self.name: self.weight * torch.stack(losses).sum() / len(batch.inputs)}

    def _vectors(self, student: Outputs, teacher: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
        """The compared vectors of student and teacher at every stage, [N, L] each."""
        for s_map, t_map in zip(student.features[1:], teacher.features[1:], strict=True):
            s, t = self._matrix(s_map), self._matrix(t_map.detach())
            if s.shape[2] != t.shape[2]:
                raise MethodError(
                    f"kdsvd: a stage's maps have width {s.shape[2]} in the student and {t.shape[2]} in the teacher; "
                    "choose networks whose stages have equal widths"
                )
            t_vector = _positive(_right_vectors(t)[0][:, 0])
            yield _chosen(s, t_vector), t_vector

    def _matrix(self, features: Tensor) -> Tensor:
        """The matrix of each image: [N, C, H, W] -> [N, C * H, W] or [N, H * W, C]."""
        return features.flatten(1, 2) if self.over_width else features.flatten(2).transpose(1, 2)


def _right_vectors(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Right singular vectors and squared singular values, the largest first: [N, R, L] -> [N, L, L], [N, L].

    They are the eigenvectors of M^T M: its decomposition takes a small part of the time of M's.

    Raises:
        FloatingPointError: there are none, because a value or a square is not finite.
    """
    try:
        squares, vectors = torch.linalg.eigh(matrices.detach().transpose(1, 2) @ matrices.detach())
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise FloatingPointError("kdsvd: a stage's map, or its square, is NaN or infinite") from error
    return vectors.flip(2).transpose(1, 2), squares.flip(1)


def _positive(vectors: Tensor) -> Tensor:
    """The vectors [N, L], each with the sign that makes its largest entry positive."""
    return vectors * vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()


def _chosen(matrices: Tensor, target: Tensor) -> Tensor:
    """The right singular vector that is compared with the target: [N, R, L], [N, L] -> [N, L].

    A change D of M^T M changes its eigenvector v_i by the sum over j of v_j (v_j D v_i) / (square_i - square_j), which
    gives the gradient; terms with equal squares are left out.
    """
    vectors, squares = _right_vectors(matrices)
    candidates = vectors[:, : min(CANDIDATES, *matrices.shape[1:])]
    cosines = (candidates @ target[:, :, None])[:, :, 0]
    best = cosines.abs().argmax(dim=1, keepdim=True)
    vector = candidates.gather(1, best[:, :, None].expand(-1, -1, candidates.shape[2]))[:, 0]
    gaps = squares.gather(1, best) - squares
    product = matrices.transpose(1, 2) @ (matrices @ vector[:, :, None])
    change = (torch.where(gaps == 0, 0, 1 / gaps)[:, None] @ (vectors * (vectors @ product)))[:, 0]
    return (vector + change - change.detach()) * cosines.gather(1, best).sign()


def _relations(vectors: Tensor, before: Tensor) -> Tensor:
    """R of two stages' vectors: [N, L], [N, L'] -> [N, L, L']."""
    return (-(vectors[:, :, None] - before[:, None]).square() / WIDTH).exp()
