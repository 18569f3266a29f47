"""FreeKD: knowledge distillation by semantic frequency prompts."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._haar import haar, inverse_haar
from ._prompts import dice, prompt_masks, train
from .base import Batch, FeatureMethod, MethodError, Outputs, Setting, Teacher
from .functional import target

WAVELET_LEVELS = 3
SHA256_DIGITS = 8
MAX_TOKENS = 1000
"""Of a band; each is a mask of the size of a feature map."""


class FreeKD(FeatureMethod):
    """Absolute error between wavelet bands, inside masks of the teacher's bands, and squared error between features.

        S_j, T_j: the bands of align(S) and T in level j of a Haar transform, 1 (finest) to 3   [N, C, 3, h, w]
        mask_j = sigmoid(P_j @ sum of T_j over its 3 orientations)                              [N, tokens, h, w]
        frequency = weight * sum over pyramid levels and j of mean_{n,tokens,c,3,h,w} |mask_j (S_j - T_j)|
        mse = mse_weight * sum over pyramid levels of mean_{n,c,h,w} (align(S) - T)^2

    S [N, C_s, H, W], T [N, C, H, W]. The low band has prompts, too, but is not in the loss. The released code calls the
    three levels horizontal, vertical and diagonal; no orientation is treated apart. The released recipe adds smooth L1
    between box outputs: `freekd+box_l1`.

    The prompts P [4, tokens, C] of a pyramid level (low band, then levels 1 to 3) do not train with the student. They
    were trained on the teacher before, and neither they nor the script were released. Here `prompts` reads them from a
    file; without one, `prepare` trains them, which is our reading: it minimizes the teacher's task losses on features
    rebuilt from bands times the sum of their masks, plus the masks' mean pairwise Dice overlap, as the released module
    computes both, with MasKD's optimizer and number of steps.

    Args:
        setting: the run's shapes.
        weight: factor on the bands.
        mse_weight: factor on the features.
        num_tokens: prompts of each band; released recipe 6.
        prompts: file of prompts, written by `torch.save`: a state dict (or a dict with one under "state_dict") with an
            entry `mask_modules.LEVEL.mask_token` [4, tokens, C] for each pyramid level, as the released module names
            them. None trains them.
        prompts_sha256: the beginning of the file's sha256, at least 8 digits; needed with `prompts`, so that a run's
            options say what its prompts were.
        prompt_steps: iterations of `prepare`; with 0 and without a file the prompts keep their random initial values.
        prompt_lr: learning rate of `prepare`.
        align: see `FeatureMethod`.
    """

    name = "freekd"
    citation = (
        "Y. Zhang, T. Huang, J. Liu, T. Jiang, K. Cheng, S. Zhang. FreeKD: knowledge distillation via semantic "
        "frequency prompt. CVPR 2024. https://github.com/Gumpest/FreeKD"
    )
    tasks = frozenset({"detection"})
    prepared_prefixes = ("prompts.",)

    def __init__(
        self,
        setting: Setting,
        weight: float = 1.0,
        mse_weight: float = 5.0,
        num_tokens: int = 6,
        prompts: str | None = None,
        prompts_sha256: str | None = None,
        prompt_steps: int = 2000,
        prompt_lr: float = 0.01,
        align: str | None = "conv1x1",
    ) -> None:
        super().__init__(setting, weight, align)
        if not 1 <= num_tokens <= MAX_TOKENS or prompt_steps < 0 or prompt_lr <= 0:
            raise MethodError(
                f"freekd: num_tokens is {num_tokens}, prompt_steps {prompt_steps} and prompt_lr {prompt_lr}; they must "
                f"be from 1 to {MAX_TOKENS}, at least 0 and positive"
            )
        if prompts is not None:
            check_file(prompts, prompts_sha256)
        self.mse_weight, self.num_tokens = mse_weight, num_tokens
        self.file, self.sha256 = prompts, prompts_sha256
        self.prompt_steps, self.prompt_lr = prompt_steps, prompt_lr
        self.prompts = nn.ParameterList(
            nn.Parameter(0.01 * torch.randn(1 + WAVELET_LEVELS, num_tokens, channels), requires_grad=False)
            for channels in setting.teacher.channels
        )

    @property
    def preparation_key(self) -> str:
        made = f"of {self.file} {self.sha256}" if self.file else f"{self.prompt_steps} steps lr {self.prompt_lr}"
        return f"freekd {self.num_tokens} tokens {made}"

    def prepare(self, teacher: Teacher, batches: Iterable[Batch]) -> None:
        """Read the prompts from their file, or train them; see the class."""
        if self.file:
            read = read_prompts(Path(self.file), [tuple(prompts.shape) for prompts in self.prompts])
            for prompts, values in zip(self.prompts, read, strict=True):
                prompts.data.copy_(values)
            return
        for prompts in self.prompts:
            nn.init.normal_(prompts, std=0.01)
        train(list(self.prompts), lambda b: self.prompt_loss(teacher, b), batches, self.prompt_steps, self.prompt_lr)

    def prompt_loss(self, teacher: Teacher, batch: Batch) -> Tensor:
        """The teacher's task losses on rebuilt features, plus the overlap of masks."""
        with torch.no_grad():
            features = [feature.float() for feature in teacher(batch.inputs).features]
        rebuilt, overlaps = zip(*(self.rebuilt(feature, level) for level, feature in enumerate(features)), strict=True)
        return torch.stack([*teacher.losses_from(rebuilt, batch).values(), *overlaps]).sum()

    def rebuilt(self, feature: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """A feature [N, C, H, W] from its masked bands, and the sum of its masks' Dice overlaps."""
        low, bands = haar(feature, WAVELET_LEVELS)
        found = self._masks([low, *(band.sum(dim=2) for band in bands)], level)
        total = [masks.sum(dim=1, keepdim=True) for masks in found]
        masked = [band * mask[:, :, None] for band, mask in zip(bands, total[1:], strict=True)]
        size = (feature.shape[2], feature.shape[3])
        return inverse_haar(low * total[0], masked, size), torch.stack([dice(masks) for masks in found]).sum()

    def compare(self, student: Tensor, teacher: Tensor, level: int) -> Tensor:
        """The unweighted error between the bands of two [N, C, H, W] maps."""
        teacher = target(self.name, student, teacher, f"features of level {level}")
        (_, student_bands), (low, bands) = haar(student, WAVELET_LEVELS), haar(teacher, WAVELET_LEVELS)
        masks = self._masks([low, *(band.sum(dim=2) for band in bands)], level)[1:]
        # Masks are positive and the same for all channels and orientations, so means of both are multiplied.
        means = [
            (mask.mean(dim=1) * (s - t).abs().mean(dim=(1, 2))).mean()
            for mask, s, t in zip(masks, student_bands, bands, strict=True)
        ]
        return torch.stack(means).sum()

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `frequency` and `mse`; see the class."""
        pairs = [(self.aligned(student, level), feature.detach()) for level, feature in enumerate(teacher.features)]
        frequency = torch.stack([self.compare(s, t, level) for level, (s, t) in enumerate(pairs)]).sum()
        mse = torch.stack([F.mse_loss(s, t) for s, t in pairs]).sum()
        return {"frequency": self.weight * frequency, "mse": self.mse_weight * mse}

    def _masks(self, maps: list[Tensor], level: int) -> list[Tensor]:
        """The masks [N, tokens, h, w] of the low band and each level's bands, summed over orientations [N, C, h, w]."""
        return [prompt_masks(prompts, x) for prompts, x in zip(self.prompts[level], maps, strict=True)]


def check_file(prompts: str, sha256: str | None) -> None:
    """Refuse a file of prompts that is not the one that the options state.

    Raises:
        MethodError: says what to give.
    """
    try:
        found = hashlib.sha256(Path(prompts).read_bytes()).hexdigest()
    except OSError as error:
        raise MethodError(
            f"freekd: prompts is {prompts!r}, which cannot be read ({error.strerror}); give the path of a file, or null"
        ) from error
    if sha256 is None or len(sha256) < SHA256_DIGITS or not found.startswith(sha256.lower()):
        raise MethodError(
            f"freekd: prompts_sha256 is {sha256}, and the sha256 of {prompts} begins with {found[:16]}; give "
            f"prompts_sha256={found[:16]}, if that is the file"
        )


def read_prompts(file: Path, shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """The prompts of each pyramid level in a file that `torch.save` wrote.

    Raises:
        MethodError: the file cannot be read, or its prompts do not have these shapes.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise MethodError(f"freekd: {file} cannot be read as a file of torch.save ({error})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    named = {re.search(r"mask_modules\.(\d+)\.mask_token$", str(name)): value for name, value in state.items()}
    found = {int(match[1]): value for match, value in named.items() if match and isinstance(value, Tensor)}
    prompts = [found[level] for level in sorted(found)]
    there = [tuple(values.shape) for values in prompts]
    if there != shapes:
        raise MethodError(
            f"freekd: {file} has prompts of the shapes {there}, and this teacher needs {shapes} (4, num_tokens and "
            "channels of each level); give the file that belongs to it"
        )
    return prompts
