"""Image classification: batches from arrays on the device or from files, cross-entropy, top-1 and top-5."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.datasets.base import ArraySplit, FileSplit, ImageSet
from kdbench.methods.base import Batch, Outputs

from ..errors import SpecError
from ..networks.base import Network
from ..spec.recipe import PaddedCrop, Recipe, ResizedCrop
from . import augment, image_files
from .base import BATCHES, Task, refuse_large_batch
from .loading import grouped, load

EVALUATED = 250  # images a batch when evaluating


class ClassificationTask(Task):
    """Classification on one image set.

    Args:
        data: arrays, which are held on the device as uint8 and augmented there, or image files.
        recipe: batch size, augmentation and label smoothing.
        data_seed: of the data order and the augmentation.
        workers: loader processes for image files; the batches do not depend on it.

    Raises:
        SpecError: the recipe's augmentation does not fit the data or the batch, or the batch is larger than the
            training set.
    """

    headline = "top1"

    def __init__(self, data: ImageSet, recipe: Recipe, data_seed: int, workers: int = 0) -> None:
        self.data, self.recipe, self.data_seed, self.workers = data, recipe, data_seed, workers
        self.classes = data.classes
        self.num_samples = len(data.train)
        self.train_targets = torch.from_numpy(data.train.labels)
        self.batch_size = recipe.batch_size
        wanted = PaddedCrop if isinstance(data.train, ArraySplit) else ResizedCrop
        if not isinstance(recipe.image, wanted):
            kind = wanted.model_fields["kind"].default
            raise SpecError(
                f"recipe {recipe.name}: image.kind {recipe.image.kind} does not fit {data.path}, "
                f"which needs {kind}; choose a recipe for such data"
            )
        refuse_large_batch(recipe, self.num_samples, data.path)
        if self._mix() is not None and self.batch_size % 2:
            raise SpecError(
                f"recipe {recipe.name}: batch_size {self.batch_size} is odd, and image.mixup and image.cutmix mix the "
                "images of a batch in pairs; make it even with --set batch_size=N"
            )
        rounding = data.epoch_images if recipe.drop_last else data.epoch_images + self.batch_size - 1
        self.steps_per_epoch = recipe.epoch_steps or rounding // self.batch_size
        self.image_size = _image_size(data, recipe)
        self._kept: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def batches(self, epoch: int, device: torch.device, stream: str = "train", skip: int = 0) -> Iterator[Batch]:
        if isinstance(self.data.train, FileSplit):
            yield from self._from_files(self.data.train, epoch, stream, device, skip)
        else:
            yield from self._from_arrays(epoch, stream, device, skip)

    def outputs(self, network: Network, batch: Batch) -> Outputs:
        outputs: Outputs = network(batch.inputs)
        assert isinstance(outputs.logits, Tensor)
        with torch.autocast(batch.inputs.device.type, enabled=False):
            smoothing = self.recipe.label_smoothing
            loss = F.cross_entropy(outputs.logits.float(), batch.targets, label_smoothing=smoothing)
        outputs.losses = {"cross_entropy": loss}
        return outputs

    @torch.inference_mode()
    def evaluate(self, network: Network, device: torch.device, reference: bool, full: bool = False) -> dict[str, float]:
        return self._shares("top1", "top5", [_ranks(*shown) for shown in self._val_logits(network, device, full)])

    @torch.inference_mode()
    def evaluate_teacher(self, network: Network, device: torch.device) -> tuple[dict[str, float], Tensor | None]:
        ranks, answers = [], []
        for logits, labels in self._val_logits(network, device, full=True):
            ranks.append(_ranks(logits, labels))
            answers.append(logits.argmax(dim=1).cpu())
        return self._shares("top1", "top5", ranks), torch.cat(answers)

    @torch.inference_mode()
    def evaluate_student(
        self, network: Network, device: torch.device, answers: Tensor | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        if answers is None:
            return super().evaluate_student(network, device, answers)
        ranks, agreed = [], []
        taught = answers.to(device).split(EVALUATED)
        for (logits, labels), own in zip(self._val_logits(network, device, full=False), taught, strict=True):
            ranks.append(_ranks(logits, labels))
            agreed.append(_ranks(logits, own))
        return self._shares("top1", "top5", ranks), self._shares("agreement", "agreement5", agreed)

    def _val_logits(self, network: Network, device: torch.device, full: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [n, K] and labels [n] of the validation images, EVALUATED at a time."""
        network.eval()
        for images, labels in self._val_batches(device, full):
            # In float32 whatever the recipe: in bfloat16 the two best classes often round to one number.
            yield network(images).logits, labels

    def _shares(self, first: str, five: str, ranks: list[Tensor]) -> dict[str, float]:
        """Percent of images whose class is the best, and among the best five where that can be wrong."""
        rank = torch.cat(ranks)
        metrics = {first: (rank <= 1).double().mean().item() * 100}
        if len(self.classes) > 5:
            metrics[five] = (rank <= 5).double().mean().item() * 100
        return metrics

    def evaluator(self, reference: bool) -> str:
        return f"torch {torch.__version__}"

    @property
    def _epoch_samples(self) -> int:
        whole = super()._epoch_samples
        return whole if self.recipe.epoch_steps else min(whole, self.data.epoch_images)

    def _from_arrays(self, epoch: int, stream: str, device: torch.device, skip: int) -> Any:
        assert isinstance(self.recipe.image, PaddedCrop)
        padding, flip = self.recipe.image.padding, self.recipe.image.flip
        padded, labels = self._on(device, padding)
        seed = (self.data_seed, BATCHES[stream])
        draws = augment.draw_parts(seed, self.num_samples, self._parts(epoch), padding, flip, device)
        for start in range(skip * self.batch_size, len(draws.index), self.batch_size):
            group = slice(start, start + self.batch_size)
            images = self._finished(augment.crop(padded, draws, group, *self.image_size))
            index = draws.index[group]
            yield self._batch(images, labels[index], index)

    def _from_files(self, split: FileSplit, epoch: int, stream: str, device: torch.device, skip: int) -> Any:
        assert isinstance(self.recipe.image, ResizedCrop)
        # The images' own draws are numbered below this.
        drawn = -(-self._epoch_samples // self.num_samples) * self.num_samples
        samples = image_files.Files(split, image_files.training(self.data, self.recipe.image))
        groups = grouped(self._keys(epoch, stream), self.batch_size)[skip:]
        mix = self._mix()
        for number, (images, labels, index) in enumerate(load(samples, groups, self.workers), skip):
            inputs, targets = images.to(device), labels.to(device)
            if mix is not None and len(inputs) % 2 == 0:  # an epoch's last, odd batch stays as it is: our choice
                with image_files.drawing((self.data_seed, BATCHES[stream], epoch, drawn + number)):
                    inputs, targets = mix(inputs, targets)
            yield self._batch(self._laid_out(inputs), targets, index.to(device))

    def _mix(self) -> Any:
        """timm's Mixup and CutMix, which make targets [N, K] of labels [N]; None where the recipe has neither."""
        image = self.recipe.image
        if not isinstance(image, ResizedCrop) or not (image.mixup or image.cutmix):
            return None
        from timm.data.mixup import Mixup

        return Mixup(image.mixup, image.cutmix, label_smoothing=0.0, num_classes=len(self.classes))

    def _batch(self, images: Tensor, targets: Tensor, index: Tensor) -> Batch:
        if self.data.resolution is None:
            return Batch(images, targets, index)
        return Batch(augment.reduce_resolution(images, self.data.resolution), targets, index, full_inputs=images)

    def _val_batches(self, device: torch.device, full: bool) -> Iterator[tuple[Tensor, Tensor]]:
        val = self.data.val
        if isinstance(val, FileSplit):
            assert isinstance(self.recipe.image, ResizedCrop)
            samples = image_files.Files(val, image_files.validation(self.data, self.recipe.image))
            groups = grouped([(0, i) for i in range(len(val))], EVALUATED)
            for images, labels, _ in load(samples, groups, self.workers):
                yield self._laid_out(images.to(device)), labels.to(device)
            return
        pixels, labels = self._val_arrays
        for start in range(0, len(val), EVALUATED):
            chosen = slice(start, start + EVALUATED)
            images = self._finished(pixels[chosen].to(device).permute(0, 3, 1, 2))
            if self.data.resolution is not None and not full:
                images = augment.reduce_resolution(images, self.data.resolution)
            yield images, labels[chosen].to(device)

    @cached_property
    def _val_arrays(self) -> tuple[Tensor, Tensor]:
        assert isinstance(self.data.val, ArraySplit)
        return torch.from_numpy(self.data.val.images), torch.from_numpy(self.data.val.labels)

    def _on(self, device: torch.device, padding: int) -> tuple[Tensor, Tensor]:
        """The padded training set and its labels, brought to the device once."""
        if device not in self._kept:
            assert isinstance(self.data.train, ArraySplit)
            images = augment.pad(torch.from_numpy(self.data.train.images).to(device), padding)
            self._kept[device] = images, torch.from_numpy(self.data.train.labels).to(device)
        return self._kept[device]

    def _finished(self, images: Tensor) -> Tensor:
        return self._laid_out(augment.normalise(images, self.data.mean, self.data.std))

    def _laid_out(self, images: Tensor) -> Tensor:
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        return images.contiguous(memory_format=layout)


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Place of the class `labels` [N] among the logits [N, K], from 1: int64 [N].

    Whatever is not below that class counts against it: ties, and logits that are no numbers.
    """
    return (~(logits < logits.gather(1, labels[:, None]))).sum(dim=1)


def _image_size(data: ImageSet, recipe: Recipe) -> tuple[int, int]:
    """Height and width of the network's input."""
    if isinstance(data.train, ArraySplit):
        return data.train.images.shape[1], data.train.images.shape[2]
    assert isinstance(recipe.image, ResizedCrop)
    return recipe.image.size, recipe.image.size
