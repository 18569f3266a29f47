"""SimKD: the student with the teacher's classifier."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting, StudentHead
from .functional import classifier_of, last_map, match_sizes


class SimKDHead(StudentHead):
    """A projector from the student's last stage to the teacher's last map, and the teacher's classifier.

    Args:
        student: channels of the student's last stage.
        teacher: channels of the teacher's last map.
        classes: K.
        factor: the projector is teacher / factor channels wide inside.
        student_stride: input pixels per pixel of the student's last stage.
        teacher_stride: likewise of the teacher's last map; where it is larger, the student's is pooled to its size.
        bias: of the classifier.
    """

    method = "simkd"

    def __init__(
        self,
        student: int,
        teacher: int,
        classes: int,
        factor: int = 2,
        student_stride: int = 1,
        teacher_stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.arguments = {
            "student": student,
            "teacher": teacher,
            "classes": classes,
            "factor": factor,
            "student_stride": student_stride,
            "teacher_stride": teacher_stride,
            "bias": bias,
        }
        self.student_stride, self.teacher_stride = student_stride, teacher_stride
        hidden = teacher // factor
        layers = (
            nn.Conv2d(student, hidden, 1, bias=False),
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
            nn.Conv2d(hidden, teacher, 1, bias=False),
        )
        blocks = ((layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU(inplace=True)) for layer in layers)
        self.projector = nn.Sequential(*(part for block in blocks for part in block))
        self.classifier = nn.Linear(teacher, classes, bias)

    def forward(self, outputs: Outputs) -> Outputs:
        """The student's outputs with the projected map as last map, its mean as `pooled`, and the logits of both."""
        feature = outputs.features[-1]
        if self.teacher_stride > self.student_stride:
            height, width = (-(-side * self.student_stride // self.teacher_stride) for side in feature.shape[2:])
            feature = F.adaptive_avg_pool2d(feature, (height, width))
        projected: Tensor = self.projector(feature)
        pooled = projected.mean(dim=(2, 3))
        extra = outputs.extra | {"last_map": projected}
        return replace(outputs, logits=self.classifier(pooled), pooled=pooled, extra=extra)


class SimKD(Method):
    """A projection of the student's last stage matches the map that the teacher's classifier reads, which is reused.

        P = three times convolution (1x1 to C_t / factor, 3x3, 1x1 to C_t; no bias), BatchNorm, ReLU
        loss = weight * mean (P(F_s) - F_t)^2
        logits = teacher's classifier of the mean over space of P(F_s), in training and at inference

    F_s [N, C_s, h, w]: the student's last stage (`features[-1]`), F_t [N, C_t, h', w']: the teacher's `last_map`. The
    larger map is average-pooled to the size of the smaller one. There is no task loss and no soft target. P and the
    classifier, which stays as it is, are saved with the student as its head, and count as its parameters; the
    student's own classifier is kept and not used.

    Args:
        setting: the run's shapes; needs the teacher's classifier and both networks' strides.
        weight: 1.
        factor: the paper's table has 2, 4 and 8.
        task_weight: factor on the task loss of the student's own, unused logits; released 0.
    """

    name = "simkd"
    citation = (
        "D. Chen, J.-P. Mei, H. Zhang, C. Wang, Y. Feng, C. Chen. Knowledge distillation with the reused teacher "
        "classifier. CVPR 2022. https://github.com/DefangChen/SimKD"
    )
    tasks = frozenset({"classification"})
    head_class = SimKDHead

    def __init__(self, setting: Setting, weight: float = 1.0, factor: int = 2, task_weight: float = 0.0) -> None:
        super().__init__(setting)
        classifier = classifier_of(self.name, setting.teacher, "teacher")
        channels, strides = setting.student.channels, (setting.student.strides, setting.teacher.strides)
        if not channels or not all(strides):
            raise MethodError("simkd: it needs maps of both networks, and one of them has none; choose another network")
        if not 1 <= factor <= classifier.in_features:
            raise MethodError(f"simkd: factor is {factor}; it must be from 1 to the teacher's {classifier.in_features}")
        self.weight, self.task_weight = weight, task_weight
        shape = (channels[-1], classifier.in_features, classifier.out_features, factor, strides[0][-1], strides[1][-1])
        self.head = SimKDHead(*shape, bias=classifier.bias is not None)
        for parameter, value in zip(self.head.classifier.parameters(), classifier.parameters(), strict=True):
            parameter.data.copy_(value.data)
            parameter.requires_grad_(False)

    def student_head(self) -> SimKDHead:
        return self.head

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        projected = last_map(self.name, self.head(student), "student")
        s, t = match_sizes(projected, last_map(self.name, teacher, "teacher").detach())
        return {self.name: self.weight * F.mse_loss(s, t)}
