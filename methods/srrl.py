"""SRRL: softmax regression representation learning."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, Outputs, Setting
from .functional import classifier_of, last_maps, logits_pair, target


class SRRL(Method):
    """The student's last map, at the teacher's width, gives the teacher's means and, by its classifier, its logits.

        G = relu(batchnorm(conv1x1(F_s)))                       F_s [N, C_s, h, w] -> [N, C_t, h, w]
        statistics = mean over [N, C_t] of (mean_hw G - mean_hw F_t)^2
        regression = weight * mean over [N, K] of (W_t mean_hw G + b_t - z_t)^2

    F_s, F_t: the maps that the classifiers pool (`last_map`); W_t, b_t, z_t: the teacher's classifier and logits. The
    gradient of `regression` passes through the classifier, which stays as it is. The connector (conv1x1 without bias,
    BatchNorm) trains with the student and is not saved. The "statistics" are means alone. Released for ImageNet.
    Tables that print it on CIFAR take SimKD's version: connector on the pooled vector, a KD term beside it.

    Args:
        setting: the run's shapes; needs the teacher's classifier.
        weight: factor on `regression`: 1; on CIFAR 5 in a third party's code (cls_KD).
    """

    name = "srrl"
    citation = (
        "J. Yang, B. Martinez, A. Bulat, G. Tzimiropoulos. Knowledge distillation via softmax regression "
        "representation learning. ICLR 2021. https://github.com/jingyang2017/KD_SRRL"
    )
    tasks = frozenset({"classification"})

    def __init__(self, setting: Setting, weight: float = 1.0) -> None:
        super().__init__(setting)
        self.weight = weight
        student = classifier_of(self.name, setting.student, "student").in_features
        teacher = classifier_of(self.name, setting.teacher, "teacher").in_features
        convolution = nn.Conv2d(student, teacher, 1, bias=False)
        nn.init.normal_(convolution.weight, std=(2 / teacher) ** 0.5)
        self.connector = nn.Sequential(convolution, nn.BatchNorm2d(teacher), nn.ReLU(inplace=True))

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """Terms `statistics` and `regression`; see the class."""
        s, t = last_maps(self.name, student, teacher)
        _, logits = logits_pair(self.name, student, teacher)
        means = self.connector(s).mean(dim=(2, 3))
        classifier = classifier_of(self.name, self.setting.teacher, "teacher")
        return {
            "statistics": F.mse_loss(means, target(self.name, means, t.mean(dim=(2, 3)), "means")),
            "regression": self.weight * F.mse_loss(classifier(means), logits),
        }
