"""Batches, augmentation and evaluation of detection on COCO folders of every shape."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from kdbench.datasets import open_coco
from kdbench.datasets.coco import CocoFolder
from kdbench.errors import SpecError
from kdbench.methods.base import Batch, NetworkInfo, Outputs
from kdbench.networks.base import Network
from kdbench.spec.recipe import Recipe, load_recipe
from kdbench.tasks.detection import DetectionTask
from tests.helpers.tensors import equal

CPU = torch.device("cpu")
STORED = [(50, 40), (40, 61), (33, 80), (70, 30), (45, 45), (64, 48)]  # widths and heights
CATEGORIES = (3, 7, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    """Six smooth images a split, of six shapes, with boxes at whole pixels and category ids with gaps."""
    root = tmp_path_factory.mktemp("shapes") / "shapes"
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": f"c{i}"} for i in CATEGORIES],
        }
        for i, (width, height) in enumerate(STORED):
            coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((width, height), Image.Resampling.BICUBIC).save(root / split / f"{i}.png")
            content["images"].append({"id": 100 + 7 * i, "file_name": f"{i}.png", "width": width, "height": height})
            for _ in range(0 if i == 4 and split == "val" else 3):
                w, h = (int(v) for v in draw.integers(8, 20, 2))
                x, y = int(draw.integers(0, width - w)), int(draw.integers(0, height - h))
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": 100 + 7 * i,
                        "category_id": int(draw.choice(CATEGORIES)),
                        "bbox": [x, y, w, h],
                        "area": w * h,
                        "iscrowd": 0,
                    }
                )
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return open_coco("coco", root.parent, root)


def recipe_of(shorter: int = 64, longer: int = 96, flip: float = 0.5, **more: Any) -> Recipe:
    image = {"shorter": shorter, "longer": longer, "flip": flip}
    return load_recipe(
        "coco_mini", {"epoch_steps": None, "batch_size": 2, "image": image, "precision": "float32", **more}
    )


def task_of(folder: CocoFolder, seed: int = 5, workers: int = 0, **image: Any) -> DetectionTask:
    return DetectionTask(folder, recipe_of(**image), seed, workers)


def batches(task: DetectionTask, epoch: int = 0, stream: str = "train") -> list[Batch]:
    return list(task.batches(epoch, CPU, stream))


def single(task: DetectionTask, flip: bool | None = None) -> dict[int, tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Input and target of every training image, by its position in the training set."""
    return {
        int(i): (inputs, target)
        for batch in batches(task)
        for i, inputs, target in zip(batch.index, batch.inputs, batch.targets, strict=True)
    }


def test_batches_after_the_first_few_are_those_of_the_epoch(folder: CocoFolder) -> None:
    task = task_of(folder)
    for skip in (1, 2, 3):
        assert equal(list(task.batches(0, CPU, skip=skip)), batches(task)[skip:])


def test_batches_are_the_same_with_and_without_workers(folder: CocoFolder) -> None:
    alone = batches(task_of(folder))
    assert len(alone) == 3
    assert equal(alone, batches(task_of(folder, workers=2)))


def test_batches_do_not_depend_on_what_was_drawn_before_and_draw_nothing_from_it(folder: CocoFolder) -> None:
    task = task_of(folder)
    torch.manual_seed(1)
    np.random.seed(1)
    one = batches(task)
    torch.manual_seed(2)
    torch.rand(7)
    np.random.seed(2)
    stream: Iterator[Batch] = task.batches(0, CPU)
    other = []
    for batch in stream:
        torch.rand(3)  # a student that draws between batches
        other.append(batch)
    assert equal(one, other)


def test_epochs_seeds_and_streams_differ_in_order_and_augmentation(folder: CocoFolder) -> None:
    task = task_of(folder)
    streams = [batches(task), batches(task, 1), batches(task_of(folder, seed=6)), batches(task, 0, "prepare")]
    for i, one in enumerate(streams):
        assert all(not equal(one, other) for other in streams[i + 1 :])
    orders = {tuple(i for batch in one for i in batch.index.tolist()) for one in streams}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert equal(streams[1], batches(task, 1))


def test_flips_are_drawn_anew_for_each_image_and_epoch(folder: CocoFolder) -> None:
    task, never = task_of(folder), single(task_of(folder, flip=0.0))
    flipped = []
    for epoch in range(8):
        for batch in batches(task, epoch):
            for i, target in zip(batch.index.tolist(), batch.targets, strict=True):
                flipped.append(not torch.equal(target["boxes"], never[i][1]["boxes"]))
    assert 0.25 < np.mean(flipped) < 0.75  # of 48


def test_the_last_part_of_a_batch_is_left_for_another_epoch(folder: CocoFolder) -> None:
    task = DetectionTask(folder, recipe_of(batch_size=4), 5)
    assert task.steps_per_epoch == 1 and [len(batch.inputs) for batch in batches(task)] == [4]


def test_epochs_of_a_number_of_steps_go_round_the_data_without_end(folder: CocoFolder) -> None:
    task = DetectionTask(folder, recipe_of(batch_size=4, epoch_steps=2), 5)
    assert task.steps_per_epoch == 2
    epochs = [batches(task, epoch) for epoch in range(3)]  # 24 samples: four rounds
    stream = [i for epoch in epochs for batch in epoch for i in batch.index.tolist()]
    assert all(sorted(stream[i : i + 6]) == list(range(6)) for i in range(0, 24, 6))
    cut = DetectionTask(folder, recipe_of(batch_size=4, epoch_steps=1), 5)
    assert equal(epochs[1], [*batches(cut, 2), *batches(cut, 3)])
    once = DetectionTask(folder, recipe_of(batch_size=6), 5)
    assert equal(batches(once, 2), batches(DetectionTask(folder, recipe_of(batch_size=6, epoch_steps=1), 5), 2))


def test_a_batch_larger_than_the_data_set_is_refused(folder: CocoFolder) -> None:
    assert DetectionTask(folder, recipe_of(batch_size=6), 5).steps_per_epoch == 1
    with pytest.raises(SpecError, match="batch_size 7 is above the 6 training images .*--set batch_size="):
        DetectionTask(folder, recipe_of(batch_size=7), 5)


def test_an_image_of_which_nothing_is_left_at_the_recipes_size_is_named(folder: CocoFolder) -> None:
    with pytest.raises(SpecError, match=r"0\.png is 50x40 pixels, and nothing is left .*--set image\.longer=3"):
        DetectionTask(folder, recipe_of(shorter=1, longer=1), 5)


def test_endless_batches_go_on_epoch_after_epoch(folder: CocoFolder) -> None:
    task = task_of(folder)
    stream = task.endless(CPU, "prepare")
    assert equal([next(stream) for _ in range(6)], [*batches(task, 0, "prepare"), *batches(task, 1, "prepare")])


def test_the_index_is_the_position_in_the_training_set(folder: CocoFolder) -> None:
    for batch in batches(task_of(folder)):
        for i, target in zip(batch.index.tolist(), batch.targets, strict=True):
            assert int(target["index"]) == i
            assert target["labels"].tolist() == folder.train.load(i)[2].tolist()
            assert target["stored_size"].tolist() == list(STORED[i])[::-1]


def test_a_flip_mirrors_pixels_and_boxes_exactly(folder: CocoFolder) -> None:
    plain, mirrored = single(task_of(folder, flip=0.0)), single(task_of(folder, flip=1.0))
    for i, (inputs, target) in plain.items():
        height, width = (int(v) for v in target["size"])
        other, flipped = mirrored[i]
        assert torch.equal(other[:, :height, :width], inputs[:, :height, :width].flip(2))
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        torch.testing.assert_close(flipped["boxes"], torch.stack([width - x2, y1, width - x1, y2], 1))
        assert torch.equal(flipped["labels"], target["labels"])


@pytest.mark.parametrize(
    ("stored", "shorter", "longer", "expected"),
    [
        ((640, 480), 800, 1333, (1066, 800)),  # landscape: the shorter side decides
        ((480, 640), 800, 1333, (800, 1066)),  # portrait
        ((640, 320), 800, 1333, (1333, 666)),  # the longer side decides
        ((320, 640), 800, 1333, (666, 1333)),
        ((500, 500), 800, 1333, (800, 800)),
        ((640, 480), 128, 128, (128, 96)),  # one size: the longer side
        ((480, 640), 128, 128, (96, 128)),
        ((2000, 1000), 800, 1333, (1333, 666)),  # shrunk
    ],
)
def test_the_shorter_side_is_brought_to_size_unless_the_longer_exceeds_its_own(
    stored: tuple[int, int], shorter: int, longer: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    task = DetectionTask(one_image(tmp_path, *stored), recipe_of(shorter, longer, 0.0, batch_size=1), 0)
    ((batch,),) = (batches(task),)
    width, height = expected
    assert batch.targets[0]["size"].tolist() == [height, width]
    padded = [-(-side // 32) * 32 for side in (height, width)]
    assert list(batch.inputs.shape) == [1, 3, *padded]
    assert list(task.image_size) == padded
    scale = torch.tensor([width / stored[0], height / stored[1]]).repeat(2)
    torch.testing.assert_close(batch.targets[0]["boxes"], torch.tensor([[10.0, 20.0, 110.0, 80.0]]) * scale)


def one_image(path: Path, width: int, height: int) -> CocoFolder:
    """A data set of one grey image, with one box, that both splits hold."""
    (path / "annotations").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": width, "height": height}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 100, 60], "area": 6000}],
        "categories": [{"id": 3, "name": "c3"}],
    }
    for split in ("train", "val"):
        (path / split).mkdir()
        Image.new("L", (width, height), 128).save(path / split / "1.png")
        (path / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return open_coco("coco", path.parent, path)


@pytest.mark.parametrize("stored", [(640, 427), (500, 347), (403, 500), (640, 329), (612, 612), (201, 177), (438, 200)])
@pytest.mark.parametrize(("shorter", "longer"), [(800, 1333), (480, 640), (128, 128), (608, 1000)])
def test_the_size_that_flops_are_quoted_at_is_that_of_a_real_batch(
    stored: tuple[int, int], shorter: int, longer: int, tmp_path: Path
) -> None:
    task = DetectionTask(one_image(tmp_path, *stored), recipe_of(shorter, longer, 0.0, batch_size=1), 0)
    assert tuple(batches(task)[0].inputs.shape[2:]) == task.image_size


def test_inputs_are_resized_normalized_and_padded_with_zeros(folder: CocoFolder) -> None:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    sizes = set()
    for batch in batches(task_of(folder, flip=0.0)):
        assert batch.inputs.dtype == torch.float32
        height, width = (int(v) for v in torch.stack([t["size"] for t in batch.targets]).max(0).values)
        assert batch.inputs.shape == (2, 3, -(-height // 32) * 32, -(-width // 32) * 32)
        for i, inputs, target in zip(batch.index.tolist(), batch.inputs, batch.targets, strict=True):
            height, width = (int(v) for v in target["size"])
            sizes.add((height, width))
            assert not inputs[:, height:].any() and not inputs[:, :, width:].any()
            image = torch.from_numpy(np.array(folder.train.load(i)[0])).permute(2, 0, 1).float()[None]
            resized = functional.interpolate(image, (height, width), mode="bilinear", antialias=True)[0]
            expected = (resized / 255 - mean[:, None, None]) / std[:, None, None]
            # uint8 rounds to the nearest of 256 levels
            torch.testing.assert_close(inputs[:, :height, :width], expected, rtol=0, atol=1.1 / 255 / 0.224)
    assert len(sizes) == 6


def test_boxes_scale_with_their_image(folder: CocoFolder) -> None:
    for i, (_, target) in single(task_of(folder, flip=0.0)).items():
        height, width = (int(v) for v in target["size"])
        stored_width, stored_height = STORED[i]
        scale = torch.tensor([width / stored_width, height / stored_height]).repeat(2)
        torch.testing.assert_close(target["boxes"], torch.from_numpy(folder.train.load(i)[1]) * scale)
        assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
        assert type(target["boxes"]) is torch.Tensor


def test_channels_last_changes_the_layout_and_no_number(folder: CocoFolder) -> None:
    plain = batches(DetectionTask(folder, recipe_of(channels_last=False), 5))
    last = batches(DetectionTask(folder, recipe_of(channels_last=True), 5))
    assert equal(plain, last)
    assert all(batch.inputs.is_contiguous(memory_format=torch.channels_last) for batch in last)


class Oracle(Network):
    """Finds the truth of each validation image: what it is handed, in the order of the data set."""

    info = NetworkInfo(channels=(1,))
    num_classes = len(CATEGORIES)

    def __init__(self, folder: CocoFolder, shift: float = 0.0) -> None:
        super().__init__()
        self.folder, self.shift, self.seen = folder, shift, 0
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, targets: Any = None) -> Outputs:
        raise NotImplementedError

    def detect(self, x: torch.Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, torch.Tensor]]:
        assert not self.training
        found = []
        for height, width in sizes:
            stored_width, stored_height = STORED[self.seen]
            scale = torch.tensor([width / stored_width, height / stored_height]).repeat(2)
            boxes, labels = self.folder.val.objects(self.seen)
            given = torch.from_numpy(boxes) * scale + self.shift
            found.append({"boxes": given, "scores": torch.full((len(boxes),), 0.9), "labels": torch.tensor(labels)})
            self.seen += 1
        return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("reference", [True, False])
def test_a_perfect_detector_scores_a_hundred(reference: bool, workers: int, folder: CocoFolder) -> None:
    task = task_of(folder, workers=workers, flip=1.0)  # evaluation never flips
    metrics = task.evaluate(Oracle(folder), CPU, reference)
    assert metrics["ap"] == pytest.approx(100) and metrics["ap75"] == pytest.approx(100)
    assert metrics[task.headline] == metrics["ap"]
    assert task.evaluate(Oracle(folder, shift=40.0), CPU, reference)["ap"] < 10


def test_classes_have_their_ap_and_the_number_of_their_boxes(folder: CocoFolder) -> None:
    found = task_of(folder).measure(Oracle(folder), CPU).by_class
    boxes = np.concatenate([folder.val.objects(i)[1] for i in range(len(folder.val))])
    assert found.counts == tuple(np.bincount(boxes, minlength=len(folder.classes)).tolist())
    assert [score is None for score in found.scores] == [count == 0 for count in found.counts]
    assert all(score == pytest.approx(100) for score in found.scores if score is not None)


def test_detections_of_chosen_images_are_those_of_all(folder: CocoFolder) -> None:
    everything = task_of(folder).detections(Oracle(folder), CPU)
    chosen = task_of(folder).detections(Oracle(folder), CPU, [0])
    assert chosen == [box for box in everything if box["image_id"] == folder.val.image_ids[0]] != []


def test_evaluation_is_in_float32_whatever_precision_trains(folder: CocoFolder) -> None:
    class Recorder(Oracle):
        reduced = False

        def detect(self, x: torch.Tensor, sizes: list[tuple[int, int]]) -> list[dict[str, torch.Tensor]]:
            self.reduced |= (x @ x.mT).dtype != torch.float32
            return super().detect(x, sizes)

    detector = Recorder(folder)
    task_of(folder, precision="bfloat16").detections(detector, CPU)
    assert detector.seen == len(STORED) and not detector.reduced


def test_detections_are_in_stored_pixels_under_the_data_sets_own_ids(folder: CocoFolder) -> None:
    truth = json.loads(folder.val.annotation_file.read_text())["annotations"]
    found = task_of(folder).detections(Oracle(folder), CPU)
    assert len(found) == len(truth) == 15
    for one, other in zip(found, truth, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-4)
    assert {one["category_id"] for one in found} == set(CATEGORIES)
    json.dumps(found)


def test_flops_are_counted_at_the_quoted_size_and_leave_the_network_as_it_was(folder: CocoFolder) -> None:
    from kdbench import networks

    network = networks.build("fcos_mini_student", 3).train()
    small = task_of(folder, shorter=64, longer=64).flops(network)
    large = task_of(folder, shorter=128, longer=128).flops(network)
    assert network.training
    assert large == pytest.approx(4 * small, rel=0.05)


MINI = Path(os.environ.get("KDBENCH_TEST_DATA", "nowhere")) / "coco_mini"


@pytest.mark.skipif(not MINI.is_dir(), reason="KDBENCH_TEST_DATA names no folder with coco_mini/")
def test_a_batch_of_real_coco_images_at_the_papers_size() -> None:
    folder = open_coco("coco", MINI.parent, MINI)
    recipe = load_recipe("coco_2x", {"batch_size": 4})
    batch = next(iter(DetectionTask(folder, recipe, 0).batches(0, CPU)))
    assert batch.inputs.shape[0] == 4 and all(side % 32 == 0 for side in batch.inputs.shape[2:])
    assert batch.inputs.isfinite().all() and 0.3 < batch.inputs.std() < 3
    for target in batch.targets:
        shorter, longer = sorted(target["size"].tolist())
        assert (shorter == 800 and longer <= 1333) or (shorter < 800 and longer == 1333)
        height, width = target["size"].tolist()
        boxes = target["boxes"]
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes[:, 0::2] <= width + 1e-3).all() and (boxes[:, 1::2] <= height + 1e-3).all()
        assert (target["labels"] >= 0).all() and (target["labels"] < len(folder.classes)).all()
