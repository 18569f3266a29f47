"""The interface of every network: one forward returns everything that methods and the task read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdbench.methods.base import Batch, NetworkInfo, Outputs

Target = dict[str, Tensor]
"""Truth of an image: boxes [n, 4] float32, labels [n] int64, and `size` [2], its height and width before padding."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What a detector's images, RGB in 0..1, are normalized with; torchvision's weights expect it."""


def image_sizes(targets: Sequence[Target]) -> list[tuple[int, int]]:
    """Height and width of each image before padding; waits for the device, once."""
    return [(height, width) for height, width in torch.stack([target["size"] for target in targets]).tolist()]


class Network(nn.Module, ABC):
    """A teacher or a student.

    Attributes:
        info: channels and strides of `Outputs.features`, and the classifier where there is one.
        num_classes: K; a detector's background is not counted.
    """

    info: NetworkInfo
    num_classes: int

    @abstractmethod
    def forward(self, x: Tensor, targets: Any = None) -> Outputs:
        """Normalized images [N, 3, H, W] -> `Outputs`; with targets, a detector's hold its task losses too."""

    def infer(self, x: Tensor) -> Tensor:
        """The logits of `forward`, [N, K] or [N, K, h, w], without what only methods read.

        Networks that read features by hooks override it by a forward without hooks, which can be traced and exported.
        """
        logits = self(x).logits
        assert isinstance(logits, Tensor)
        return logits

    def used_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that inference needs."""
        return self.parameters()

    def outputs_for_student(self, outputs: Outputs, student: Outputs, batch: Batch) -> Outputs:
        """A teacher's outputs, completed with what depends on the student, such as logits at its region proposals.

        Args:
            outputs: of this network on `batch`.
            student: the student's outputs on `batch`.
            batch: the batch of both.
        """
        return outputs

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A state dict under the names of the network's library -> under those of this network.

        A network that keeps the library's model in `model` has its names after "model.".
        """
        names = self.state_dict().keys()
        inside = {f"model.{name}": value for name, value in state.items()}
        return inside if len(names & inside.keys()) > len(names & state.keys()) else state


class Detector(Network):
    """A detector: `forward` for training and distillation, `detect` for evaluation.

    Labels are 0..K-1, boxes (x1, y1, x2, y2) in pixels of the padded input.

    Attributes:
        backbone_prefixes: of the state dict entries below the neck.
    """

    backbone_prefixes: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def forward_head(self, features: tuple[Tensor, ...], x: Tensor, targets: list[Target] | None) -> Outputs:
        """The outputs of the head for a feature pyramid of the images `x`; with targets, the task losses too."""

    @abstractmethod
    def detect(self, x: Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Final detections of each image: boxes [n, 4], scores [n], labels [n]; `sizes` are heights and widths."""

    def losses_from(self, features: tuple[Tensor, ...], batch: Batch) -> dict[str, Tensor]:
        """The task losses when the head reads `features` instead of the network's pyramid."""
        return self.forward_head(features, batch.inputs, batch.targets).losses
