"""MasKD: masked distillation with receptive tokens."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ._prompts import dice, prompt_masks, train
from .base import Batch, FeatureMethod, MethodError, Setting, Teacher
from .functional import target


class ReceptiveTokens(nn.Module):
    """The T mask tokens of one level, [T, C], and the head that predicts the weight of each mask in an image."""

    def __init__(self, channels: int, num_tokens: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(num_tokens, channels))
        self.prob = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, num_tokens, kernel_size=1),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.mask_token, std=0.01)
        for conv in self.prob:
            if isinstance(conv, nn.Conv2d):
                fan_out = conv.kernel_size[0] * conv.kernel_size[1] * conv.out_channels
                nn.init.normal_(conv.weight, std=(2 / fan_out) ** 0.5)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def masks(self, feature: Tensor) -> Tensor:
        """sigmoid(tokens @ feature): [N, C, H, W] -> [N, T, H, W]."""
        return prompt_masks(self.mask_token, feature)

    def mask_weights(self, feature: Tensor) -> Tensor:
        """Softmax of the head over tokens: [N, C, H, W] -> [N, T]."""
        weights: Tensor = self.prob(feature).flatten(1).softmax(dim=1)
        return weights


class MasKD(FeatureMethod):
    """Squared error inside masks of the teacher's feature, defined by tokens that are trained on the teacher before.

        m = sigmoid(tokens @ T)                              [N, tokens, H, W]; after custom_mask_warmup steps
                                                             times sigmoid(tokens @ align(S)), without gradient
        D[n,t,c] = sum_{hw} m^2 (align(S) - T)^2 / sum_{hw} m
        level loss = mean_n sum_t softmax(prob(T))[n,t] * mean_c D[n,t,c];  summed over levels, times weight

    S [N, C_s, H, W], T [N, C, H, W]. Tokens and prob head do not train with the student: `prepare` trains them with
    the losses of the teacher's head, which only detectors have (`Teacher.losses_from`). AKD around this method does not
    change `prepare`, as released, though masks are then computed from normalized Avatars.

    Args:
        setting: the run's shapes.
        weight: RetinaNet 7; FCOS 10; Faster R-CNN 1.
        num_tokens: masks a level.
        custom_mask_warmup: steps without the student's mask: RetinaNet 7000 (X101 8500), Faster R-CNN 7330, FCOS 5000.
        mask_steps: iterations of `prepare`; with 0 the tokens keep their random initial values.
        mask_lr: learning rate of `prepare`.
        align: "conv1x1" or None.
    """

    name = "maskd"
    citation = (
        "T. Huang, Y. Zhang, S. You, F. Wang, C. Qian, J. Cao, C. Xu. Masked distillation with receptive tokens. "
        "ICLR 2023. https://github.com/hunto/MasKD"
    )
    tasks = frozenset({"detection"})
    prepared_prefixes = ("tokens.",)

    def __init__(
        self,
        setting: Setting,
        weight: float = 7.0,
        num_tokens: int = 6,
        custom_mask_warmup: int = 7000,
        mask_steps: int = 2000,
        mask_lr: float = 0.01,
        align: str | None = "conv1x1",
    ) -> None:
        super().__init__(setting, weight, align)
        if num_tokens < 1:
            raise MethodError(f"maskd: num_tokens is {num_tokens}; it must be at least 1")
        self.custom_mask_warmup, self.mask_steps, self.mask_lr = custom_mask_warmup, mask_steps, mask_lr
        self.num_tokens = num_tokens
        self.tokens = nn.ModuleList(ReceptiveTokens(channels, num_tokens) for channels in setting.teacher.channels)
        self.tokens.requires_grad_(False)

    @property
    def preparation_key(self) -> str:
        return f"maskd {self.num_tokens} tokens {self.mask_steps} steps lr {self.mask_lr}"

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        """Train the tokens to keep the teacher's losses low on masked features, with masks that differ.

        Adam, lr mask_lr by cosine to 1e-6, weight decay 1e-3, mask_steps iterations of `mask_loss`. Gradients are
        computed for the tokens alone, so the teacher does not change.
        """
        for tokens in self.tokens:
            tokens.reset_parameters()  # type: ignore[operator]
        parameters = list(self.tokens.parameters())
        train(parameters, lambda batch: self.mask_loss(teacher, batch), batches, self.mask_steps, self.mask_lr)

    def mask_loss(self, teacher: Teacher, batch: Batch) -> Tensor:
        """The teacher's task losses on sum_t weight_t * m_t * T, plus the masks' mean pairwise dice, over levels."""
        with torch.no_grad():
            features = [feature.float() for feature in teacher(batch.inputs).features]
        masked, overlaps = [], []
        for tokens, feature in zip(self.tokens, features, strict=True):
            assert isinstance(tokens, ReceptiveTokens)
            masks = tokens.masks(feature)
            masked.append(feature * torch.einsum("nt,nthw->nhw", tokens.mask_weights(feature), masks)[:, None])
            overlaps.append(dice(masks))
        task = torch.stack(list(teacher.losses_from(tuple(masked), batch).values())).sum()
        return task + torch.stack(overlaps).sum()

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """The level loss of two [N, C, H, W] maps."""
        teacher = target(self.name, student, teacher, f"features of level {level}")
        tokens = self.tokens[level]
        assert isinstance(tokens, ReceptiveTokens)
        with torch.no_grad():
            masks = tokens.masks(teacher)
            if self.step >= self.custom_mask_warmup:
                masks = masks * tokens.masks(student)
            masks = masks.flatten(2)
            weights = tokens.mask_weights(teacher)
        error = (student - teacher).square().mean(dim=1).flatten(1)
        # The masks of a small map can all underflow to 0; clamping only prevents 0 / 0.
        inside = torch.einsum("nti,ni->nt", masks.square(), error) / masks.sum(dim=2).clamp_min(1e-12)
        return (weights * inside).sum(dim=1).mean()
