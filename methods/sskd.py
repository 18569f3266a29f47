"""SSKD: knowledge distillation meets self-supervision."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._logits import class_labels, kl_of_rows, require_positive
from .base import Batch, Method, MethodError, Outputs, Setting, Teacher
from .functional import kl_divergence, logits_pair, pooled_pair

ROTATED = ("rotated_90", "rotated_180", "rotated_270")
WEIGHT_DECAY, MOMENTUM = 5e-4, 0.9
"""Of the optimizer of `prepare`."""


class SSKD(Method):
    """Soft targets of each image and of three rotations, and the similarities of rotations and images.

        c[a, b] = cosine(head(pooled of rotation a), head(pooled of image b)), [3 N, N]
        kd = kd_weight * KL_T of the images;  rotated = rotated_weight * KL_T of kept rotations
        similarity = weight * KL_U of kept rows of c
        KL_T = T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over rows

    Rows are ordered by the rank that the teacher gives to the right answer: the label of a rotation, the own image of a
    row of c. All whose answer is right are kept, and of the others the first `ratio`, rounded down. Rows of one rank
    stay in the order of the batch (our choice; the released sort is not stable). heads: Linear, ReLU, Linear of the
    pooled vector, whose width they keep; the student's trains with it and is not saved. The student sees all four
    rotations in one forward. In `prepare` the teacher's head learns to find the own image: cross-entropy of c, SGD
    with momentum 0.9, the learning rate divided by 10 after 1/2 and 3/4 of the epochs. The images of a micro-batch or
    process are compared with each other alone.

    Args:
        setting: the run's shapes; needs pooled features and steps_per_epoch.
        weight: factor on `similarity`.
        kd_weight: factor on `kd`.
        rotated_weight: factor on `rotated`.
        task_weight: factor on the task loss, which is of images that are not rotated.
        temperature: T.
        similarity_temperature: U.
        rotated_ratio: share of the rotations that the teacher gets wrong and that are kept.
        similarity_ratio: likewise of the rows of c.
        module_epochs: epochs of `prepare`; with 0 the teacher's head keeps its random initial weights.
        module_lr: learning rate of `prepare`.
    """

    name = "sskd"
    citation = (
        "G. Xu, Z. Liu, X. Li, C. C. Loy. Knowledge distillation meets self-supervision. ECCV 2020. "
        "https://github.com/xuguodong03/SSKD"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
    one_class_per_image = True
    views = ROTATED
    joint_views = True
    prepared_prefixes = ("head_t.",)

    def __init__(
        self,
        setting: Setting,
        weight: float = 10.0,
        kd_weight: float = 0.9,
        rotated_weight: float = 2.7,
        task_weight: float = 0.1,
        temperature: float = 4.0,
        similarity_temperature: float = 0.5,
        rotated_ratio: float = 1.0,
        similarity_ratio: float = 0.75,
        module_epochs: int = 60,
        module_lr: float = 0.05,
    ) -> None:
        super().__init__(setting)
        require_positive(
            self.name, temperature=temperature, similarity_temperature=similarity_temperature, module_lr=module_lr
        )
        for option, ratio in (("rotated_ratio", rotated_ratio), ("similarity_ratio", similarity_ratio)):
            if not 0 <= ratio <= 1:
                raise MethodError(f"sskd: {option} is {ratio}; it must be from 0 to 1")
        if module_epochs < 0:
            raise MethodError(f"sskd: module_epochs is {module_epochs}; it must be at least 0")
        if module_epochs and not setting.steps_per_epoch:
            raise MethodError("sskd: module_epochs needs Setting.steps_per_epoch; pass it, or set module_epochs: 0")
        widths = setting.student.pooled_dim, setting.teacher.pooled_dim
        if widths[0] is None or widths[1] is None:
            raise MethodError("sskd: it needs pooled features, and the pooled_dim of a network is unknown")
        self.weight, self.kd_weight, self.rotated_weight = weight, kd_weight, rotated_weight
        self.task_weight, self.temperature, self.similarity_temperature = (
            task_weight,
            temperature,
            similarity_temperature,
        )
        self.rotated_ratio, self.similarity_ratio = rotated_ratio, similarity_ratio
        self.module_epochs, self.module_lr = module_epochs, module_lr
        self.head_s, self.head_t = _head(widths[0]), _head(widths[1]).requires_grad_(False)

    @property
    def preparation_key(self) -> str:
        return f"sskd {self.module_epochs} epochs lr {self.module_lr}"

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        """Train the teacher's head from scratch; the teacher stays as it is."""
        for layer in self.head_t.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        if not self.module_epochs:
            return
        self.head_t.requires_grad_(True)
        optimizer = torch.optim.SGD(self.head_t.parameters(), self.module_lr, MOMENTUM, weight_decay=WEIGHT_DECAY)
        steps = self.module_epochs * (self.setting.steps_per_epoch or 0)
        for step, batch in zip(range(steps), batches, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = self.module_lr * 0.1 ** ((step >= steps / 2) + (step >= steps * 3 / 4))
            with torch.no_grad():
                views = {name: teacher(batch.views[name].teacher_inputs).float() for name in ROTATED}
                outputs = teacher(batch.teacher_inputs).float()
            outputs.views = views
            optimizer.zero_grad()
            self.head_loss(outputs).backward()
            optimizer.step()
        optimizer.zero_grad()
        self.head_t.requires_grad_(False)

    def head_loss(self, teacher: Outputs) -> Tensor:
        """What `prepare` minimizes: the cross-entropy of finding the image that each rotation was made of."""
        pooled, rotated = _pooled(self.name, teacher)
        similarities = _similarities(self.head_t, pooled, rotated)
        return F.cross_entropy(similarities, _images(similarities))

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `kd`, `rotated` and `similarity`; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        labels = class_labels(self.name, batch, s).repeat_interleave(len(ROTATED))
        rotated_s, rotated_t = (_rotated_logits(self.name, each) for each in (student, teacher))
        c_s = _similarities(self.head_s, *_pooled(self.name, student))
        c_t = _similarities(self.head_t, *_pooled(self.name, teacher))
        rotated = self._kept(rotated_s, rotated_t, labels, self.temperature, self.rotated_ratio)
        similarity = self._kept(c_s, c_t, _images(c_t), self.similarity_temperature, self.similarity_ratio)
        return {
            "kd": self.kd_weight * kl_divergence(s, t, self.temperature),
            "rotated": self.rotated_weight * rotated,
            "similarity": self.weight * similarity,
        }

    def _kept(self, s: Tensor, t: Tensor, answers: Tensor, temperature: float, ratio: float) -> Tensor:
        """T^2 KL of rows [R, K], mean over those that are kept."""
        kept = kept_rows(t, answers, ratio)
        losses = temperature**2 * kl_of_rows(s / temperature, t / temperature)
        return torch.where(kept, losses, 0.0).sum() / kept.sum().clamp(min=1)


def kept_rows(scores: Tensor, answers: Tensor, ratio: float) -> Tensor:
    """Which rows of scores [R, K] are kept, by the rank of the right answer [R] in each: bool [R]."""
    ranks = (scores > scores.gather(1, answers[:, None])).sum(dim=1)
    right = (ranks == 0).sum()
    count = right + ((len(ranks) - right).double() * ratio).floor()
    places = ranks.argsort(stable=True).argsort()
    return places < count


def _pooled(name: str, outputs: Outputs) -> tuple[Tensor, Tensor]:
    """The pooled features of the images [N, D] and of their rotations [3 N, D]."""
    views = [outputs, *(outputs.views[view] for view in ROTATED)]
    pooled, *rotated = (pooled_pair(name, view, view)[0] for view in views)
    return pooled, _by_image(rotated)


def _rotated_logits(name: str, outputs: Outputs) -> Tensor:
    return _by_image([logits_pair(name, outputs.views[view], outputs.views[view])[0] for view in ROTATED])


def _by_image(rotated: list[Tensor]) -> Tensor:
    """[N, D] of each rotation -> [3 N, D], the rotations of an image one after the other."""
    return torch.stack(rotated, dim=1).flatten(0, 1)


def _similarities(head: nn.Module, pooled: Tensor, rotated: Tensor) -> Tensor:
    """Cosines of the heads' outputs, [3 N, N]."""
    return F.normalize(head(rotated), dim=1) @ F.normalize(head(pooled), dim=1).T


def _images(similarities: Tensor) -> Tensor:
    """The own image of each rotation, [3 N]."""
    return torch.arange(similarities.shape[1], device=similarities.device).repeat_interleave(len(ROTATED))


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
