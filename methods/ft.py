"""FT: factor transfer."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting, Teacher
from .functional import attention_map, match_sizes

SLOPE = 0.1
WEIGHT_DECAY = 5e-4
"""RepDistiller's, of everything that it trains."""


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's last map, [N, C, h, w]; its code is the factor, [N, factors, h, w]."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.encoder = _encoder(channels, factors, norm=False)
        self.decoder = nn.Sequential(
            *_block(nn.ConvTranspose2d(factors, factors, 3, padding=1)),
            *_block(nn.ConvTranspose2d(factors, channels, 3, padding=1)),
            *_block(nn.ConvTranspose2d(channels, channels, 3, padding=1)),
        )

    def forward(self, feature: Tensor) -> Tensor:
        """The reconstruction, [N, C, h, w]."""
        reconstruction: Tensor = self.decoder(self.encoder(feature))
        return reconstruction


class FT(Method):
    """L1 between the attention of the student's translated last map and of the teacher's paraphrased one.

        q(f) = L2-normalized over positions: mean_c f[n,c,h,w]^2                                [N, h w]
        loss = weight * mean_{n,hw} |q(translator(S)) - q(paraphraser(T))|

    S, T: the last stage, [N, C, h, w]; the larger of both factors is average-pooled to the smaller size. The factor has
    k times the teacher's channels. `prepare` trains the paraphraser to reconstruct T (mean squared error, SGD with
    momentum 0.9); afterwards it is frozen. q, the weight 200 and the translator's BatchNorms are RepDistiller's; the
    paper normalizes whole factors without the mean over channels.

    Args:
        setting: the run's shapes; needs steps_per_epoch.
        weight: factor on the loss.
        k: factor channels per teacher channel.
        paraphraser_epochs: epochs of `prepare`; with 0 the paraphraser keeps its random initial weights.
        paraphraser_lr: learning rate of `prepare`. RepDistiller: 0.01 for ResNet and WRN students, for others the
            student's (0.05 for VGG); a single default, so that all students share a paraphraser, is our choice.
        paraphraser_weight_decay: weight decay of `prepare`.
    """

    name = "ft"
    citation = (
        "J. Kim, S. Park, N. Kwak. Paraphrasing complex network: network compression via factor transfer. NeurIPS "
        "2018. As released in https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})
    prepared_prefixes = ("paraphraser.",)

    def __init__(
        self,
        setting: Setting,
        weight: float = 200.0,
        k: float = 0.5,
        paraphraser_epochs: int = 30,
        paraphraser_lr: float = 0.01,
        paraphraser_weight_decay: float = WEIGHT_DECAY,
    ) -> None:
        super().__init__(setting)
        channels = setting.teacher.channels[-1]
        factors = int(channels * k)
        if factors < 1:
            raise MethodError(
                f"ft: k is {k} and the teacher's last stage has {channels} channels; the factor has no channel"
            )
        if paraphraser_epochs < 0 or paraphraser_lr <= 0 or paraphraser_weight_decay < 0:
            raise MethodError(
                f"ft: paraphraser_epochs is {paraphraser_epochs}, paraphraser_lr {paraphraser_lr} and "
                f"paraphraser_weight_decay {paraphraser_weight_decay}; lr must be above 0 and the others at least 0"
            )
        if paraphraser_epochs and not setting.steps_per_epoch:
            raise MethodError(
                "ft: paraphraser_epochs needs Setting.steps_per_epoch; pass it, or set paraphraser_epochs: 0"
            )
        self.weight, self.k = weight, k
        self.steps, self.lr = paraphraser_epochs * (setting.steps_per_epoch or 0), paraphraser_lr
        self.weight_decay = paraphraser_weight_decay
        self.paraphraser = Paraphraser(channels, factors).requires_grad_(False)
        self.translator = _encoder(setting.student.channels[-1], factors, norm=True)

    @property
    def preparation_key(self) -> str:
        # The key seeds the preparation, so it names the decay only where it is not the one that all runs once had.
        decay = "" if self.weight_decay == WEIGHT_DECAY else f" decay {self.weight_decay}"
        return f"ft k {self.k} {self.steps} steps lr {self.lr}{decay}"

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        """Train the paraphraser from scratch on the teacher's last map."""
        for layer in self.paraphraser.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.reset_parameters()
        if self.steps == 0:
            return
        self.paraphraser.requires_grad_(True)
        parameters = list(self.paraphraser.parameters())
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        for _, batch in zip(range(self.steps), batches, strict=False):
            with torch.no_grad():
                feature = teacher(batch.teacher_inputs).features[-1].detach().float()
            optimizer.zero_grad()
            F.mse_loss(self.paraphraser(feature), feature).backward()
            optimizer.step()
        optimizer.zero_grad()
        self.paraphraser.requires_grad_(False)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        factors = self.translator(student.features[-1]), self.paraphraser.encoder(teacher.features[-1])
        s, t = (attention_map(factor) for factor in match_sizes(*factors))
        return {self.name: self.weight * F.l1_loss(s, t)}


def _encoder(channels: int, factors: int, norm: bool) -> nn.Sequential:
    """Three 3x3 convolutions from `channels` to `factors`, each with LeakyReLU and, with `norm`, a BatchNorm."""
    widths = ((channels, channels), (channels, factors), (factors, factors))
    return nn.Sequential(*(layer for i, o in widths for layer in _block(nn.Conv2d(i, o, 3, padding=1), norm)))


def _block(conv: nn.Conv2d | nn.ConvTranspose2d, norm: bool = False) -> list[nn.Module]:
    return [conv, *([nn.BatchNorm2d(conv.out_channels)] if norm else []), nn.LeakyReLU(SLOPE)]
