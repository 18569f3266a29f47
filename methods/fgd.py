"""FGD: focal and global knowledge distillation for detectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import target


class FGD(Method):
    """Squared error inside and outside of the boxes, weighted by the teacher's attention, and errors of relations.

        A^S(F) = H W softmax_{hw}(mean_c |F| / T)  [N, H, W],   A^C(F) = C softmax_c(mean_{hw} |F| / T)  [N, C]
        foreground = alpha / N * sum_{n,c,h,w} M A^S(T) A^C(T) (S - T)^2
        background = beta / N * the same with M = 1 where there is no box, divided by the number of such positions
        attention = gamma / N * (sum |A^C(S) - A^C(T)| + sum |A^S(S) - A^S(T)|)
        relation = lambda / N * sum (context_s(S) - context_t(T))^2;  all summed over levels

    S [N, C, H, W], the student's level after a 1x1 convolution where its width differs, T [N, C, H, W]. M is
    1 / ((h + 1) (w + 1)) in a box of h x w, the maximum where boxes overlap: a box is scaled by W / image width and
    H / image height, and covers rows floor(y1) to ceil(y2) and columns floor(x1) to ceil(x2). As released, the image's
    size is the one before padding though the map covers the padded batch, so in a padded image boxes come out too
    large. An image without boxes is all background. The context blocks are GCNet's, one for each network and level,
    and train with the student; the teacher's too, as released.

        context(F) = F + conv1x1(ReLU(LayerNorm(conv1x1(c)))),  c = sum_{hw} softmax_{hw}(conv1x1(F)) F,  hidden C / 2

    Args:
        setting: the run's shapes.
        temperature: T; FCOS 0.8.
        foreground_weight: alpha. RetinaNet, GFL 1e-3; FCOS, RepPoints 1.6e-3; Faster and Mask R-CNN 5e-5.
        background_weight: beta. RetinaNet, GFL 5e-4; FCOS, RepPoints 8e-4; Faster and Mask R-CNN 2.5e-5.
        attention_weight: gamma. RetinaNet, GFL 5e-4 (the default of the released file: 1e-3); FCOS, RepPoints 8e-4;
            Faster and Mask R-CNN 5e-5.
        relation_weight: lambda. RetinaNet, GFL 5e-6; FCOS, RepPoints 8e-6; Faster and Mask R-CNN 5e-7.
        levels: compared pyramid levels, from the finest; all, if there are fewer. Faster and Mask R-CNN 4.
        inherit: start the student with the teacher's neck and head, as the released recipes do unless the teacher is a
            cascade: with every tensor of theirs that has the same name and shape in the student.
    """

    name = "fgd"
    citation = (
        "Z. Yang, Z. Li, X. Jiang, Y. Gong, Z. Yuan, D. Zhao, C. Yuan. Focal and global knowledge distillation for "
        "detectors. CVPR 2022. https://github.com/yzd-v/FGD"
    )
    tasks = frozenset({"detection"})

    def __init__(
        self,
        setting: Setting,
        temperature: float = 0.5,
        foreground_weight: float = 1e-3,
        background_weight: float = 5e-4,
        attention_weight: float = 5e-4,
        relation_weight: float = 5e-6,
        levels: int = 5,
        inherit: bool = True,
    ) -> None:
        super().__init__(setting)
        if temperature <= 0 or levels < 1:
            raise MethodError(
                f"fgd: temperature is {temperature} and levels is {levels}; use one above 0, and at least 1 level"
            )
        student, teacher = setting.student.channels[:levels], setting.teacher.channels[:levels]
        if len(student) != len(teacher):
            raise MethodError(
                f"fgd: the student has {len(student)} pyramid levels and the teacher {len(teacher)}; choose a teacher "
                "and a student of the same family, or fewer levels"
            )
        if min(teacher, default=0) < 2:
            raise MethodError(f"fgd: the teacher's levels have {teacher} channels; each must have at least 2")
        self.temperature, self.levels, self.inherits_head = temperature, levels, inherit
        self.weights = (foreground_weight, background_weight, attention_weight, relation_weight)
        self.align = nn.ModuleList(
            nn.Identity() if s == t else nn.Conv2d(s, t, kernel_size=1) for s, t in zip(student, teacher, strict=True)
        )
        self.context_s = nn.ModuleList(ContextBlock(channels) for channels in teacher)
        self.context_t = nn.ModuleList(ContextBlock(channels) for channels in teacher)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `foreground`, `background`, `attention` and `relation`; see the class."""
        boxes = relative_boxes(batch)
        pairs = zip(student.features[: self.levels], teacher.features[: self.levels], strict=True)
        parts = torch.stack([self._level(i, s, t, boxes) for i, (s, t) in enumerate(pairs)]).sum(dim=0)
        names = ("foreground", "background", "attention", "relation")
        return {name: weight * part for name, weight, part in zip(names, self.weights, parts, strict=True)}

    def _level(self, level: int, student: Tensor, teacher: Tensor, boxes: Tensor) -> Tensor:
        """The unweighted parts of a level, [4]."""
        aligned = self.align[level](student)
        teacher = target(self.name, aligned, teacher, f"features of level {level}")
        inside, outside = box_masks(boxes, teacher.shape[2], teacher.shape[3])
        student_attention, teacher_attention = (attention(x, self.temperature) for x in (aligned, teacher))
        space, channels = teacher_attention
        error = space * torch.einsum("nc,nchw->nhw", channels, (aligned - teacher).square())
        differences = [(s - t).abs().sum() for s, t in zip(student_attention, teacher_attention, strict=True)]
        relation = (self.context_s[level](aligned) - self.context_t[level](teacher)).square().sum()
        parts = [(inside * error).sum(), (outside * error).sum(), differences[0] + differences[1], relation]
        return torch.stack(parts) / len(teacher)


class ContextBlock(nn.Module):
    """A global context block (GCNet, Cao et al. 2019), [N, C, H, W] -> the same shape; at first it returns its input.

    Args:
        channels: C, at least 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.mask = nn.Conv2d(channels, 1, kernel_size=1)
        self.add = nn.Sequential(
            nn.Conv2d(channels, hidden, kernel_size=1),
            nn.LayerNorm([hidden, 1, 1]),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, kernel_size=1),
        )
        nn.init.kaiming_normal_(self.mask.weight, mode="fan_in", nonlinearity="relu")
        for parameter in (self.mask.bias, *self.add[3].parameters()):
            assert parameter is not None
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        weights = self.mask(features).flatten(2).softmax(dim=2)  # [N, 1, H*W]
        context = (features.flatten(2) * weights).sum(dim=2)[:, :, None, None]
        added: Tensor = self.add(context)
        return features + added


def attention(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """A^S [N, H, W] and A^C [N, C] of the class for a map [N, C, H, W]."""
    images, channels, height, width = features.shape
    size = features.abs()
    space = (size.mean(dim=1).flatten(1) / temperature).softmax(dim=1).view(images, height, width)
    return height * width * space, channels * (size.mean(dim=(2, 3)) / temperature).softmax(dim=1)


def relative_boxes(batch: Batch) -> Tensor:
    """The boxes as shares of their image's width and height, [N, B, 4]; NaN fills up where an image has fewer than B.

    There is at least one such row, so that B is not 0.
    """
    rows = []
    for truth in batch.targets:
        height, width = truth["size"]
        shares = truth["boxes"] / torch.stack([width, height, width, height])
        rows.append(torch.cat([shares, shares.new_full((1, 4), math.nan)]))
    return pad_sequence(rows, batch_first=True, padding_value=math.nan)


def box_masks(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """M of foreground and background for a map of this size, [N, height, width] each; `boxes` as `relative_boxes`."""
    columns, rows = _positions(boxes[..., 0::2] * width), _positions(boxes[..., 1::2] * height)
    share = 1 / ((columns[1] - columns[0] + 1) * (rows[1] - rows[0] + 1))
    within = _covered(rows, height)[..., :, None] & _covered(columns, width)[..., None, :]
    inside = torch.where(within, share[..., None, None], 0.0).amax(dim=1)
    outside = (inside == 0).float()
    return inside, outside / outside.sum(dim=(1, 2), keepdim=True).clamp_min(1)


def _positions(spans: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the last position that a span [N, B, 2] touches, [N, B] each."""
    return spans[..., 0].floor(), spans[..., 1].ceil()


def _covered(positions: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Which of `size` positions are from the first to the last one, [N, B, size]; none where these are NaN."""
    first, last = positions
    place = torch.arange(size, device=first.device)
    return (place >= first[..., None]) & (place <= last[..., None])
