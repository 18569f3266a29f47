"""Functions shared by methods: pairs of student and teacher tensors, soft targets, attention maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, MethodError, NetworkInfo, Outputs, Setting


def target(name: str, student: Tensor, teacher: Tensor, what: str) -> Tensor:
    """The teacher's tensor as a target for the student's: of the same shape, without gradient.

    Raises:
        MethodError: the shapes differ (torch would broadcast some of them silently).
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
            f"{name}: the student has {len(student)} levels of {what} and the teacher {len(teacher)}; "
            "both must have the same number, and at least one"
        )
    return [(s, target(name, s, t, what)) for s, t in zip(student, teacher, strict=True)]


def roi_pair(name: str, key: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """`extra[key]` of two detectors whose RoI heads read the same proposals, so that row i is one box in both.

    Raises:
        MethodError: the teacher does not output `key`, or the number of rows or columns differs.
    """
    student_rows, teacher_rows = student.extra[key], teacher.extra.get(key)
    if not isinstance(student_rows, Tensor) or not isinstance(teacher_rows, Tensor):
        raise MethodError(f"{name}: the student outputs {key}, the teacher does not; both must be two-stage detectors")
    if student_rows.shape[0] != teacher_rows.shape[0]:
        raise MethodError(
            f"{name}: {student_rows.shape[0]} student rows and {teacher_rows.shape[0]} teacher rows of {key}; "
            "the teacher's RoI head must read the student's proposals"
        )
    return student_rows, target(name, student_rows, teacher_rows, key)


def logits_pair(name: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The logits of a classifier [N, K] or a segmenter [N, K, h, w], checked by `target`.

    Raises:
        MethodError: the networks are detectors, or the shapes differ.
    """
    if not (isinstance(student.logits, Tensor) and isinstance(teacher.logits, Tensor)):
        raise MethodError(f"{name}: a network has one map of logits per level; both must have one tensor of logits")
    return student.logits, target(name, student.logits, teacher.logits, "logits")


def pooled_pair(name: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The pooled features of two classifiers, [N, D_s] and [N, D_t]; the teacher's without gradient.

    Raises:
        MethodError: a network has no pooled feature.
    """
    if student.pooled is None or teacher.pooled is None:
        who = "student" if student.pooled is None else "teacher"
        raise MethodError(f"{name}: the {who} has no pooled feature; choose a network that pools before it classifies")
    return student.pooled, teacher.pooled.detach()


def last_maps(name: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The maps that two classifiers pool, [N, C_s, h, w] and [N, C_t, h', w']; the teacher's without gradient.

    Raises:
        MethodError: a network's pooled feature is no mean over a map.
    """
    return last_map(name, student, "student"), last_map(name, teacher, "teacher").detach()


def last_map(name: str, outputs: Outputs, who: str) -> Tensor:
    """The map that a classifier pools, [N, D, h, w].

    Raises:
        MethodError: its pooled feature is no mean over a map.
    """
    found = outputs.extra.get("last_map")
    if not isinstance(found, Tensor):
        raise MethodError(
            f"{name}: it reads the map whose mean over space the classifier reads, and the {who} has none (a ViT "
            "classifies a token, others normalize or transform after pooling); choose another network"
        )
    return found


def classifier_of(name: str, info: NetworkInfo, who: str) -> nn.Linear:
    """The final linear layer of a network.

    Raises:
        MethodError: it has none that is known.
    """
    if not isinstance(info.classifier, nn.Linear):
        raise MethodError(f"{name}: it needs the {who}'s final linear layer, which is unknown; choose another network")
    return info.classifier


def head_pair(name: str, student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The maps before the classifiers of two segmenters, [N, C_s, h, w] and [N, C_t, h, w]; the teacher's detached.

    Raises:
        MethodError: their sizes differ.
    """
    student_map, teacher_map = student.features[-1], teacher.features[-1]
    if student_map.shape[2:] != teacher_map.shape[2:]:
        sizes = ["x".join(map(str, feature.shape[2:])) for feature in (student_map, teacher_map)]
        raise MethodError(
            f"{name}: the student's last feature is {sizes[0]} and the teacher's {sizes[1]}, and their positions are "
            "compared; choose a teacher and a student of one output stride"
        )
    return student_map, teacher_map.detach()


def labels_at(name: str, batch: Batch, size: tuple[int, ...]) -> Tensor:
    """Masks resized to `size` (h, w) by nearest neighbor: class indices and IGNORE_INDEX, int64 [N, h, w].

    Raises:
        MethodError: the targets are not masks [N, H, W].
    """
    targets = batch.targets
    if not isinstance(targets, Tensor) or targets.ndim != 3:
        raise MethodError(f"{name}: the targets must be masks [N, H, W] of class indices")
    return F.interpolate(targets[:, None].float(), size, mode="nearest")[:, 0].long()


def pre_activations(outputs: Outputs) -> tuple[Tensor, ...]:
    """The stages before their last ReLU, [N, C, h, w] each; empty if the network does not output them."""
    maps = outputs.extra.get("pre_activations", ())
    return maps if isinstance(maps, tuple) else (maps,)


def stage_channels(name: str, setting: Setting) -> list[tuple[int, int]]:
    """Channels of student and teacher at every stage, without the stem.

    Raises:
        MethodError: there are no stages, or their number differs.
    """
    student, teacher = setting.student.channels[1:], setting.teacher.channels[1:]
    if not student or len(student) != len(teacher):
        raise MethodError(
            f"{name}: the student has {len(student)} stages after its stem and the teacher {len(teacher)}; "
            "choose a teacher and a student with the same number, and at least one"
        )
    return list(zip(student, teacher, strict=True))


def match_sizes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [N, C, H, W] at the smaller height and width; the larger is reduced by adaptive average pooling."""
    smaller = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])

    def pooled(features: Tensor) -> Tensor:
        return features if features.shape[2:] == smaller else F.adaptive_avg_pool2d(features, smaller)

    return pooled(student), pooled(teacher)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """temperature^2 * KL(softmax(teacher / temperature) || softmax(student / temperature)), mean over rows.

    Logits are [N, K] (a row is an image) or [N, K, h, w] (a row is a pixel). Only `student_logits` get a gradient.
    """
    log_p = F.log_softmax(student_logits / temperature, dim=1)
    # At high temperature the entropy of the target cancels nearly all; log-probabilities as targets would round worse.
    q = F.softmax(teacher_logits.detach() / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, q, reduction="none").sum(dim=1).mean()


def attention_map(features: Tensor, p: float = 2) -> Tensor:
    """Mean over channels of |features|^p, as a unit vector over space (or 0): [N, C, H, W] -> [N, H*W]."""
    return F.normalize(features.abs().pow(p).mean(dim=1).flatten(1), dim=1)


def warmup(epoch: float, epochs: int, like: Tensor) -> Tensor | float:
    """min(e / epochs, 1) in the e-th epoch, counted from 1, as a scalar in the type of `like`; 1 without a warm-up.

    Args:
        epoch: `Method.epoch`.
        epochs: of the warm-up; 0 for none.
        like: on the device of the loss.
    """
    return like.new_full((), min((int(epoch) + 1) / epochs, 1.0)) if epochs else 1.0
