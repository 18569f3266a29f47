"""ReviewKD: knowledge review."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import level_pairs, pre_activations, stage_channels, warmup


class AttentionFusion(nn.Module):
    """Fuses a student's map with the result of the deeper levels and maps it to the teacher's shape.

    Args:
        student: channels of the student's map.
        mid: channels of the result passed from level to level.
        teacher: channels of the teacher's map.
        fuse: False at the deepest level, which has no deeper one.
    """

    def __init__(self, student: int, mid: int, teacher: int, fuse: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(student, mid, 1, bias=False), nn.BatchNorm2d(mid))
        self.leave = nn.Sequential(nn.Conv2d(mid, teacher, 3, padding=1, bias=False), nn.BatchNorm2d(teacher))
        self.attention = nn.Sequential(nn.Conv2d(2 * mid, 2, 1), nn.Sigmoid()) if fuse else None
        for layers in (self.enter, self.leave):
            assert isinstance(layers[0], nn.Conv2d)
            nn.init.kaiming_uniform_(layers[0].weight, a=1)

    def forward(self, student: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """[N, C_s, h, w] and the deeper level's [N, mid, ., .] -> [N, C_t, *size] and [N, mid, *size]."""
        mixed: Tensor = self.enter(student)
        if self.attention is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, mixed.shape[2:], mode="nearest")
            shares = self.attention(torch.cat([mixed, deeper], dim=1))
            mixed = mixed * shares[:, :1] + deeper * shares[:, 1:]
        if mixed.shape[2:] != size:
            mixed = F.interpolate(mixed, tuple(size), mode="nearest")
        return self.leave(mixed), mixed


class ReviewKD(Method):
    """The student's stages, each fused with the deeper ones, match the teacher's pre-activations.

        r_l, m_l = fusion_l(S_l, m_{l+1})                      the deepest level is the pooled feature as a 1x1 map
        loss = weight * min(e / warmup_epochs, 1) * sum_l hierarchical_context(r_l, T_l), in the e-th epoch, from 1

    S: the student's stages after their last ReLU (before it with stu_preact) and its pooled feature; T: the teacher's
    `pre_activations` and its pooled feature; without the stem. mid = min(max_mid_channel, student's pooled_dim):
    256 for resnet8x4. The fusion (1x1 to mid, attention, 3x3 to the teacher's width, each convolution with BatchNorm)
    is the paper's; sizes are those of the maps.

    Args:
        setting: the run's shapes.
        weight: resnet32x4 -> resnet8x4: 5; ImageNet (mdistiller): 1, ResNet50 -> MobileNet 8.
        warmup_epochs: epochs of linear warm-up, by `epoch`: CIFAR-100 20; ImageNet 1; 0 for none.
        stu_preact: use the student's pre-activations as well, as mdistiller does on ImageNet.
        max_mid_channel: upper limit of mid.
    """

    name = "reviewkd"
    citation = (
        "P. Chen, S. Liu, H. Zhao, J. Jia. Distilling knowledge via knowledge review. CVPR 2021. "
        "As released in https://github.com/megvii-research/mdistiller"
    )
    tasks = frozenset({"classification"})

    def __init__(
        self,
        setting: Setting,
        weight: float = 5.0,
        warmup_epochs: int = 20,
        stu_preact: bool = False,
        max_mid_channel: int = 512,
    ) -> None:
        super().__init__(setting)
        stages = stage_channels(self.name, setting)
        if setting.student.pooled_dim is None or setting.teacher.pooled_dim is None:
            raise MethodError("reviewkd: it needs pooled features, and the pooled_dim of a network is unknown")
        if warmup_epochs < 0 or max_mid_channel < 1:
            raise MethodError(
                f"reviewkd: warmup_epochs is {warmup_epochs} and max_mid_channel {max_mid_channel}; "
                "they must be at least 0 and 1"
            )
        self.weight, self.warmup_epochs, self.stu_preact = weight, warmup_epochs, stu_preact
        mid = min(max_mid_channel, setting.student.pooled_dim)
        fusions = [AttentionFusion(s, mid, t, fuse=True) for s, t in stages]
        fusions.append(AttentionFusion(setting.student.pooled_dim, mid, setting.teacher.pooled_dim, fuse=False))
        self.fusions = nn.ModuleList(fusions)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        maps = _levels(student, pre_activations(student) if self.stu_preact else student.features[1:])
        targets = _levels(teacher, pre_activations(teacher))
        if not len(maps) == len(targets) == len(self.fusions):
            raise MethodError(
                f"reviewkd: the student has {len(maps)} levels, the teacher {len(targets)}, and NetworkInfo.channels "
                f"has {len(self.fusions)}, including the pooled feature"
            )
        reviewed: list[Tensor] = []
        deeper = None
        for fusion, feature, t in reversed(list(zip(self.fusions, maps, targets, strict=True))):
            result, deeper = fusion(feature, deeper, t.shape[2:])
            reviewed.insert(0, result)
        pairs = level_pairs(self.name, tuple(reviewed), targets, "reviewed features")
        total = torch.stack([hierarchical_context(s, t) for s, t in pairs]).sum()
        return {self.name: self.weight * warmup(self.epoch, self.warmup_epochs, total) * total}


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of two [N, C, h, w] maps, averaged with those of their 4x4, 2x2 and 1x1 poolings.

    Weights 1, 1/2, 1/4, 1/8 over their sum; sizes not below h are left out, and so are their weights.
    """
    total, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student.shape[2]:
            weight /= 2
            weights += weight
            error = F.mse_loss(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size))
            total = total + weight * error
    return total / weights


def _levels(outputs: Outputs, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The maps and, if there is one, the pooled feature as [N, D, 1, 1]."""
    return maps if outputs.pooled is None else (*maps, outputs.pooled[:, :, None, None])
