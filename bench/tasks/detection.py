"""Object detection on COCO-format folders: augmentation, batches, task loss, COCO metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from kdbench.datasets.base import DataError
from kdbench.methods.base import Batch, Outputs

from ..networks.base import Network
from ..networks.detection import Detector, Target
from ..spec.recipe import Recipe, Resize
from . import coco_eval
from .base import Task, autocast, refuse_large_batch
from .loading import grouped, load
from .order import Key

if TYPE_CHECKING:
    from kdbench.datasets.coco import CocoFolder, CocoSplit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1, as torchvision's weights expect
MULTIPLE = 32  # inputs are padded at the right and bottom to a multiple of this

Sample = tuple[Tensor, Target]


class DetectionTask(Task):
    """Detection on one COCO-format folder.

    Args:
        data: the folder.
        recipe: batch size, image size and flip.
        data_seed: of the data order and the augmentation.
        workers: loader processes; the batches do not depend on it.

    Raises:
        SpecError: the batch is larger than the training set.
    """

    headline = "ap"

    def __init__(self, data: CocoFolder, recipe: Recipe, data_seed: int, workers: int = 0) -> None:
        self.data, self.recipe, self.data_seed, self.workers = data, recipe, data_seed, workers
        self.classes = data.classes
        self.num_samples = len(data.train)
        self.batch_size = recipe.batch_size
        refuse_large_batch(recipe, self.num_samples, data.path)
        self.steps_per_epoch = recipe.epoch_steps or self.num_samples // self.batch_size
        self.image_size = _typical_size(data.val, recipe)

    def batches(self, epoch: int, device: torch.device, stream: str = "train", skip: int = 0) -> Iterator[Batch]:
        samples = _Split(self.data.train, _transform(self.recipe, flip=self.recipe.image.flip))
        groups = grouped(self._keys(epoch, stream), self.batch_size)[skip:]
        for images, targets in load(samples, groups, self.workers, _collate):
            yield self._batch(images, targets, device)

    def outputs(self, network: Network, batch: Batch) -> Outputs:
        outputs: Outputs = network(batch.inputs, batch.targets)
        return outputs

    def evaluate(self, network: Network, device: torch.device, reference: bool, full: bool = False) -> dict[str, float]:
        detections = self.detections(network, device)
        return coco_eval.evaluate(
            self.data.val.annotation_file, [int(i) for i in self.data.val.image_ids], detections, reference
        )

    def evaluator(self, reference: bool) -> str:
        return coco_eval.name(reference)

    @torch.inference_mode()
    def detections(self, network: Network, device: torch.device) -> list[coco_eval.Detection]:
        """Everything the network finds in the validation images, in pixels of the images as stored."""
        detector = cast(Detector, network).eval()
        samples = _Split(self.data.val, _transform(self.recipe, flip=0.0))
        groups = grouped([(i,) for i in range(len(self.data.val))], self.batch_size)
        found: list[coco_eval.Detection] = []
        for images, targets in load(samples, groups, self.workers, _collate):
            batch = self._batch(images, targets, device)
            sizes = [(int(t["size"][0]), int(t["size"][1])) for t in targets]
            with autocast(self.recipe, device):
                results = detector.detect(batch.inputs, sizes)
            for result, target in zip(results, targets, strict=True):
                found += self._as_coco(result, target)
        return found

    def _forward(self, network: Network, images: Tensor) -> object:
        return cast(Detector, network).detect(images, [self.image_size])

    def _batch(self, images: list[Tensor], targets: list[Target], device: torch.device) -> Batch:
        """uint8 images of several sizes -> one normalised batch, padded with zeros as the papers' code does."""
        height = -(-max(image.shape[1] for image in images) // MULTIPLE) * MULTIPLE
        width = -(-max(image.shape[2] for image in images) // MULTIPLE) * MULTIPLE
        inputs = torch.zeros(len(images), 3, height, width, device=device)
        for padded, image in zip(inputs, images, strict=True):
            normalised = tvf.normalize(image.to(device).float() / 255, list(MEAN), list(STD))
            padded[:, : image.shape[1], : image.shape[2]] = normalised
        if self.recipe.channels_last:
            inputs = inputs.to(memory_format=torch.channels_last)
        moved = [{name: value.to(device) for name, value in target.items()} for target in targets]
        return Batch(inputs, moved, torch.stack([target["index"] for target in moved]))

    def _as_coco(self, result: dict[str, Tensor], target: Target) -> list[coco_eval.Detection]:
        scale = target["stored_size"].flip(0).float() / target["size"].flip(0).float()
        boxes = result["boxes"].float().cpu() * scale.repeat(2)
        boxes[:, 2:] -= boxes[:, :2]
        labels = result["labels"].cpu().tolist()
        return [
            {"image_id": int(target["image_id"]), "category_id": self.data.category_ids[label], "bbox": box, "score": s}
            for box, s, label in zip(boxes.tolist(), result["scores"].float().cpu().tolist(), labels, strict=True)
        ]


class _Split(Dataset[Sample | DataError]):
    """One split as uint8 tensors; what augmentation draws depends on the key alone, not on the worker."""

    def __init__(self, split: CocoSplit, transform: v2.Compose) -> None:
        self.split, self.transform = split, transform

    def __getitem__(self, key: Key) -> Sample | DataError:
        i = key[-1] % len(self.split)
        try:
            image, boxes, labels, image_id = self.split.load(i)
        except DataError as error:
            return error
        pixels = tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        stored = (pixels.shape[1], pixels.shape[2])
        framed = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=stored)
        with torch.random.fork_rng(devices=[]):
            # The CPU's generator alone: `torch.manual_seed` also queues a call, with a stack trace, for an absent CUDA.
            seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1
            torch.default_generator.manual_seed(int(seed))
            pixels, framed = self.transform(pixels, framed)
        target = {
            "boxes": torch.Tensor(framed),
            "labels": torch.from_numpy(labels),
            "size": torch.tensor(pixels.shape[1:]),
            "stored_size": torch.tensor(stored),
            "image_id": torch.tensor(image_id),
            "index": torch.tensor(i),
        }
        return torch.Tensor.as_subclass(pixels, Tensor), target


def _transform(recipe: Recipe, flip: float) -> v2.Compose:
    image = recipe.image
    assert isinstance(image, Resize)  # a detection recipe has no other
    shorter = [image.shorter] if image.shorter < image.longer else None  # None: bring the longer side to max_size
    resize = v2.Resize(shorter, max_size=image.longer, antialias=True)
    return v2.Compose([resize, v2.RandomHorizontalFlip(flip)])


def _collate(samples: list[Sample]) -> tuple[list[Tensor], list[Target]]:
    return [image for image, _ in samples], [target for _, target in samples]


def _typical_size(split: CocoSplit, recipe: Recipe) -> tuple[int, int]:
    """The padded input size of the split's first image: what FLOPs are quoted at."""
    width, height = split.size(0)
    # The transform itself says, because its rounding decides at the border between two paddings.
    resized = _transform(recipe, flip=0.0)(tv_tensors.Image(torch.zeros(1, height, width, dtype=torch.uint8)))
    padded = [-(-side // MULTIPLE) * MULTIPLE for side in resized.shape[1:]]
    return padded[0], padded[1]
