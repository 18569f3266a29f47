"""CMKD (our reading): cross-model knowledge distillation, with a temperature of the teacher alone."""

from __future__ import annotations

from torch import Tensor

from ._logits import kl_of_rows, require_positive
from .base import Batch, Method, Outputs, Setting
from .functional import logits_pair


class CMKD(Method):
    """Our reading of CMKD: KL of the teacher's softened probabilities and the student's, which have no temperature.

        loss = task_weight * CE(z_s) + weight * KL(softmax(z_t / T) || softmax(z_s)), mean over images

    z [N, K] logits. There is no T^2. Teacher and student see the same augmented input, as the paper demands. The loss
    is that of `ttm` with the exponent 1 / T.

    The authors' repositories announce the paper and hold no training code for it. The equation, both
    weights and the softmax for single labels are a third party's summary of the paper; it pairs CNNs and transformers
    on audio, and images are our transfer. T was searched for and its value is not in what we could read; 1 is our
    choice. Other methods of this name distill LiDAR into cameras or CLIP into a new domain and need other data.

    Args:
        setting: the run's shapes.
        weight: factor on the KL, the paper's 1 - lambda.
        task_weight: factor on the task loss, the paper's lambda.
        temperature: T of the teacher.
    """

    name = "cmkd"
    citation = (
        "Y. Gong, S. Khurana, A. Rouditchenko, J. Glass. CMKD: CNN/Transformer-based cross-model knowledge "
        "distillation for audio classification (our reading: no code was released). 2022. "
        "https://arxiv.org/abs/2203.06760"
    )
    tasks = frozenset({"classification"})
    min_classes = 2

    def __init__(
        self, setting: Setting, weight: float = 0.5, task_weight: float = 0.5, temperature: float = 1.0
    ) -> None:
        super().__init__(setting)
        require_positive(self.name, temperature=temperature)
        self.weight, self.task_weight, self.temperature = weight, task_weight, temperature

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        """One term; see the class."""
        s, t = logits_pair(self.name, student, teacher)
        return {self.name: self.weight * kl_of_rows(s, t / self.temperature).mean()}
