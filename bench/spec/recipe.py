"""What a recipe is: how a network is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from ..errors import SpecError, unknown
from ..text import counted
from .schema import Spec, current_name, merged, parse, read_yaml

LARGEST = 2**31 - 1  # of a whole number: more than any count of epochs, steps or pixels
RECIPES = Path(__file__).parents[1] / "recipes"

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(gt=0, le=LARGEST)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]

FLOAT32 = "float32"
"""The name of `ieee` in recipes and rows of earlier versions, and in what run ids are hashes of."""

Precision = Annotated[
    Literal["ieee", "tf32", "bfloat16"], BeforeValidator(lambda value: "ieee" if value == FLOAT32 else value)
]
PRECISIONS: tuple[str, ...] = get_args(get_args(Precision)[0])


def _added(default: Any) -> Any:
    """A field that recipes got later: written and hashed only where it is not the default, so earlier ids stay."""
    return Field(default=default, exclude_if=lambda value: value == default)


class Resize(Spec):
    """How a detection image is brought to size, in pixels: shorter side at `shorter` unless longer exceeds `longer`."""

    kind: Literal["resize"] = "resize"
    shorter: Positive
    longer: Positive
    flip: Share = 0.5

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shorter > self.longer:
            raise ValueError(f"shorter {self.shorter} is above longer {self.longer}")
        return self


class PaddedCrop(Spec):
    """Small images in whole batches on the device: padded with zeros on each side, cropped back at random, flipped."""

    kind: Literal["padded_crop"] = "padded_crop"
    padding: Count = 4
    flip: Share = 0.5


class ResizedCrop(Spec):
    """ImageNet's: a random part in a random aspect, brought to `size`; validation resizes to `val_resize` and crops."""

    kind: Literal["resized_crop"] = "resized_crop"
    size: Positive = 224
    val_resize: Positive = 256
    scale: tuple[Share, Share] = (0.08, 1.0)  # share of the image's area
    flip: Share = 0.5
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    rand_augment: str | None = None  # timm's notation, such as rand-m9-mstd0.5
    color_jitter: Annotated[float, Field(ge=0)] = 0.0  # timm leaves it out beside rand_augment
    random_erasing: Share = 0.0  # probability; pixel-wise noise
    mixup: Annotated[float, Field(ge=0)] = 0.0  # alpha; 0 for none
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    # of JPEGs; torchvision's is faster, with the same crops and pixels that differ by rounding in resizing
    decoder: Literal["pillow", "torchvision"] = _added("pillow")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.val_resize < self.size:
            raise ValueError(f"val_resize {self.val_resize} is below size {self.size}, so crops would be padded")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {list(self.scale)} must be ascending")
        return self


class ScaledCrop(Spec):
    """Segmentation's: image and mask at a random scale, a random crop of it, flipped; validation is the whole image.

    The crop must fit the images as stored. Where a scale below 1 leaves less, the image is padded at the right and
    bottom with zeros (after normalising) and the mask with void.
    """

    kind: Literal["scaled_crop"] = "scaled_crop"
    height: Positive
    width: Positive
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)  # factor on both sides
    scale_step: PositiveFloat | None = 0.1  # only every so many of them; None for any between
    flip: Share = 0.5

    @property
    def scale_steps(self) -> int | None:
        """Steps from the least scale to the largest; None where any scale between is drawn."""
        return None if self.scale_step is None else round((self.scale[1] - self.scale[0]) / self.scale_step)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.scale
        if low > high:
            raise ValueError(f"scale {list(self.scale)} must be ascending")
        steps = self.scale_steps
        if steps is not None and not math.isclose(low + steps * (self.scale_step or 0), high):
            raise ValueError(f"scale {list(self.scale)} is no whole number of scale_step {self.scale_step} wide")
        return self


class Recipe(Spec):
    """How a network is trained: everything that moves the numbers besides data, networks and method."""

    name: str
    source: str
    task: str  # one of `tasks.names()`
    epochs: Count  # 0 takes the weights of `init` as they are
    epoch_steps: Positive | None = None  # of an epoch, round after round of the data; None for once through it
    max_steps: Positive | None = None  # stop early; a run shortened so is never comparable with a paper
    batch_size: Positive  # global: over all devices, and over the micro-batches of `accumulate`
    # micro-batches of equal size that a batch is split into, one after the other; their gradients are summed for one
    # optimizer step, so a batch that is too large for the memory can be trained
    accumulate: Positive = _added(1)
    drop_last: bool = True  # leave out an epoch's last, smaller batch
    optimizer: Literal["sgd", "adamw", "rmsprop_tf"] = "sgd"
    lr: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # sgd, rmsprop_tf
    nesterov: bool = False  # sgd
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    decay_all: bool = True  # False: not on biases, norms and other vectors
    schedule: Literal["step", "cosine", "exponential", "poly"] = "step"
    milestones: tuple[Positive, ...] = ()  # epochs; step
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1  # step, exponential
    decay_epochs: PositiveFloat = 1.0  # exponential: gamma once every so many epochs
    power: PositiveFloat = 0.9  # poly
    min_lr: Annotated[float, Field(ge=0)] = 0.0  # cosine, poly
    warmup_steps: Count = 0
    warmup_epochs: Count = 0  # in place of warmup_steps
    warmup_factor: Annotated[float, Field(gt=0, le=1)] = 0.001
    warmup_by: Literal["step", "epoch"] = _added("step")  # how often the rate rises; epoch: with warmup_epochs
    decay_after_warmup: bool = _added(False)  # exponential, cosine, poly: begin after the warm-up, not beside it
    clip_norm: PositiveFloat | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    aux_weight: Annotated[float, Field(ge=0)] = 0.4  # segmentation: factor on the auxiliary head's cross-entropy
    # decay of a running mean of the weights, which begins at the initial ones and is what is evaluated
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    # of training; evaluation is in ieee. ieee: float32 as it is. tf32: float32 tensors whose matrix products and
    # convolutions round their factors to 10 bits of mantissa. bfloat16: autocast; weights and losses are float32
    precision: Precision = "ieee"
    # of the frozen teacher's forward in the students' steps; None for theirs
    teacher_precision: Literal["bfloat16"] | None = _added(None)
    cudnn_benchmark: bool = _added(False)  # time cuDNN's algorithms for each shape; results may differ from run to run
    # compile networks by torch.compile for training, and take torch's fused optimizer; equal to eager up to rounding
    compile: bool = _added(False)
    channels_last: bool = False
    # BatchNorm counts a batch's images on all GPUs; without effect on one
    sync_batchnorm: bool = _added(False)
    # imagenet: a detector's backbone, its stem and first stage frozen, BatchNorm fixed; published: the whole network
    init: Literal["imagenet", "published", "random"] = "random"
    image: Annotated[Resize | PaddedCrop | ResizedCrop | ScaledCrop, Field(discriminator="kind")]
    eval_every: Positive = 1  # epochs; the last is always evaluated

    @property
    def micro_batch_size(self) -> int:
        """Images of a forward and backward pass."""
        return self.batch_size // self.accumulate

    def images_at_once(self, training_images: int, gpus: int = 1) -> int | None:
        """Images of each micro-batch on one of several GPUs; None if an epoch's last batch is smaller."""
        shorter = training_images % self.batch_size and not (self.drop_last or self.epoch_steps)
        return None if shorter else -(-self.micro_batch_size // gpus)

    def batch_within(self, images: int) -> dict[str, int]:
        """`batch_size`, and `accumulate` where it has to change, of the largest batch of at most so many images."""
        if images < self.accumulate:
            return {"batch_size": images, "accumulate": images}
        return {"batch_size": images - images % self.accumulate}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if rest := self.batch_size % self.accumulate:
            most = min(self.accumulate, self.batch_size, 4096)
            divisor = next(n for n in range(most, 0, -1) if not self.batch_size % n)
            raise ValueError(
                f"batch_size {self.batch_size} is not divisible into accumulate {self.accumulate} micro-batches of "
                f"equal size; set accumulate to {divisor}, or batch_size to {self.batch_size - rest + self.accumulate}"
            )
        if any(milestone >= self.epochs for milestone in self.milestones):
            epochs = counted(self.epochs, "epoch")
            raise ValueError(f"milestones {list(self.milestones)} must lie before the last of {epochs}")
        if self.compile and self.task == "detection":
            raise ValueError("compile is for classification and segmentation: detectors branch on what they find")
        if self.epochs == 0 and self.init != "published":
            raise ValueError("epochs is 0, which takes published weights as they are: set init to published")
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError("warmup_steps and warmup_epochs are both set; choose one")
        if self.warmup_by == "epoch" and not self.warmup_epochs:
            raise ValueError("warmup_by is epoch and warmup_epochs is 0; set warmup_epochs")
        if self.decay_after_warmup and self.schedule == "step":
            raise ValueError(
                "decay_after_warmup has no effect on milestones, which count from the first epoch; omit it"
            )
        return self


class UnfitRecipeError(SpecError):
    """A recipe does not fit the data; the message ends with what would make it fit, as options.

    Args:
        recipe: the recipe.
        problem: what does not fit, and what to do by the options.
        changes: values of its fields that fit.
        owners: whose recipe it is, as the options name it: "" for students, "teacher." for teachers.
    """

    def __init__(self, recipe: Recipe, problem: str, changes: Mapping[str, Any], owners: Iterable[str] = ("",)) -> None:
        options = [f"--set {owner}{name}={value}" for owner in owners for name, value in changes.items()]
        super().__init__(f"recipe {recipe.name}: {problem} {' '.join(options)}")
        self.recipe, self.problem, self.changes = recipe, problem, changes

    def of(self, owners: Iterable[str]) -> UnfitRecipeError:
        """The same for other owners."""
        return UnfitRecipeError(self.recipe, self.problem, self.changes, owners)


def evaluated_alike(first: Recipe, second: Recipe) -> bool:
    """Whether two recipes prepare validation images alike."""
    names = {"resize": ("shorter", "longer"), "resized_crop": ("size", "val_resize", "interpolation", "decoder")}
    images = first.image, second.image
    read = names.get(first.image.kind, ())  # whole images as they are stored, in other kinds
    return images[0].kind == images[1].kind and all(getattr(images[0], n) == getattr(images[1], n) for n in read)


def stretched(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with `factor` times the epochs, its milestones and an early stop moved along."""
    epochs = round(recipe.epochs * factor)
    milestones = tuple(round(milestone * factor) for milestone in recipe.milestones)
    steps = round(recipe.max_steps * factor) if recipe.max_steps else None
    return recipe.model_copy(update={"epochs": epochs, "milestones": milestones, "max_steps": steps})


def fitted_milestones(recipe: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A user's changes of a recipe, with its milestones moved along where they lie behind the new last epoch.

    They keep their place in the training; those that would lie before its first or behind its last epoch are left out.
    Milestones that the user gives, or that still fit, stay.
    """
    epochs = changes.get("epochs")
    if type(epochs) is not int or epochs < 1 or "milestones" in changes or max(recipe.milestones, default=0) < epochs:
        return dict(changes)
    moved = {round(milestone * epochs / recipe.epochs) for milestone in recipe.milestones}
    return {**changes, "milestones": sorted(milestone for milestone in moved if 0 < milestone < epochs)}


def hashed_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What run ids hash of a recipe's JSON: neither name nor source, and `ieee` by its earlier name."""
    hashed = {name: value for name, value in recipe.items() if name not in ("name", "source")}
    return hashed | ({"precision": FLOAT32} if hashed.get("precision") == "ieee" else {})


def recipe_names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


USED_WITH: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd", "rmsprop_tf")),
    "nesterov": ("optimizer", ("sgd",)),
    "milestones": ("schedule", ("step",)),
    "gamma": ("schedule", ("step", "exponential")),
    "decay_epochs": ("schedule", ("exponential",)),
    "power": ("schedule", ("poly",)),
    "min_lr": ("schedule", ("cosine", "poly")),
}
"""Fields that one optimizer or schedule reads alone."""


def load_recipe(name: str, changes: dict[str, Any] | None = None, source: str = "") -> Recipe:
    """The recipe of that name, with fields in `changes` laid over it (`image.shorter` reaches inside).

    Args:
        name: of its file.
        changes: by field.
        source: where the changes are from, which messages name in place of the file.

    Raises:
        SpecError: the recipe or a field does not exist, or a value is impossible.
    """
    path = RECIPES / f"{name}.yaml"
    if not path.exists():
        raise unknown("recipe", name, recipe_names())
    values = {"name": name} | read_yaml(path)
    for place, value in (changes or {}).items():
        field, *inner = place.split(".")
        field = current_name(field, "--set")
        if field not in Recipe.model_fields:
            raise unknown("recipe field", field, [*Recipe.model_fields, "image_size"])
        for part in reversed(inner):
            value = {part: value}
        values = merged(values, {field: value})
    recipe = parse(Recipe, values, source or path)
    for place in changes or {}:
        field = current_name(place.split(".")[0], "--set")
        switch, uses = USED_WITH.get(field, ("", ()))
        changed = getattr(recipe, field) != Recipe.model_fields[field].default
        if switch and changed and (chosen := getattr(recipe, switch)) not in uses:
            raise SpecError(
                f"{source or path}: {field} has no effect with {switch} {chosen}; leave it out, or set {switch} to "
                f"{' or '.join(uses)}"
            )
    return recipe
