"""SemCKD: cross-layer distillation with semantic calibration."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair, match_sizes


class SemCKD(Method):
    """Every stage of the student learns from every stage of the teacher, weighted by learned attention.

        query_i = E_i(G(S_i)),  key_j = E'_j(G(T_j))    [N, d],  G(F) = f f^T [N, N], f = F as [N, C*H*W]
        a[n,i,j] = softmax_j(query_i[n] . key_j[n])
        semckd = weight / (N * stages of the student) * sum_{n,i,j} a[n,i,j] * mean_{c,h,w} (R_ij(S_i) - T_j)^2
        kd = kd_weight * T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over images

    S_i [N, C_s, H, W], T_j [N, C_t, H, W]: the stages, without the stem; their numbers may differ. The larger of S_i
    and T_j is first reduced to the smaller size by adaptive average pooling. E: Linear(N -> 2d) - ReLU -
    Linear(2d -> d), rows to unit length, d = N // factor. R: conv1x1 to 2 C_t - BatchNorm - ReLU - conv3x3 -
    BatchNorm - ReLU - conv1x1 to C_t, without biases. The gradient goes through the attention, also by G into the
    student.

    E has the width of a batch, so every batch must have as many images, `Setting.batch_size`: a recipe that keeps an
    epoch's last, smaller batch is refused (the released code skips that batch; `drop_last` of a recipe leaves it out
    for every method). With `accumulate`, or on several GPUs, N are the images of a micro-batch of one process, as
    released for several GPUs; the loss of the whole batch would be another one.

    Args:
        setting: the run's shapes.
        weight: CIFAR-100 400, ImageNet 50.
        kd_weight: factor on the KL.
        temperature: T of the KL.
        factor: N / d.
    """

    name = "semckd"
    citation = (
        "D. Chen, J.-P. Mei, Y. Zhang, C. Wang, Z. Wang, Y. Feng, C. Chen. Cross-layer distillation with semantic "
        "calibration. AAAI 2021. https://github.com/DefangChen/SemCKD"
    )
    tasks = frozenset({"classification"})
    min_classes = 2

    def __init__(
        self,
        setting: Setting,
        weight: float = 400.0,
        kd_weight: float = 1.0,
        temperature: float = 4.0,
        factor: int = 4,
    ) -> None:
        super().__init__(setting)
        if temperature <= 0 or factor < 1:
            raise MethodError(
                f"semckd: temperature is {temperature} and factor {factor}; they must be positive and at least 1"
            )
        images = setting.batch_size
        if images is None:
            raise MethodError(
                "semckd: its layers have the width of a batch, and the last batch of an epoch is smaller; leave it out "
                "with --set drop_last=true, or choose a batch_size that divides the training set"
            )
        if images < factor:
            raise MethodError(
                f"semckd: a batch has {images} images, and factor is {factor}; it needs as many images as that, so set "
                f"batch_size to at least {factor} a process and micro-batch, or lower factor"
            )
        students, teachers = setting.student.channels[1:], setting.teacher.channels[1:]
        if not students or not teachers:
            raise MethodError("semckd: a network has no stages after its stem; choose another one")
        self.weight, self.kd_weight, self.temperature, self.images = weight, kd_weight, temperature, images
        self.queries = nn.ModuleList(_embedding(images, images // factor) for _ in students)
        self.keys = nn.ModuleList(_embedding(images, images // factor) for _ in teachers)
        self.regressors = nn.ModuleList(nn.ModuleList(_regressor(s, t) for t in teachers) for s in students)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `semckd` and `kd`; see the class."""
        images = len(batch.inputs)
        if images != self.images:
            raise MethodError(
                f"semckd: a batch has {images} images, and its layers are built for {self.images}; every batch must "
                "have the same size"
            )
        maps, targets = student.features[1:], [feature.detach() for feature in teacher.features[1:]]
        rows = [
            torch.stack([_error(regressor, s, t) for regressor, t in zip(row, targets, strict=True)])  # type: ignore[call-overload]
            for row, s in zip(self.regressors, maps, strict=True)
        ]
        errors = torch.stack(rows)  # [stages of the student, of the teacher, N]
        weights = self.attention(maps, targets).permute(1, 2, 0)
        s, t = logits_pair(self.name, student, teacher)
        return {
            self.name: self.weight * (weights * errors).sum() / (images * len(maps)),
            "kd": self.kd_weight * kl_divergence(s, t, self.temperature),
        }

    def attention(self, student: tuple[Tensor, ...], teacher: list[Tensor]) -> Tensor:
        """a of the class, [N, stages of the student, stages of the teacher]."""
        queries, keys = (
            torch.stack([F.normalize(embed(_products(x)), dim=1) for embed, x in zip(embeds, maps, strict=True)], dim=1)
            for embeds, maps in ((self.queries, student), (self.keys, teacher))
        )
        return (queries @ keys.mT).softmax(dim=2)


def _products(features: Tensor) -> Tensor:
    """Inner products of the images' features: [N, C, H, W] -> [N, N]."""
    flat = features.flatten(1)
    return flat @ flat.T


def _error(regressor: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error of each image, [N]."""
    s, t = match_sizes(student, teacher)
    error: Tensor = (regressor(s) - t).square().mean(dim=(1, 2, 3))
    return error


def _embedding(images: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(images, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))


def _regressor(student: int, teacher: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(student, 2 * teacher, kernel_size=1, bias=False),
        nn.BatchNorm2d(2 * teacher),
        nn.ReLU(),
        nn.Conv2d(2 * teacher, 2 * teacher, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(2 * teacher),
        nn.ReLU(),
        nn.Conv2d(2 * teacher, teacher, kernel_size=1, bias=False),
    )
