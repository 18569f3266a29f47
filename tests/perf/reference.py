"""Distillation as a plain script does it, to be timed beside the harness: this is the arrangement of mdistiller's loop.

One student, float32 in PyTorch's default layout, images augmented one by one behind a DataLoader, and loss and accuracy
read after every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdbench import networks
from kdbench.datasets.base import ArraySplit, ImageSet
from kdbench.networks.base import Network

from .rig import Rig

BATCH, TEMPERATURE, CE_WEIGHT, KD_WEIGHT = 64, 4.0, 0.1, 0.9

Sample = tuple[Tensor, int, int]


class Pictures(Dataset[Sample]):
    """CIFAR's training transform, image by image."""

    def __init__(self, data: ImageSet) -> None:
        assert isinstance(data.train, ArraySplit)
        self.split = data.train
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean, data.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> Sample:
        return self.transform(Image.fromarray(self.split.images[i])), int(self.split.labels[i]), i


def batches(data: ImageSet, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels without end.

    Loader processes only where the device is not the CPU: there they would take the cores that train.
    """
    workers = 0 if device.type == "cpu" else 2
    loader = DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda")
    while True:
        for images, labels, _ in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


class PlainLoop:
    """Plain KD of one pair.

    Args:
        data: small images.
        teacher: a classifier.
        student: another.
        device: where they run.
    """

    def __init__(self, data: ImageSet, teacher: Network, student: Network, device: torch.device) -> None:
        self.teacher, self.student = teacher.to(device).eval(), student.to(device)
        self.optimizer = torch.optim.SGD(self.student.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4)
        self.batches = batches(data, device)
        self.sums = {"loss": 0.0, "top1": 0.0, "top5": 0.0}

    @classmethod
    def of(cls, rig: Rig) -> Self:
        """On the networks and images of a rig."""
        teacher, student = (networks.build(n, len(rig.images.classes)) for n in (rig.case.teacher, rig.case.student))
        teacher.load_state_dict(rig.teacher.state_dict())
        return cls(rig.images, teacher, student, rig.device)

    def step(self) -> None:
        images, labels = next(self.batches)
        self.student.train()
        logits = self.student(images).logits
        with torch.no_grad():
            own = self.teacher(images).logits
        loss = CE_WEIGHT * F.cross_entropy(logits, labels)
        log_p, q = F.log_softmax(logits / TEMPERATURE, 1), F.softmax(own / TEMPERATURE, 1)
        loss = loss + KD_WEIGHT * TEMPERATURE**2 * F.kl_div(log_p, q, reduction="batchmean")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        hits = logits.topk(5, 1).indices == labels[:, None]
        self.sums["loss"] += loss.item()
        self.sums["top1"] += hits[:, :1].sum().item()
        self.sums["top5"] += hits.sum().item()
