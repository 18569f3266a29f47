"""AKD: avatar knowledge distillation, a wrapper around a feature method."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Batch, FeatureMethod, Method, MethodError, Outputs, Setting

BATCHNORM_EPS = 1e-5
FIGURE_EPS = 1e-2
"""Our choice: the variance is 0 at zeros of the teacher's feature, about 0.11 T^2 elsewhere with drop_rate 0.1."""


class AKD(Method):
    """A feature method with a perturbed teacher (an Avatar) as target, student and Avatar divided by an uncertainty.

        a = dropout(T, drop_rate), drawn for every level and forward (perturb)
        U(x)_c = (x_c - mean_{n,h,w} x_c) / sqrt(var_{n,h,w} x_c + 1e-5) (normalise)
        loss = base weight * sum over levels of mean over Avatars of base.compare(U(align(S)), U(a))

    S [N, C_s, H, W], T [N, C, H, W]. The released code sets perturb and normalise; without both, this is the base
    alone. Terms of the base that are not on features (CWD on logits) do not change. The paper covers dense prediction,
    but code was released only for detection: segmentation, where the base compares the map before the classifier, is
    our reading, and so is classification.

    Args:
        setting: the run's shapes.
        base: the wrapped method, whose weight and alignment are used.
        perturb: draw Avatars; False uses T as the target.
        normalise: divide by the uncertainty.
        drop_rate: share of the teacher's feature elements that an Avatar sets to 0; the others are scaled up.
        avatars: Avatars a forward; the loss is their mean. Released: 1.
        cwd_raw_target: do not normalize CWD's target, as in the released code (which normalizes the student's feature).
        uncertainty: "batchnorm" (released) is U above: no parameters, statistics of the batch, separate for student and
            Avatar. "figure" is our reading of the paper's figure: student and Avatars are divided by
            sigma^2[c,h,w] = mean over images and Avatars of (a - T)^2, plus 1e-2 (our choice; the paper has no eps).
        chunk: images that share the statistics of U: the paper's batch of 2 on each GPU; None is the whole batch.
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
        """One term, named after wrapper and base, and the base's terms that are not on features."""
        levels = [
            self._level(self.base.aligned(student, level), feature.detach(), level)
            for level, feature in enumerate(self.base.maps(teacher.features))
        ]
        total = torch.stack(levels).sum()
        return {self.name: self.base.weight * total} | self.base.non_feature_terms(student, teacher)

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
        return torch.stack([self.base.compare(student, target, level) for target in targets]).mean()

    def _avatars(self, teacher: Tensor) -> list[Tensor]:
        if not self.perturb:
            return [teacher]
        # Dropout is on in every mode: it is part of the method, not a regularizer.
        return [F.dropout(teacher, self.drop_rate, training=True) for _ in range(self.avatars)]

    def _batchnorm(self, feature: Tensor, level: int) -> Tensor:
        images, _, height, width = feature.shape
        chunk = min(self.chunk or images, images)
        if (images % chunk or chunk) * height * width < 2:
            raise MethodError(
                f"{self.name}: level {level} is 1x1 for a single image, so a channel has one value and no variance; "
                "use more images or larger ones, or set normalise to false"
            )
        chunks = feature.split(chunk)
        return torch.cat([F.batch_norm(c, None, None, training=True, eps=BATCHNORM_EPS) for c in chunks])
