"""AKD: avatar knowledge distillation, a wrapper around a feature method."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, FeatureMethod, Method, MethodError, Outputs, Setting

BATCHNORM_EPS = 1e-5
FIGURE_EPS = 1e-2
"""Our choice: the variance is 0 where the teacher's feature is, about 0.11 T^2 elsewhere at drop_rate 0.1."""


class AKD(Method):
    """The base compares a perturbed teacher (an Avatar) with the student, both divided by an uncertainty.

        a = dropout(T, drop_rate), drawn anew for every level and forward (perturb)
        U(x)_c = (x_c - mean_{n,h,w} x_c) / sqrt(var_{n,h,w} x_c + 1e-5) (normalise)
        loss = base weight * sum over levels of mean over Avatars of base.compare(U(align(S)), U(a))

    S [N, C_s, H, W], T [N, C, H, W]. Both switches on is the released code; both off is the base alone. What a base
    computes beside its features (CWD on logits) stays as it is in all arms. The paper covers dense prediction, but
    code was released for detection alone: segmentation, where the base reads the map before the classifier, is our
    reading, and so is classification.

    Args:
        setting: the run's shapes.
        base: the wrapped method. Its weight and alignment are used.
        perturb: draw Avatars; False lets the base read T itself.
        normalise: divide by the uncertainty.
        drop_rate: share of the teacher's feature elements that an Avatar loses; the others are scaled up.
        avatars: Avatars a forward; the loss is their mean. Released: 1.
        cwd_raw_target: leave CWD's target un-normalised, as the released code does (the student's side is normalised).
        uncertainty: "batchnorm" (released) is U above: no parameters, and the batch's own statistics, separate for
            student and Avatar. "figure" is our reading of the paper's figure: student and Avatars are divided by one
            sigma^2[c,h,w] = mean over images and Avatars of (a - T)^2, plus 1e-2 (our choice; the paper has no eps).
        chunk: images that share U's statistics: the paper's per-GPU batch of 2; None takes the whole batch.
    """

    name = "akd"
    citation = (
        "Y. Zhang, W. Chen, Y. Lu, T. Huang, X. Sun, J. Cao. Avatar knowledge distillation: self-ensemble teacher "
        "paradigm with uncertainty. ACM MM 2023. https://github.com/Gumpest/AvatarKD"
    )
    tasks = frozenset({"classification", "detection", "segmentation"})
    wraps = ("cwd", "maskd", "masked_generative")

    def __init__(
        self,
        setting: Setting,
        base: FeatureMethod,
        perturb: bool = True,
        normalise: bool = True,
        drop_rate: float = 0.1,
        avatars: int = 1,
        cwd_raw_target: bool = False,
        uncertainty: str = "batchnorm",
        chunk: int | None = None,
    ) -> None:
        super().__init__(setting)
        self.name = f"akd+{base.name}"  # type: ignore[misc]
        self.tasks = type(self).tasks & base.tasks  # type: ignore[misc]
        if not 0 <= drop_rate < 1:
            raise MethodError(f"{self.name}: drop_rate is {drop_rate}; it must be at least 0 and below 1")
        if avatars < 1:
            raise MethodError(f"{self.name}: avatars is {avatars}; it must be at least 1")
        if cwd_raw_target and base.name != "cwd":
            raise MethodError(f"{self.name}: cwd_raw_target is an option of akd+cwd alone")
        if uncertainty not in ("batchnorm", "figure"):
            raise MethodError(f"{self.name}: uncertainty is {uncertainty!r}; use 'batchnorm' or 'figure'")
        if uncertainty == "figure" and normalise and not (perturb and drop_rate):
            raise MethodError(f"{self.name}: uncertainty 'figure' is 0 without Avatars; set perturb and drop_rate")
        if chunk is not None and chunk < 1:
            raise MethodError(f"{self.name}: chunk is {chunk}; it must be at least 1, or null for the whole batch")
        self.base, self.chunk = base, chunk
        self.perturb, self.normalise, self.drop_rate, self.avatars = perturb, normalise, drop_rate, avatars
        self.cwd_raw_target, self.uncertainty = cwd_raw_target, uncertainty

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term, named after wrapper and base, and the base's terms on anything but features."""
        levels = [
            self._level(self.base.aligned(student, level), feature.detach(), level)
            for level, feature in enumerate(self.base.maps(teacher.features))
        ]
        total = torch.stack(levels).sum()
        return {self.name: self.base.weight * total} | self.base.other_terms(student, teacher)

    def _level(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        avatars = self._avatars(teacher)
        targets = avatars
        if self.normalise and self.uncertainty == "figure":
            draws = torch.stack(avatars)
            divisor = (draws - teacher).square().mean(dim=(0, 1)) + FIGURE_EPS
            student, targets = student / divisor, [avatar / divisor for avatar in avatars]
        elif self.normalise:
            student, targets = self._batchnorm(student, level), [self._batchnorm(a, level) for a in avatars]
        if self.cwd_raw_target:
            targets = avatars
        return torch.stack([self.base.compare(student, goal, level) for goal in targets]).mean()

    def _avatars(self, teacher: Tensor) -> list[Tensor]:
        if not self.perturb:
            return [teacher]
        # Dropout stays on whatever the mode: it is the method, not a regulariser.
        return [F.dropout(teacher, self.drop_rate, training=True) for _ in range(self.avatars)]

    def _batchnorm(self, feature: Tensor, level: int) -> Tensor:
        images, _, height, width = feature.shape
        chunk = min(self.chunk or images, images)
        if (images % chunk or chunk) * height * width < 2:
            raise MethodError(
                f"{self.name}: level {level} is 1x1 for a single image, so a channel has one value and no variance; "
                "use more images or larger ones, or set normalise to false"
            )
        parts = [F.batch_norm(p, None, None, training=True, eps=BATCHNORM_EPS) for p in feature.split(chunk)]
        return torch.cat(parts)
