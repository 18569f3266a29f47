"""MAG: multi-granularity distillation, granularity-wise; a wrapper around a classifier's method."""

from __future__ import annotations

from torch import Tensor

from ._granularity import Granularity


class MAG(Granularity):
    """The student mimics the teacher at three granularities: two codes of the pooled feature, and the logits.

        a = abstract encoder(f) in R^64,  e = detailed encoder(f) in R^256,  each Linear(D, D) - ReLU - Linear
        L = ce_weight * CE + soft_weight * KL_4(z_s || z_t) + base + KL_2(a_s || a_t) + KL_8(e_s || e_t)
        KL_T(x || y) = T^2 * KL(softmax(y / T) || softmax(x / T)), mean over images

    f [N, D] is the pooled feature. The teacher's encoders are trained before the student (`prepare`), each with a
    decoder Linear - ReLU - Linear to logits, by KL_T to z_t plus CE; the student's encoders train with the student,
    from the code losses alone. The base has its usual options. A published gain over a feature base includes the gain
    from the added KL_4 term: compare with that base plus kd. Around kd, the soft target replaces kd, whose options must
    keep their defaults.

    Args:
        setting: the run's shapes.
        base: the wrapped method.
        ce_weight: factor on the student's cross-entropy; None is 0.2 around kd, as in the released scripts, and 1
            around any other base (there is no script for rkd and afd: our choice, by analogy).
        soft_weight: factor on the soft target; None is 0.8 around kd and 1 around any other base (as above).
        soft_temperature: temperature of the soft target.
        abstract_temperature: temperature of the abstract code and of its decoder in `prepare`.
        detailed_temperature: temperature of the detailed code and of its decoder in `prepare`.
        abstract_dim: units of the abstract code.
        detailed_dim: units of the detailed code.
        module_epochs: epochs of `prepare`.
        module_lr: learning rate of `prepare`.
    """

    name = "mag"
    citation = (
        "B. Shao, Y. Chen. Multi-granularity for knowledge distillation. Image and Vision Computing 2021. "
        "https://github.com/shaoeric/multi-granularity-distillation"
    )

    def soft_target(self, logits: Tensor, abstract: Tensor, detailed: Tensor) -> Tensor:
        """The teacher's logits."""
        return logits
