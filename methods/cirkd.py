"""CIRKD: cross-image relational knowledge distillation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ._ranks import gathered
from .base import IGNORE_INDEX, Batch, Method, MethodError, Outputs, Setting
from .functional import head_pair, labels_at

PIXELS_A_REGION = 16
"""Pixels of an image that enter the queue of each class in it."""


class CIRKD(Method):
    """KL between the student's and the teacher's similarities of pixels across images and to queues of embeddings.

    S [N, C_s, h, w], T [N, C_t, h, w] are the maps before the classifiers, s, t their pixels as unit vectors, and
    tau = contrast_temperature. Three terms:
        minibatch_pixel: mean over all pairs (i, j) of images, i = j included, and over the pixels a of i of
            KL(softmax_b(t_a . t_b / tau) || softmax_b(s_a . s_b / tau)), b the pixels of j
        memory_pixel: T^2 * mean over pixels a of KL(softmax_m(t_a . m / tau / T) || softmax_m(p_a . m / tau / T)), with
            T = temperature, p the unit vectors of project(S), and m about pixel_contrast_size entries drawn from the
            queues of the teacher's pixels, equally many of each class at the same positions of its queue
        memory_region: the same with region_contrast_size entries of the queues of the teacher's regions
    project is conv1x1 - BatchNorm - ReLU - conv1x1, without biases, to C_t. Ignored pixels take part only in the
    first term.

    Before the memory terms, every image adds to the queues of each class in it one region, the unit vector of the mean
    of the class's t, and at most 16 t, drawn at random (see class_pixels). They are written after the previous ones;
    what would reach or pass the end of the queue becomes its last entries, and the next ones begin at its start, as
    released. Queues are buffers, initialized with random unit vectors and without a warm-up, as released; a resumed run
    continues with them. `kd` is not included: CIRKD's scripts run `cirkd+kd`.

    Args:
        setting: the run's shapes.
        weight: factor on all three terms.
        minibatch_pixel_weight: factor on the first term.
        memory_pixel_weight: factor on the second term; Pascal VOC 0.01.
        memory_region_weight: factor on the third term; Pascal VOC 0.01.
        temperature: T of the memory terms.
        contrast_temperature: tau.
        pixel_memory_size: entries of each class's queue of pixels.
        region_memory_size: entries of each class's queue of regions.
        pixel_contrast_size: pixels drawn per step, pixel_contrast_size // K + 1 of each of the K classes.
        region_contrast_size: regions drawn per step, likewise.
        class_pixels: True draws the entries of a class's queue of pixels from its own pixels, as the paper says. The
            released code draws numbers below the class's count of pixels and takes the image's pixels at those
            positions, of any class.
        chunk: images that are paired in the first term and share means, 2 (on one device) in the paper; the loss is
            the mean over chunks. None: the whole batch, N^2 pairs.
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
        class_pixels: bool = False,
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
        """Two queues, float32 [num_classes, size, C_t] each."""
        entries = int(options["pixel_memory_size"]) + int(options["region_memory_size"])
        return setting.num_classes * entries * setting.teacher.channels[-1] * 4

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `minibatch_pixel`, `memory_pixel` and `memory_region`; see the class."""
        student_map, teacher_map = head_pair(self.name, student, teacher)
        labels = labels_at(self.name, batch, student_map.shape[2:])
        maps = [student_map, self.project(student_map), teacher_map]
        images = [F.normalize(features, dim=1).flatten(2).mT for features in maps]  # each [N, h*w, C]
        if self.training:
            self._update_queues(images[2], labels.flatten(1))
        drawn = [_draw(self.pixels, self.pixel_contrast_size), _draw(self.regions, self.region_contrast_size)]
        chunks = zip(*(torch.split(x, self.chunk or len(x)) for x in (*images, labels.flatten(1))), strict=True)
        losses = torch.stack([self._chunk(s, p, t, label, drawn) for s, p, t, label in chunks]).mean(dim=0)
        names = ("minibatch_pixel", "memory_pixel", "memory_region")
        return {name: weight * loss for name, weight, loss in zip(names, self.weights, losses, strict=True)}

    def _chunk(
        self, student: Tensor, projected: Tensor, teacher: Tensor, labels: Tensor, drawn: list[Tensor]
    ) -> Tensor:
        """The unweighted terms, [3], of n images' pixels [n, P, C] with labels [n, P]."""
        pairs = [
            relation(student[i], student[j], teacher[i], teacher[j], self.contrast_temperature)
            for i in range(len(student))
            for j in range(len(student))
        ]
        anchors, targets = projected[labels != IGNORE_INDEX], teacher[labels != IGNORE_INDEX]
        if not len(anchors):
            zero = 0.0 * projected.sum()
            return torch.stack([torch.stack(pairs).mean(), zero, zero])
        memory = [
            relation(anchors, entries, targets, entries, self.contrast_temperature, self.temperature)
            for entries in drawn
        ]
        return torch.stack([torch.stack(pairs).mean(), *memory])

    @torch.no_grad()
    def _update_queues(self, pixels: Tensor, labels: Tensor) -> None:
        """Add a batch's regions and pixels to the queues: unit vectors of the teacher [N, P, C], labels [N, P]."""
        classes = torch.arange(self.setting.num_classes, device=labels.device)
        members = labels[:, None] == classes[:, None]  # [N, K, P]
        count = members.sum(dim=2, keepdim=True)
        means = members.float() @ pixels / count.clamp_min(1)
        regions = F.normalize(means, dim=2)[:, :, None]
        _enqueue(self.regions, self.regions_next, gathered(regions), gathered(count > 0))
        if not self.class_pixels:
            members = torch.arange(labels.shape[1], device=labels.device) < count
        # Members get random keys and all other pixels -1, so the largest keys are a draw without replacement.
        keys = torch.where(members, torch.rand(members.shape, device=labels.device), -1.0)
        largest = keys.topk(min(PIXELS_A_REGION, labels.shape[1], self.pixels.shape[1]), dim=2)
        chosen = pixels[torch.arange(len(pixels), device=labels.device)[:, None, None], largest.indices]
        _enqueue(self.pixels, self.pixels_next, gathered(chosen), gathered(largest.values >= 0))


def relation(
    student: Tensor,
    student_keys: Tensor,
    teacher: Tensor,
    teacher_keys: Tensor,
    contrast: float,
    temperature: float = 1.0,
) -> Tensor:
    """temperature^2 * KL(q || p) of softmax(rows . keys / contrast / temperature), q the teacher's and p the student's.

    Rows are [R, C], at least one, and keys [M, C]; the softmax is over keys and the mean over rows. The similarities,
    [R, M] and 256 MiB for a pair of Cityscapes crops, are recomputed in the backward pass.
    """
    sharpness = 1 / (contrast * temperature)
    loss: Tensor = checkpoint(
        _divergence,
        student * sharpness,
        student_keys,
        teacher * sharpness,
        teacher_keys,
        use_reentrant=False,
        preserve_rng_state=False,
    )
    return temperature**2 * loss


def _divergence(student: Tensor, student_keys: Tensor, teacher: Tensor, teacher_keys: Tensor) -> Tensor:
    log_p = (student @ student_keys.mT).log_softmax(dim=1)
    log_q = (teacher @ teacher_keys.mT).log_softmax(dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def _draw(queue: Tensor, size: int) -> Tensor:
    """size // K + 1 entries of each class, or all if there are fewer: [K, entries, C] -> [drawn, C]."""
    classes, entries, _ = queue.shape
    positions = torch.randperm(entries, device=queue.device)[: size // classes + 1]
    return queue[:, positions].flatten(0, 1)


def _enqueue(queue: Tensor, next_positions: Tensor, new: Tensor, valid: Tensor) -> None:
    """Write the valid ones of `new` into each class's queue, image after image.

    An image's entries for a class that would reach or pass the end of its queue become its last ones.

    Args:
        queue: [K, entries, C].
        next_positions: position of the next write of each class, int64 [K]; updated in place.
        new: [N, K, M, C], M at most `entries`.
        valid: bool [N, K, M], the valid ones first.
    """
    entries, columns = queue.shape[1], torch.arange(new.shape[2], device=queue.device)
    for image, written in zip(new, valid, strict=True):
        count = written.sum(dim=1)
        last = next_positions + count >= entries
        begin = torch.where(last, entries - count, next_positions)
        positions = ((begin[:, None] + columns) % entries)[:, :, None].expand_as(image)
        queue.scatter_(1, positions, torch.where(written[:, :, None], image, queue.gather(1, positions)))
        next_positions.copy_(torch.where(last, 0, next_positions + count))
