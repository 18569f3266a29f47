"""MAG: multi-granularity distillation, granularity-wise; a wrapper around a classifier's method."""

from __future__ import annotations

from torch import Tensor

from ._granularity import Granularity


class MAG(Granularity):
    """The student mimics the teacher at three granularities: two codes of the pooled feature, and the logits.

        a = abstract encoder(f) in R^64,  e = detailed encoder(f) in R^256,  each Linear(D, D) - ReLU - Linear
        L = ce_weight * CE + soft_weight * KL_4(z_s || z_t) + base + KL_2(a_s || a_t) + KL_8(e_s || e_t)
        KL_T(x || y) = T^2 * KL(softmax(y / T) || softmax(x / T)), mean over images

    f [N, D] is what the classifier reads. The teacher's encoders are learned before the student (`prepare`), each with
    a decoder Linear - ReLU - Linear to logits, KL_T to z_t plus CE; the student's learn with it, from the codes alone.
    The base enters with its own options. A published gain over a feature base holds the added KL_4 term as well:
    compare with that base plus kd. Around kd, the soft target is all of kd, and kd's own options must stay as they are.

    Args:
        setting: the run's shapes.
        base: the wrapped method.
        ce_weight: factor on the student's cross-entropy; None is the released scripts' 0.2 around kd and the base's
            own, 1, around any other (rkd and afd have no script: our choice, by analogy).
        soft_weight: factor on the soft target; None is 0.8 around kd and 1 around any other base (as above).
        soft_temperature: of the soft target.
        abstract_temperature: of the abstract code, and of its decoder in `prepare`.
        detailed_temperature: of the detailed code, and of its decoder in `prepare`.
        abstract_dim: units of the abstract code.
        detailed_dim: units of the detailed code.
        module_epochs: epochs of `prepare`.
        module_lr: its learning rate.
    """

    name = "mag"
    citation = (
        "B. Shao, Y. Chen. Multi-granularity for knowledge distillation. Image and Vision Computing 2021. "
        "https://github.com/shaoeric/multi-granularity-distillation"
    )

    def soft_target(self, logits: Tensor, abstract: Tensor, detailed: Tensor) -> Tensor:
        """The teacher's logits."""
        return logits
