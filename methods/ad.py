"""AD: adaptive distillation, several losses (paths) with learned weights."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import _paths
from ._errors import unknown
from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import kl_divergence, logits_pair

STAGE_PATHS = {"attention": _paths.attention, "nst": _paths.nst, "feature_map": _paths.feature_map}
"""Paths that compare every stage and are summed over stages."""
ADAPTED = ("nst", "feature_map", "softmax_regression")
"""Paths that compare the student's stages in the teacher's width."""
DEFAULT_WEIGHTS = {
    "soft_target": 0.1,
    "logits": 1.0,
    "attention": 1.0,
    "nst": 1.0,
    "feature_map": 1.0,
    "softmax_regression": 1.0,
}
"""Every path, with the default weight of the released class."""
AGGREGATIONS = ("fixed", "adaptive", "adaptive_layerwise")
CONFIGS = {
    "st": ("soft_target:0.1", "fixed"),
    "logits": ("logits:0.1", "fixed"),
    "at": ("attention:1000", "fixed"),
    "nst": ("nst:10", "fixed"),
    "equal": ("attention:1+soft_target:1", "fixed"),
    "hand_tuned": ("attention:1000+soft_target:0.1", "fixed"),
    "adaptive_at_st": ("attention:1+soft_target:1", "adaptive"),
    "adaptive_nst_logits": ("nst:1+logits:1", "adaptive"),
    "srrl_fm_equal": ("softmax_regression:1+feature_map:1", "fixed"),
    "adaptive_srrl_fm": ("softmax_regression:1+feature_map:1", "adaptive"),
    "adaptive_all": ("nst:1+logits:1+attention:1+soft_target:1", "adaptive"),
    "adaptive_all_layer_wise": ("nst:1+logits:1+attention:1+soft_target:1", "adaptive_layerwise"),
}
"""The released configurations: paths with their weights, and the aggregation."""


class AD(Method):
    """Several losses between teacher and student, summed with fixed weights w_k or with learned ones.

        fixed:    weight * sum_k w_k L_k
        adaptive: weight * (sum_k exp(-a_k) w_k L_k + sum_k a_k), every a_k learned from 0

    The paths L_k, with stages S_i [N, c_i, H, W] and T_i [N, C_i, H, W] (`features` without the stem; the last one of a
    segmenter is the map before its classifier):
        soft_target: temperature^2 * KL of the logits, mean over images; in segmentation over pixels of raw logits
        logits: mean squared difference of the logits
        attention: sum over stages of the mean squared difference of attention maps (`_paths.attention`)
        nst: the same of channel Grams (`_paths.nst`), on adapted stages
        feature_map: the same of spatial means, on adapted stages
        softmax_regression: mean squared difference of the teacher's logits and those of its classifier, frozen, on the
            spatial mean of the last adapted stage; classification alone
    All are means, so they do not grow with the size of maps. An adapted stage is BN(Conv1x1(S_i)), without bias and
    ReLU. At the optimum a_k = log(w_k L_k), so the sum of log L_k is minimized, independent of the w_k. The total may
    be negative. Segmentation is our reading: the paper mentions it, but code was released only for classification.

    Args:
        setting: the run's shapes; both networks have the same number of stages.
        config: one of CONFIGS, the released configurations.
        weight: factor on all of it (alpha_distill).
        paths: overrides the config's: names joined by "+", each with its w_k after a colon or with the default of the
            class, as in "attention:1000+soft_target".
        aggregation: overrides the config's: "fixed", "adaptive" (an a_k a path) or "adaptive_layerwise" (an a_k a
            stage of a path that compares stages).
        temperature: of soft_target.
        safe: train the a_k in a separate optimizer group, with lr 0.01, no weight decay and no momentum. As released
            (false) they train like any weight, and a path that starts with w_k L_k >= 100 has a weight near 0 for
            hundreds of steps.
    """

    name = "ad"
    citation = (
        "S. Chennupati, M. M. Kamani, Z. Cheng, L. Chen. Adaptive distillation: aggregating knowledge from multiple "
        "paths for efficient distillation. BMVC 2021. https://github.com/wyze-AI/AdaptiveDistillation"
    )
    tasks = frozenset({"classification", "segmentation"})
    min_classes = 2
    classifier_weight: Tensor
    classifier_bias: Tensor | None

    def __init__(
        self,
        setting: Setting,
        config: str = "adaptive_at_st",
        weight: float = 1.0,
        paths: str | None = None,
        aggregation: str | None = None,
        temperature: float = 4.0,
        safe: bool = False,
    ) -> None:
        super().__init__(setting)
        if config not in CONFIGS:
            raise unknown("config of ad", config, CONFIGS)
        self.paths = parse_paths(CONFIGS[config][0] if paths is None else paths)
        self.aggregation = CONFIGS[config][1] if aggregation is None else aggregation
        if self.aggregation not in AGGREGATIONS:
            raise unknown("aggregation of ad", self.aggregation, AGGREGATIONS)
        if temperature <= 0:
            raise MethodError(f"ad: temperature is {temperature}; it must be positive")
        if safe and self.aggregation == "fixed":
            raise MethodError("ad: safe applies to learned weights, and this aggregation is fixed; set safe to false")
        self.weight, self.temperature, self.safe = weight, temperature, safe
        self._check_stages()
        self._build_adapters()
        self.alphas = nn.Parameter(torch.zeros(len(self.alpha_names()))) if self.aggregation != "fixed" else None

    @property
    def stages(self) -> int:
        """Number of compared stages."""
        return len(self.setting.teacher.channels) - 1

    def _check_stages(self) -> None:
        student, teacher = self.setting.student, self.setting.teacher
        if len(student.channels) != len(teacher.channels) or self.stages < 1:
            raise MethodError(
                f"ad: the student has {len(student.channels) - 1} stages and the teacher {self.stages}; choose a "
                "teacher and a student with the same number, and at least one"
            )
        sized = [path for path in ("attention", "nst") if path in self.paths]
        if sized and student.strides and teacher.strides and student.strides[1:] != teacher.strides[1:]:
            raise MethodError(
                f"ad: {sized[0]} compares maps of one size, and the stages' strides are {student.strides[1:]} in the "
                f"student and {teacher.strides[1:]} in the teacher; leave that path out or choose another pair"
            )

    def _build_adapters(self) -> None:
        """Adapters for the stages that a path needs adapted; the teacher's classifier, if a path needs it."""
        widths = list(zip(self.setting.student.channels[1:], self.setting.teacher.channels[1:], strict=True))
        needed: list[int] = []
        if "nst" in self.paths or "feature_map" in self.paths:
            needed = list(range(self.stages))
        elif "softmax_regression" in self.paths:
            needed = [self.stages - 1]
        self.adapters = nn.ModuleDict({str(stage): adapter(*widths[stage]) for stage in needed})
        if "softmax_regression" not in self.paths:
            return
        if self.setting.task == "segmentation":
            raise MethodError(
                "ad: softmax_regression needs a classifier of pooled features, and a segmenter has none; choose a "
                "config or paths without it"
            )
        classifier = self.setting.teacher.classifier
        if not isinstance(classifier, nn.Linear) or classifier.in_features != widths[-1][1]:
            raise MethodError(
                f"ad: softmax_regression needs a teacher whose classifier is linear on its last stage ({widths[-1][1]} "
                "channels); leave that path out or choose another teacher"
            )
        # Buffers move with the method to its device; not persistent, because they belong to the teacher.
        bias = None if classifier.bias is None else classifier.bias.detach().clone()
        self.register_buffer("classifier_weight", classifier.weight.detach().clone(), persistent=False)
        self.register_buffer("classifier_bias", bias, persistent=False)

    def alpha_names(self) -> list[str]:
        """Name of each learned weight: a path, or `path:stage` with stages counted from 0."""
        if self.aggregation != "adaptive_layerwise":
            return list(self.paths)
        return [
            name
            for path in self.paths
            for name in ([f"{path}:{i}" for i in range(self.stages)] if path in STAGE_PATHS else [path])
        ]

    def learned(self) -> dict[str, float]:
        """The current factor on each loss, exp(-a_k) * w_k, by `alpha_names`; empty if factors are fixed."""
        if self.alphas is None:
            return {}
        pairs = zip(self.alpha_names(), self.alphas.tolist(), strict=True)
        return {name: math.exp(-alpha) * self.paths[name.split(":")[0]] for name, alpha in pairs}

    def parameter_groups(self) -> list[dict[str, Any]]:
        if self.alphas is None or not self.safe:
            return []
        return [{"params": [self.alphas], "lr": 0.01, "weight_decay": 0.0, "momentum": 0.0}]

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term for each path; with learned weights also `alphas`, the sum of the a_k."""
        return self.aggregate(self.path_losses(student, teacher))

    def path_losses(self, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Unweighted losses of every path, [stages] or [1]."""
        adapted = {int(key): module(student.features[int(key) + 1]) for key, module in self.adapters.items()}
        losses = {}
        for path in self.paths:
            if path in STAGE_PATHS:
                stages = adapted if path in ADAPTED else dict(enumerate(student.features[1:]))
                pairs = [(stages[stage], teacher.features[stage + 1]) for stage in range(self.stages)]
                losses[path] = torch.stack([STAGE_PATHS[path](s, t) for s, t in pairs])
            else:
                losses[path] = self._on_logits(path, student, teacher, adapted)[None]
        return losses

    def _on_logits(self, path: str, student: Outputs, teacher: Outputs, adapted: dict[int, Tensor]) -> Tensor:
        logits, teacher_logits = logits_pair(self.name, student, teacher)
        if path == "soft_target":
            return kl_divergence(logits, teacher_logits, self.temperature)
        if path == "softmax_regression":
            pooled = adapted[self.stages - 1].mean(dim=(2, 3))
            logits = F.linear(pooled, self.classifier_weight, self.classifier_bias)
        return F.mse_loss(logits, teacher_logits)

    def aggregate(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms from unweighted path losses, [stages] or [1] each, in the order of `paths`."""
        if self.alphas is None:
            return {path: self.weight * self.paths[path] * loss.sum() for path, loss in losses.items()}
        sizes = [len(loss) if self.aggregation == "adaptive_layerwise" else 1 for loss in losses.values()]
        factors = torch.exp(-self.alphas).split(sizes)
        terms = {
            path: self.weight * self.paths[path] * (factor * loss).sum()
            for (path, loss), factor in zip(losses.items(), factors, strict=True)
        }
        return terms | {"alphas": self.weight * self.alphas.sum()}


def adapter(inputs: int, outputs: int) -> nn.Sequential:
    """Conv1x1 without bias, Kaiming-normal (fan out: our choice), and BatchNorm."""
    conv = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def parse_paths(text: str) -> dict[str, float]:
    """`attention:1000+soft_target` -> weights by path, in order.

    Raises:
        MethodError: an unknown or repeated path, or a weight that is not a positive number.
    """
    paths: dict[str, float] = {}
    for term in text.split("+"):
        path, colon, weight = (part.strip() for part in term.partition(":"))
        if path not in DEFAULT_WEIGHTS:
            raise unknown("path of ad", path, DEFAULT_WEIGHTS)
        if path in paths:
            raise MethodError(f"ad: paths contains {path} twice; name each path once")
        try:
            paths[path] = float(weight) if colon else DEFAULT_WEIGHTS[path]
        except ValueError:
            paths[path] = math.nan
        if not 0 < paths[path] < math.inf:
            raise MethodError(f"ad: the weight of {path} in paths is {weight!r}; write a positive number, as {path}:1")
    return paths
