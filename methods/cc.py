"""CC: correlation congruence for knowledge distillation."""

from __future__ import annotations

from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import pooled_pair


class CC(Method):
    """Correlation of the embedding differences between student and teacher of neighboring images in the batch.

        delta_n = |E_s(S_n) - E_t(T_n)|                      [N, embed_dim]
        loss = weight * mean_n <delta_n, delta_{n+1}>        over the N - 1 pairs of neighbors

    S [N, D_s], T [N, D_t], the pooled features; E_s and E_t are linear layers that both train with the student, as
    released. This is the loss of RepDistiller, which obtained it from the paper's authors, and that of its tables; the
    paper's formula compares kernel matrices. The loss of a single image is 0.

    Args:
        setting: the run's shapes.
        weight: factor on the loss.
        embed_dim: length of the embeddings; 128 in RepDistiller's script.
    """

    name = "cc"
    citation = (
        "B. Peng, X. Jin, J. Liu, D. Li, Y. Wu, Y. Liu, S. Zhou, Z. Zhang. Correlation congruence for knowledge "
        "distillation. ICCV 2019. As in https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 0.02, embed_dim: int = 128) -> None:
        super().__init__(setting)
        dims = setting.student.pooled_dim, setting.teacher.pooled_dim
        if dims[0] is None or dims[1] is None:
            raise MethodError(
                f"cc: pooled_dim is {dims[0]} for the student and {dims[1]} for the teacher; "
                "choose networks that pool before they classify"
            )
        if embed_dim < 1:
            raise MethodError(f"cc: embed_dim is {embed_dim}; it must be at least 1")
        self.weight = weight
        self.embed_student = nn.Linear(dims[0], embed_dim)
        self.embed_teacher = nn.Linear(dims[1], embed_dim)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = pooled_pair(self.name, student, teacher)
        return {self.name: self.weight * congruence(self.embed_student(s), self.embed_teacher(t))}


def congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """The unweighted loss of two embeddings [N, D]."""
    delta = (student - teacher).abs()
    return (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)
