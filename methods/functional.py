"""What several methods share: pairing the student's tensors with the teacher's, soft targets, attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .base import Batch, MethodError, Outputs, Setting


def target(name: str, student: Tensor, teacher: Tensor, what: str) -> Tensor:
    """The teacher's tensor as a target for the student's: of the same shape, without gradient.

    Raises:
        MethodError: the shapes differ (torch would broadcast some of them in silence).
    """
    if student.shape != teacher.shape:
        raise MethodError(
            f"{name}: the student's {what} have shape {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}; "
            "choose a teacher and a student of the same family, with the same head"
        )
    return teacher.detach()


def level_pairs(
    name: str, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], what: str
) -> list[tuple[Tensor, Tensor]]:
    """Student and teacher tensors of every pyramid level, checked by `target`.

    Raises:
        MethodError: there are no levels, their number differs, or a pair's shapes do.
    """
    if not student or len(student) != len(teacher):
        raise MethodError(
            f"{name}: the student shows {len(student)} levels of {what} and the teacher {len(teacher)}; "
            "both must show the same number, and at least one"
        )
    return [(s, target(name, s, t, what)) for s, t in zip(student, teacher, strict=True)]


def roi_pair(name: str, key: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """`extra[key]` of two detectors whose RoI heads read the same proposals, so that row i is one box in both.

    Raises:
        MethodError: the teacher does not show `key`, or the number of rows or columns differs.
    """
    own, other = student.extra[key], teacher.extra.get(key)
    if not isinstance(own, Tensor) or not isinstance(other, Tensor):
        raise MethodError(f"{name}: the student shows {key} and the teacher does not; both must be two-stage detectors")
    if own.shape[0] != other.shape[0]:
        raise MethodError(
            f"{name}: {own.shape[0]} student rows and {other.shape[0]} teacher rows of {key}; "
            "the teacher's RoI head must read the student's proposals"
        )
    return own, target(name, own, other, key)


def logits_pair(name: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The logits of a classifier [N, K] or a segmenter [N, K, h, w], checked by `target`.

    Raises:
        MethodError: the networks are detectors, or the shapes differ.
    """
    own, other = student.logits, teacher.logits
    if not (isinstance(own, Tensor) and isinstance(other, Tensor)):
        raise MethodError(f"{name}: a network shows one map of logits a level; it needs one tensor of logits each")
    return own, target(name, own, other, "logits")


def pooled_pair(name: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """What the two classifiers read, [N, D_s] and [N, D_t]; the teacher's without gradient.

    Raises:
        MethodError: a network shows no pooled feature.
    """
    if student.pooled is None or teacher.pooled is None:
        who = "student" if student.pooled is None else "teacher"
        raise MethodError(
            f"{name}: the {who} shows no pooled feature; choose a network that pools before it classifies"
        )
    return student.pooled, teacher.pooled.detach()


def head_pair(name: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The maps that two segmenters' classifiers read, [N, C_s, h, w] and [N, C_t, h, w]; the teacher's has no gradient.

    Raises:
        MethodError: their sizes differ.
    """
    own, other = student.features[-1], teacher.features[-1]
    if own.shape[2:] != other.shape[2:]:
        sizes = ["x".join(map(str, feature.shape[2:])) for feature in (own, other)]
        raise MethodError(
            f"{name}: the student's last feature is {sizes[0]} and the teacher's {sizes[1]}, and their positions are "
            "compared; choose a teacher and a student of one output stride"
        )
    return own, other.detach()


def labels_at(name: str, batch: Batch, size: tuple[int, ...]) -> Tensor:
    """The class at every position of a map of `size` (h, w), by nearest neighbour: int64 [N, h, w], VOID included.

    Raises:
        MethodError: the targets are no masks [N, H, W].
    """
    targets = batch.targets
    if not isinstance(targets, Tensor) or targets.ndim != 3:
        raise MethodError(f"{name}: the targets are no masks [N, H, W] of classes, which it reads")
    return F.interpolate(targets[:, None].float(), size, mode="nearest")[:, 0].long()


def check_stages(name: str, setting: Setting) -> list[tuple[int, int]]:
    """Channels of student and teacher at every stage, the stem left out.

    Raises:
        MethodError: there are no stages, or their number differs.
    """
    student, teacher = setting.student.channels[1:], setting.teacher.channels[1:]
    if not student or len(student) != len(teacher):
        raise MethodError(
            f"{name}: the student shows {len(student)} stages after its stem and the teacher {len(teacher)}; "
            "choose a teacher and a student with the same number, and at least one"
        )
    return list(zip(student, teacher, strict=True))


def match_sizes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [N, C, H, W] in the smaller's height and width: the larger is pooled to it by adaptive averages."""
    smaller = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])

    def pooled(features: Tensor) -> Tensor:
        return features if features.shape[2:] == smaller else F.adaptive_avg_pool2d(features, smaller)

    return pooled(student), pooled(teacher)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL(softmax(teacher / temperature) || softmax(student / temperature)), mean over rows.

    [N, K], a row an image, or [N, K, h, w], a row a pixel. The gradient flows to `student_logits` alone.
    """
    log_p = F.log_softmax(student_logits / temperature, dim=1)
    # The entropy of the target cancels almost all at high temperature; its log-probabilities would round worse.
    q = F.softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, q, reduction="none").sum(dim=1).mean()


def attention_map(features: Tensor, p: float = 2) -> Tensor:
    """Mean over channels of |features|^p, as a unit vector over space: [N, C, H, W] -> [N, H*W]; 0 where all is 0."""
    return F.normalize(features.abs().pow(p).mean(dim=1).flatten(1), dim=1)
