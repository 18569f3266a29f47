"""CIRKD: cross-image relational knowledge distillation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .base import VOID, Batch, Method, MethodError, Outputs, Setting
from .functional import head_pair, labels_at

PIXELS_A_REGION = 16
"""Pixels that an image gives to the queue of each class that it shows."""


class CIRKD(Method):
    """How alike pixels of different images are: to the student as to the teacher.

    S [N, C_s, h, w], T [N, C_t, h, w] are the maps before the classifiers, s, t their pixels as unit vectors, and
    tau = contrast_temperature. Three terms:
        minibatch_pixel: mean over all pairs (i, j) of images, i = j included, and over the pixels a of i of
            KL(softmax_b(t_a . t_b / tau) || softmax_b(s_a . s_b / tau)), b the pixels of j
        memory_pixel: T^2 * mean over pixels a of KL(softmax_m(t_a . m / tau / T) || softmax_m(p_a . m / tau / T)), with
            T = temperature, p the unit vectors of project(S), and m about pixel_contrast_size entries drawn from the
            queues of the teacher's pixels, as many of each class and the same positions in all
        memory_region: the same with region_contrast_size entries of the queues of the teacher's regions
    project is conv1x1 - BatchNorm - ReLU - conv1x1, without biases, to C_t. Void pixels take part in the first term
    alone.

    Before the memory terms every image gives each class that it shows one region, the unit vector of the mean of the
    class's t, and at most 16 of its t, drawn at random; the oldest entries go. Queues are buffers that begin as random
    unit vectors, without a warm-up, as released; a resumed run goes on with them. `kd` is no part of it: CIRKD's
    scripts run `cirkd+kd`.

    Args:
        setting: the run's shapes.
        weight: factor on all three terms.
        minibatch_pixel_weight: factor on the first.
        memory_pixel_weight: factor on the second; Pascal VOC 0.01.
        memory_region_weight: factor on the third; Pascal VOC 0.01.
        temperature: T of the memory terms.
        contrast_temperature: tau.
        pixel_memory_size: entries of each class's queue of pixels.
        region_memory_size: entries of each class's queue of regions.
        pixel_contrast_size: pixels drawn a step, pixel_contrast_size // K + 1 of each of the K classes.
        region_contrast_size: regions drawn a step, likewise.
        class_pixels: False fills a class's queue of pixels as the released code does: it draws numbers below the
            class's count of pixels and takes the image's pixels of those positions, whatever their class.
        chunk: images that the first term pairs and over which means are taken, the paper's 2 on one device; the loss
            is the mean over chunks. None: the whole batch, N^2 pairs.
    """

    name = "cirkd"
    citation = (
        "C. Yang, H. Zhou, Z. An, X. Jiang, Y. Xu, Q. Zhang. Cross-image relational knowledge distillation for "
        "semantic segmentation. CVPR 2022. https://github.com/winycg/CIRKD"
    )
    tasks = frozenset({"segmentation"})
    pixels: Tensor
    pixels_next: Tensor
    regions: Tensor
    regions_next: Tensor

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        minibatch_pixel_weight: float = 1.0,
        memory_pixel_weight: float = 0.1,
        memory_region_weight: float = 0.1,
        temperature: float = 1.0,
        contrast_temperature: float = 0.1,
        pixel_memory_size: int = 20000,
        region_memory_size: int = 2000,
        pixel_contrast_size: int = 4096,
        region_contrast_size: int = 1024,
        class_pixels: bool = True,
        chunk: int | None = None,
    ) -> None:
        super().__init__(setting)
        if temperature <= 0 or contrast_temperature <= 0:
            raise MethodError(
                f"cirkd: temperature is {temperature} and contrast_temperature {contrast_temperature}; both must be "
                "positive"
            )
        if min(pixel_memory_size, region_memory_size, pixel_contrast_size, region_contrast_size) < 1:
            raise MethodError(
                f"cirkd: pixel_memory_size is {pixel_memory_size}, region_memory_size {region_memory_size}, "
                f"pixel_contrast_size {pixel_contrast_size} and region_contrast_size {region_contrast_size}; all must "
                "be at least 1"
            )
        if chunk is not None and chunk < 1:
            raise MethodError(f"cirkd: chunk is {chunk}; use a number of images or null")
        self.weights = [weight * w for w in (minibatch_pixel_weight, memory_pixel_weight, memory_region_weight)]
        self.temperature, self.contrast_temperature = temperature, contrast_temperature
        self.pixel_contrast_size, self.region_contrast_size = pixel_contrast_size, region_contrast_size
        self.class_pixels, self.chunk = class_pixels, chunk
        student, teacher = setting.student.channels[-1], setting.teacher.channels[-1]
        self.project = nn.Sequential(
            nn.Conv2d(student, teacher, kernel_size=1, bias=False),
            nn.BatchNorm2d(teacher),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, kernel_size=1, bias=False),
        )
        for name, size in (("pixels", pixel_memory_size), ("regions", region_memory_size)):
            queue = F.normalize(torch.randn(setting.num_classes, size, teacher), dim=2)
            self.register_buffer(name, queue)
            self.register_buffer(f"{name}_next", torch.zeros(setting.num_classes, dtype=torch.long))

    @classmethod
    def bank_bytes(cls, setting: Setting, options: dict[str, Any]) -> int:
        """The queues, float32 [num_classes, size, C_t] each."""
        entries = int(options["pixel_memory_size"]) + int(options["region_memory_size"])
        return setting.num_classes * entries * setting.teacher.channels[-1] * 4

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Three terms; see the class."""
        own, other = head_pair(self.name, student, teacher)
        labels = labels_at(self.name, batch, own.shape[2:])
        sides = [own, self.project(own), other]
        images = [F.normalize(side, dim=1).flatten(2).mT for side in sides]  # each [N, h*w, C]
        if self.training:
            self._remember(images[2], labels.flatten(1))
        drawn = [_draw(self.pixels, self.pixel_contrast_size), _draw(self.regions, self.region_contrast_size)]
        chunks = zip(*(torch.split(x, self.chunk or len(x)) for x in (*images, labels.flatten(1))), strict=True)
        losses = torch.stack([self._chunk(s, p, t, label, drawn) for s, p, t, label in chunks]).mean(dim=0)
        names = ("minibatch_pixel", "memory_pixel", "memory_region")
        return {name: weight * loss for name, weight, loss in zip(names, self.weights, losses, strict=True)}

    def _chunk(self, own: Tensor, projected: Tensor, other: Tensor, labels: Tensor, drawn: list[Tensor]) -> Tensor:
        """The unweighted terms, [3], of some images' pixels [n, P, C] with labels [n, P]."""
        pairs = [
            relation(own[i], own[j], other[i], other[j], self.contrast_temperature)
            for i in range(len(own))
            for j in range(len(own))
        ]
        anchors, targets = projected[labels != VOID], other[labels != VOID]
        if not len(anchors):
            nothing = 0.0 * projected.sum()
            return torch.stack([torch.stack(pairs).mean(), nothing, nothing])
        memory = [
            relation(anchors, entries, targets, entries, self.contrast_temperature, self.temperature)
            for entries in drawn
        ]
        return torch.stack([torch.stack(pairs).mean(), *memory])

    @torch.no_grad()
    def _remember(self, pixels: Tensor, labels: Tensor) -> None:
        """Give the queues a batch's regions and pixels: [N, P, C] unit vectors of the teacher, labels [N, P]."""
        classes = torch.arange(self.setting.num_classes, device=labels.device)
        members = labels[:, None] == classes[:, None]  # [N, K, P]
        count = members.sum(dim=2, keepdim=True)
        means = members.float() @ pixels / count.clamp_min(1)
        _enqueue(self.regions, self.regions_next, F.normalize(means, dim=2)[:, :, None], count > 0)
        if not self.class_pixels:
            members = torch.arange(labels.shape[1], device=labels.device) < count
        # Members get random numbers above all others' -1, so the largest are a draw without replacement.
        order = torch.where(members, torch.rand(members.shape, device=labels.device), -1.0)
        best = order.topk(min(PIXELS_A_REGION, labels.shape[1]), dim=2)
        chosen = pixels[torch.arange(len(pixels), device=labels.device)[:, None, None], best.indices]
        _enqueue(self.pixels, self.pixels_next, chosen, best.values >= 0)


def relation(
    own: Tensor, own_keys: Tensor, other: Tensor, other_keys: Tensor, contrast: float, temperature: float = 1.0
) -> Tensor:
    """temperature^2 * KL of the softmax over keys of other . other_keys / contrast / temperature, and the own side's.

    Rows [R, C], over which the mean is taken, and keys [M, C] of either side; at least one row. The similarities,
    [R, M] and 256 MiB for a pair of Cityscapes crops, are not kept for the backward pass but computed again.
    """
    sharpness = 1 / (contrast * temperature)
    loss: Tensor = checkpoint(
        _divergence,
        own * sharpness,
        own_keys,
        other * sharpness,
        other_keys,
        use_reentrant=False,
        preserve_rng_state=False,
    )
    return temperature**2 * loss


def _divergence(own: Tensor, own_keys: Tensor, other: Tensor, other_keys: Tensor) -> Tensor:
    log_p, log_q = (own @ own_keys.mT).log_softmax(dim=1), (other @ other_keys.mT).log_softmax(dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def _draw(queue: Tensor, size: int) -> Tensor:
    """size // K + 1 entries of each class, or all where there are fewer: [K, entries, C] -> [drawn, C]."""
    classes, entries, _ = queue.shape
    places = torch.randperm(entries, device=queue.device)[: size // classes + 1]
    return queue[:, places].flatten(0, 1)


def _enqueue(queue: Tensor, following: Tensor, new: Tensor, valid: Tensor) -> None:
    """Write the valid among `new` over the oldest entries of each class, image after image.

    Args:
        queue: [K, entries, C].
        following: the position that each class writes next, [K]; moves on.
        new: [N, K, M, C].
        valid: bool [N, K, M].
    """
    entries = queue.shape[1]
    new, valid = new.transpose(0, 1).flatten(1, 2), valid.transpose(0, 1).flatten(1)
    rank = valid.cumsum(dim=1)
    total = rank[:, -1:]
    kept = valid & (total - rank < entries)  # a position is written once, by what comes last
    places = (following[:, None] + rank - 1) % entries
    classes, which = kept.nonzero(as_tuple=True)
    queue[classes, places[classes, which]] = new[classes, which]
    following.copy_((following + total[:, 0]) % entries)
