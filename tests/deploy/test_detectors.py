"""Detectors of tensors alone: the very detections of the networks that were evaluated."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from kdbench import networks
from kdbench.deploy.detectors import plain_detector
from kdbench.networks._torchvision_detectors import TorchvisionDetector

SIZES = [(96, 128, 90, 120), (64, 160, 60, 150)]
"""Height and width of an input, and of the image without padding."""


@pytest.mark.parametrize("head", ["retinanet", "fcos", "faster_rcnn"])
def test_the_same_boxes_scores_and_labels_are_kept(head: str) -> None:
    torch.manual_seed(0)
    network = cast(TorchvisionDetector, networks.build(f"{head}_mini_student", 10).eval())
    with torch.no_grad():  # so that there are many detections, which suppress each other
        for name, parameter in network.named_parameters():
            if name.endswith("cls_logits.bias"):
                parameter.fill_(-1.0)
            elif parameter.ndim > 1:
                parameter.mul_(1.3)
    plain = plain_detector(network)
    for height, width, rows, columns in SIZES:
        image = torch.randn(1, 3, height, width)
        with torch.inference_mode():
            (expected,) = network.detect(image, [(rows, columns)])
            boxes, scores, labels = plain(image, torch.tensor([rows, columns]))
        real = scores > 0
        assert int(real.sum()) == len(expected["scores"]) > 20
        assert torch.allclose(boxes[real], expected["boxes"], atol=1e-4)
        assert torch.allclose(scores[real], expected["scores"], atol=1e-6)
        assert torch.equal(labels[real], expected["labels"])


@pytest.mark.parametrize("head", ["retinanet", "fcos", "faster_rcnn"])
def test_an_image_without_a_detection_has_scores_of_zero(head: str) -> None:
    torch.manual_seed(0)
    network = cast(TorchvisionDetector, networks.build(f"{head}_mini_student", 3).eval())
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("cls_logits.bias"):
                parameter.fill_(-50.0)
            elif name.endswith("box_predictor.cls_score.bias"):
                parameter.copy_(torch.tensor([50.0, 0.0, 0.0, 0.0]))
        boxes, scores, labels = plain_detector(network)(torch.zeros(1, 3, 64, 64), torch.tensor([64, 64]))
    assert not scores.any() and boxes.shape == (len(scores), 4) and labels.shape == scores.shape
