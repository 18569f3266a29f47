"""DOT: the distillation-oriented trainer, a wrapper around any method."""

from __future__ import annotations

from torch import Tensor

from .base import Batch, Method, MethodError, Outputs, Setting


class DOT(Method):
    """Any method, whose gradients have a larger momentum than those of the task loss.

        v_task <- (m - delta) * v_task + g + weight_decay * w
        v_distillation <- (m + delta) * v_distillation + h
        w <- w - lr * (v_task + v_distillation)

    g, h: the gradients of the weighted task loss and of all other terms, from one forward; m: the momentum of the
    recipe's SGD, which has no Nesterov. For AdamW, our extension, m is beta 1 of a first moment of each gradient, over
    the second moment of their sum. Parameters with one gradient alone, such as a method's own layers, have momentum m
    and weight decay, but h alone has no decay in its first step (as released). A step has two backward passes. In a
    sum such as `dot+crd+kd` the terms of all summands are distillation, and so is the cross-entropy of a further view
    (`dot+mlkd`), which is in no paper.

    The name takes any method with a frozen teacher, a task loss and no initial phase as base: `dot+dist`, `dot+ls+kd`.

    Args:
        setting: the run's shapes.
        base: the wrapped method, whose options and task weight are used.
        delta: CIFAR-100 and Tiny-ImageNet 0.075, with kd at temperature 4 and weights 0.1 and 0.9, or crd; ImageNet
            0.09, with kd at temperature 1 and weights 0.5 and 0.5.
    """

    name = "dot"
    citation = (
        "B. Zhao, Q. Cui, R. Song, J. Liang. DOT: a distillation-oriented trainer. ICCV 2023. "
        "https://github.com/megvii-research/mdistiller"
    )
    tasks = frozenset({"classification", "detection", "segmentation"})
    wraps = ("crd", "kd")
    wraps_any = True
    gradients = "separate"

    def __init__(self, setting: Setting, base: Method, delta: float = 0.075) -> None:
        super().__init__(setting)
        self.name = f"dot+{base.name}"  # type: ignore[misc]
        if not 0 <= delta < 1:
            raise MethodError(f"{self.name}: delta is {delta}; it must be at least 0 and below the recipe's momentum")
        if base.teacher_mode != "frozen" or base.initial_epochs:
            raise MethodError(
                f"{self.name}: {base.name} trains its teacher or has an initial phase; wrap another method"
            )
        if base.task_weight == 0:
            raise MethodError(
                f"{self.name}: {base.name} has no task loss, whose gradients would be apart; give it a task_weight"
            )
        self.tasks = type(self).tasks & base.tasks  # type: ignore[misc]
        self.base, self.momentum_delta = base, delta
        self.task_weight, self.student_bias = base.task_weight, base.student_bias
        self.teacher_batch_statistics = base.teacher_batch_statistics

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """The base's terms."""
        return self.base(batch, student, teacher)
