"""detectron2's detectors as `Network`s: its losses and detections, and the outputs of its modules."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench import networks
from kdbench.errors import CheckpointError, SpecError
from kdbench.methods.base import Batch, Outputs
from kdbench.networks import _detectron2_zoo as zoo
from kdbench.networks import detectron2
from kdbench.networks.base import MEAN, STD
from kdbench.networks.load import load_network
from tests.helpers.tensors import buffers, equal

pytestmark = [
    pytest.mark.skipif(bool(detectron2.unavailable()), reason=detectron2.unavailable()),
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),  # detectron2 calls it the old way
]

K = 5
HEIGHT, WIDTH = 96, 128
SIZES = [(HEIGHT, WIDTH), (96, 100), (70, WIDTH)]  # before padding
CLASSES = tuple("abcde")

mini = pytest.mark.parametrize("name", zoo.MINI)
dense = pytest.mark.parametrize("name", [name for name in zoo.MINI if "rcnn" not in name])
two_stage = pytest.mark.parametrize("name", [name for name in zoo.MINI if "rcnn" in name])

Targets = list[dict[str, Tensor]]


def pictures() -> list[Tensor]:
    """RGB, 0..255, of several sizes; the first is as large as the padded batch."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), generator=draw).float() for size in SIZES]


def padded() -> Tensor:
    """The pictures as the detection task normalizes and pads them."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    batch = torch.zeros(len(SIZES), 3, HEIGHT, WIDTH)
    for target, image in zip(batch, pictures(), strict=True):
        target[:, : image.shape[1], : image.shape[2]] = (image / 255 - mean) / std
    return batch


def targets(*counts: int) -> Targets:
    draw = torch.Generator().manual_seed(1)
    truth = []
    for count, size in zip(counts, SIZES, strict=True):
        corner = torch.rand(count, 2, generator=draw) * 40
        boxes = torch.cat([corner, corner + 8 + torch.rand(count, 2, generator=draw) * 20], 1)
        truth.append(
            {"boxes": boxes, "labels": torch.randint(0, K, (count,), generator=draw), "size": torch.tensor(size)}
        )
    return truth


def given(truth: Targets | None = None) -> list[dict[str, Any]]:
    """The same batch in the format of detectron2's loader."""
    from detectron2.structures import Boxes, Instances

    inputs: list[dict[str, Any]] = [{"image": image.flip(0)} for image in pictures()]
    for image, size, target in zip(inputs, SIZES, truth or [], strict=False):
        image["instances"] = Instances(size, gt_boxes=Boxes(target["boxes"]), gt_classes=target["labels"])
    return inputs


def build(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return networks.build(f"detectron2:{name}", K)


def settled(name: str) -> Any:
    """In eval mode with the statistics of the batch, so that float noise stays small, and with class scores that are
    neither silent nor equal, so that there is something to detect and an order to find it in."""
    network = build(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(padded())
        for key, parameter in network.named_parameters():
            if key.endswith("cls_score.bias"):
                parameter.zero_()
            elif key.endswith(("cls_score.weight", "ctrness.weight", "objectness_logits.weight")):
                parameter.mul_(30)
    return network.eval()


def losses_of(model: Any, truth: Targets) -> dict[str, Tensor]:
    from detectron2.utils.events import EventStorage

    with EventStorage():
        losses: dict[str, Tensor] = model(given(truth))
    return losses


@mini
@pytest.mark.parametrize("counts", [(3, 1, 4), (2, 0, 3), (0, 0, 0)], ids=["boxes", "one empty", "all empty"])
def test_losses_are_detectron2s_step_after_step(name: str, counts: tuple[int, ...]) -> None:
    network = build(name).train()
    theirs, truth = copy.deepcopy(network.model), targets(*counts)
    for step in range(2):  # the second divides by the running mean that the first moved
        torch.manual_seed(step)
        ours = network(padded(), truth).losses
        torch.manual_seed(step)
        expected = losses_of(theirs, truth)
        assert ours.keys() == expected.keys()
        for key, loss in ours.items():
            assert loss.ndim == 0 and loss.dtype == torch.float32
            assert loss.item() == pytest.approx(expected[key].item(), rel=1e-4, abs=1e-6), key
    if sum(counts):
        assert all(loss > 0 for key, loss in ours.items() if "stage" not in key)


@mini
def test_features_logits_and_deltas_are_what_its_modules_return(name: str) -> None:
    network = settled(name)
    model = network.model
    with torch.no_grad():
        outputs = network(padded())
        maps = model.backbone(model.preprocess_image(given()).tensor)
        features = [maps[level] for level in network.levels]
        head = model.proposal_generator.rpn_head if "rcnn" in name else model.head
        logits, deltas, *centerness = head(features)
    assert isinstance(outputs, Outputs) and outputs.losses == {}
    assert network.info.strides == (8, 16, 32)
    assert [level.shape[1] for level in outputs.features] == list(network.info.channels)
    anchors = {"retinanet": 9, "fcos": 1, "faster_rcnn": 3}[networks.family(f"detectron2:{name}")]
    assert outputs.logits[0].shape == (3, anchors * (1 if "rcnn" in name else K), HEIGHT // 8, WIDTH // 8)
    expected = [(outputs.features, features), (outputs.logits, logits), (outputs.boxes, deltas)]
    if centerness:
        expected.append((outputs.extra["centerness"], centerness[0]))
    for ours, theirs in expected:
        for level, reference in zip(ours, theirs, strict=True):
            torch.testing.assert_close(level, reference, rtol=1e-4, atol=1e-4)


@mini
def test_detections_are_detectron2s(name: str) -> None:
    network = settled(name)
    with torch.no_grad():
        ours = network.detect(padded(), SIZES)
        theirs = [image["instances"] for image in network.model(given())]
    assert sum(len(image["scores"]) for image in ours) > 0
    for found, expected, (height, width) in zip(ours, theirs, SIZES, strict=True):
        torch.testing.assert_close(found["scores"], expected.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["boxes"], expected.pred_boxes.tensor, rtol=1e-4, atol=1e-2)
        assert torch.equal(found["labels"], expected.pred_classes)
        assert len(found["scores"]) <= 100 and 0 <= found["labels"].min() <= found["labels"].max() < K
        assert found["boxes"][:, 0::2].max() <= width and found["boxes"][:, 1::2].max() <= height


@dense
def test_what_the_head_returned_is_not_changed_by_detecting(name: str) -> None:
    network = build(name).eval()
    hooked: list[Any] = []
    network.model.head.register_forward_hook(lambda _module, _inputs, output: hooked.append(output))
    with torch.no_grad():
        network.detect(padded(), SIZES)
        network(padded())
    for detected, outputs in zip(hooked[0], hooked[1], strict=True):
        assert all(map(torch.equal, detected, outputs))


@mini
def test_every_parameter_gets_a_finite_gradient_from_the_losses(name: str) -> None:
    network = build(name).train()
    torch.stack(list(network(padded(), targets(3, 1, 4)).losses.values())).sum().backward()
    gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert sum(bool(gradient.abs().sum() > 0) for gradient in gradients.values()) > 0.9 * len(gradients)


@mini
def test_a_forward_in_eval_mode_changes_no_buffer_and_one_in_train_mode_does(name: str) -> None:
    network = build(name).eval()
    before = buffers(network)
    with torch.no_grad():
        outputs = network(padded(), targets(2, 1, 1))
        network.detect(padded(), SIZES)
        network.outputs_for_student(outputs, outputs, Batch(padded(), targets(2, 1, 1), torch.arange(3)))
    assert equal(buffers(network), before) and not any(module.training for module in network.modules())
    network.train()(padded(), targets(2, 1, 1))
    assert not equal(buffers(network), before)


@dense
def test_a_resumed_network_continues_with_the_running_mean_of_its_losses(name: str) -> None:
    network = build(name).train()
    network(padded(), targets(3, 1, 4))
    resumed = build(name, seed=1).train()
    resumed.load_state_dict(network.state_dict())
    ours, theirs = (trained(padded(), targets(2, 2, 2)).losses for trained in (network, resumed))
    assert {key: loss.item() for key, loss in ours.items()} == {key: loss.item() for key, loss in theirs.items()}
    assert network.normaliser > 0 and torch.equal(network.normaliser, resumed.normaliser)


@mini
def test_losses_from_its_own_features_are_the_losses_of_the_forward_and_reach_the_features(name: str) -> None:
    network = build(name).eval().requires_grad_(False)
    batch = Batch(padded(), targets(3, 1, 4), torch.arange(3))
    torch.manual_seed(5)
    outputs = network(batch.inputs, batch.targets)
    features = tuple(level.detach().requires_grad_() for level in outputs.features)
    torch.manual_seed(5)
    again = network.losses_from(features, batch)
    assert {key: loss.item() for key, loss in again.items()} == {key: v.item() for key, v in outputs.losses.items()}
    torch.stack(list(again.values())).sum().backward()
    assert all(level.grad is not None and level.grad.isfinite().all() for level in features)


@two_stage
def test_the_roi_head_returns_sampled_proposals_with_the_background_first(name: str) -> None:
    network = build(name).train()
    outputs = network(padded(), targets(3, 0, 4))
    proposals, rows = outputs.extra["proposals"], sum(len(p) for p in outputs.extra["proposals"])
    assert len(proposals) == 3 and all(p.shape[1] == 4 and len(p) <= 32 for p in proposals)
    assert outputs.extra["roi_logits"].shape == (rows, K + 1)
    assert outputs.extra["roi_boxes"].shape == (rows, 4 if "cascade" in name else K * 4)
    predictor = network.model.roi_heads.box_predictor
    first = predictor[0] if "cascade" in name else predictor
    with torch.no_grad():  # a head that is sure of the background, which detectron2 counts last
        first.cls_score.bias[K] = 100.0
    assert (network(padded(), targets(3, 0, 4)).extra["roi_logits"].argmax(1) == 0).all()


@pytest.mark.parametrize("source", ["mini_faster_rcnn_teacher", "mini_cascade_rcnn_teacher"])
def test_a_teacher_reads_exactly_the_students_proposals(source: str) -> None:
    from detectron2.structures import Boxes

    student, teacher = build("mini_faster_rcnn_student").train(), build(source, seed=1).eval()
    batch = Batch(padded(), targets(3, 0, 4), torch.arange(3))
    outputs = student(batch.inputs, batch.targets)
    with torch.no_grad():
        outputs_of_teacher = teacher(batch.inputs)
        matched = teacher.outputs_for_student(outputs_of_teacher, outputs, batch)
        heads, first = teacher.model.roi_heads, (lambda part: part[0] if "cascade" in source else part)
        pooled = heads.box_pooler(list(outputs_of_teacher.features), [Boxes(p) for p in outputs.extra["proposals"]])
        logits, boxes = first(heads.box_predictor)(first(heads.box_head)(pooled))
    assert all(map(torch.equal, matched.extra["proposals"], outputs.extra["proposals"]))
    assert torch.equal(matched.extra["roi_logits"], torch.cat([logits[:, K:], logits[:, :K]], 1))
    assert torch.equal(matched.extra["roi_boxes"], boxes)
    assert (
        matched.features is outputs_of_teacher.features
        and matched.logits is outputs_of_teacher.logits
        and outputs_of_teacher.extra == {}
    )


def test_bfloat16_losses_are_float32_and_near_those_of_float32() -> None:
    for name in ("mini_retinanet_student", "mini_fcos_student", "mini_faster_rcnn_student"):
        network = build(name).eval()
        torch.manual_seed(5)
        exact = network(padded(), targets(3, 1, 4)).losses
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(padded(), targets(3, 1, 4)).losses
            network.detect(padded(), SIZES)
        for key, loss in rough.items():
            assert loss.dtype == torch.float32
            assert loss.item() == pytest.approx(exact[key].item(), rel=0.1, abs=0.05), key


@mini
def test_the_same_seed_builds_the_same_weights_and_another_seed_different_ones(name: str) -> None:
    first, again, different = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert equal(first, again) and not equal(first, different)


@mini
def test_small_teachers_hold_3_to_4_million_parameters_and_students_06(name: str) -> None:
    held = sum(parameter.numel() for parameter in networks.build(f"detectron2:{name}", 10).parameters())
    assert held == pytest.approx(3.5e6 if name.endswith("teacher") else 0.65e6, rel=0.25)


def test_every_named_config_builds_with_the_class_count_of_the_data() -> None:
    for name in zoo.names():
        with torch.device("meta"):
            network = networks.build(name, 7)
        strides = (8, 16, 32) if "mini_" in name else (8, 16, 32, 64, 128)
        if networks.family(name) == "faster_rcnn" and "mini_" not in name:
            strides = (4, 8, 16, 32, 64)
        assert network.info.strides == strides, name
        trained = [parameter.requires_grad for parameter in network.parameters()]
        assert all(trained), name  # from random weights nothing may stay frozen
        assert not any(type(module).__name__ == "FrozenBatchNorm2d" for module in network.modules()), name
        if "agnostic" in name or "cascade" in name:  # what a cascade's stage and its student compare
            deltas = [value for key, value in network.state_dict().items() if key.endswith("bbox_pred.bias")]
            assert deltas and all(len(bias) == 4 for bias in deltas), name
        heads = [value for key, value in network.state_dict().items() if key.endswith("cls_score.bias")]
        assert all(len(head) in (7 * (9 if networks.family(name) == "retinanet" else 1), 8) for head in heads), name


def as_published(network: Any, path: Path) -> Path:
    """The file that detectron2's zoo would have of a network: detectron2's names, arrays, no counters."""
    state = {key: value.numpy() for key, value in network.model.state_dict().items() if "num_batches" not in key}
    state |= {"pixel_mean": torch.zeros(3, 1, 1).numpy()}
    path.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}))
    return path


def test_a_published_file_is_loaded_strictly(tmp_path: Path) -> None:
    network = build("mini_faster_rcnn_student", seed=3).eval()
    file = as_published(network, tmp_path / "model_final.pkl")
    loaded = load_network(file, "detectron2:mini_faster_rcnn_student", CLASSES, torch.device("cpu")).eval()
    with torch.no_grad():
        assert all(map(torch.equal, network(padded()).logits, loaded(padded()).logits))


def test_weights_of_another_model_or_class_count_are_refused(tmp_path: Path) -> None:
    file = as_published(build("mini_faster_rcnn_student"), tmp_path / "model_final.pkl")
    with pytest.raises(CheckpointError, match=r"model_final.pkl is another network's.*model\.head"):
        load_network(file, "detectron2:mini_fcos_student", CLASSES, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="made for another number of classes"):
        load_network(file, "detectron2:mini_faster_rcnn_student", CLASSES[:3], torch.device("cpu"))


R50 = "detectron2:COCO-Detection/retinanet_R_50_FPN_1x"


def test_imagenet_weights_of_the_config_are_loaded_and_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.networks import _detectron2_weights as weights

    torch.manual_seed(3)
    body = networks.build(R50, 3).model.backbone.bottom_up.state_dict()  # type: ignore[union-attr, operator]
    file = tmp_path / "R-50.pkl"
    kept = {key: value.numpy() for key, value in body.items() if "num_batches" not in key}
    file.write_bytes(pickle.dumps({"model": kept, "__author__": "torchvision", "matching_heuristics": True}))
    asked = []
    monkeypatch.setattr(weights, "find", lambda origin: asked.append(origin) or file)
    network: Any = networks.build(R50, 3, init="imagenet")
    assert asked == ["detectron2://ImageNetPretrained/MSRA/R-50.pkl"]
    loaded = network.model.backbone.bottom_up
    assert all(torch.equal(value, body[key]) for key, value in loaded.state_dict().items())
    frozen = {key.split(".")[0] for key, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {"stem", "res2"}
    # What was saved of it loads into the network that evaluation builds.
    torch.save({"state": network.state_dict()}, tmp_path / "student.pt")
    again = load_network(tmp_path / "student.pt", R50, CLASSES[:3], torch.device("cpu")).eval()
    with torch.no_grad():
        x = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(again(x).logits, network.eval()(x).logits, rtol=1e-4, atol=1e-4)
    file.write_bytes(pickle.dumps({"model": {"conv1.weight": kept["stem.conv1.weight"]}}))
    with pytest.raises(CheckpointError, match=r"R-50.pkl is another backbone's"):
        networks.build(R50, 3, init="imagenet")


def test_weights_of_the_zoo_are_taken_from_its_cache_strictly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.networks import _detectron2_weights as weights

    torch.manual_seed(3)
    source: Any = networks.build(R50, 3)
    file, asked = as_published(source, tmp_path / "model_final_bfca0b.pkl"), []
    monkeypatch.setattr(weights, "find", lambda origin: asked.append(origin) or file)
    network = networks.build(R50, 3, init="published")
    assert asked[0].endswith("detectron2/COCO-Detection/retinanet_R_50_FPN_1x/190397773/model_final_bfca0b.pkl")
    published = source.state_dict()
    assert all(torch.equal(value, published[key]) for key, value in network.state_dict().items())
    with pytest.raises(CheckpointError, match=r"model_final_bfca0b.pkl does not fit.*another number of classes"):
        networks.build(R50, 4, init="published")


def test_missing_weights_say_where_to_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdbench.networks import _detectron2_weights as weights

    def offline(_: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr(weights.PathManager, "get_local_path", offline)
    with pytest.raises(CheckpointError, match=r"MSRA/R-50.pkl is not in detectron2's cache .*init=random"):
        networks.build(R50, 3, init="imagenet")
    with pytest.raises(CheckpointError, match=r"zoo has no weights for COCO-Detection/fcos_R_50|cannot be searched"):
        networks.build("detectron2:COCO-Detection/fcos_R_50_FPN_1x", 80, init="published")


def test_a_config_that_does_not_exist_suggests_the_nearest() -> None:
    with pytest.raises(SpecError, match=f"unknown network.*Did you mean '{R50}'"):
        networks.build("detectron2:COCO-Detection/retinanet_R_50_FPM_1x", 3)
    with pytest.raises(SpecError, match="unknown network: 'detectron2:COCO-Detection/rpn_R_50_FPN_1x'"):
        networks.build("detectron2:COCO-Detection/rpn_R_50_FPN_1x", 3)
    with pytest.raises(SpecError, match="has no weights 'published' to start from"):
        networks.build("detectron2:mini_fcos_student", 3, init="published")


def test_check_says_which_version_is_there_and_that_its_operators_load() -> None:
    line, wrong = detectron2.report()
    assert line.startswith("detectron2: 0.") and "its compiled operators load" in line and not wrong
