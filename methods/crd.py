"""CRD: contrastive representation distillation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._ranks import gathered
from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import pooled_pair

EPS = 1e-7


class CRD(Method):
    """Contrast a sample's student and teacher embeddings with those of other classes' samples, in both directions.

        s, t = L2-normalized linear embeddings of the pooled features                 [N, dim]
        P(anchor, k) = exp(anchor . bank[k] / tau) / Z,  Z = num_samples * mean of exp(...) over the first batch
        L(anchor) = -1/N sum_i [ log P_i0 / (P_i0 + c) + sum_{k=1..negatives} log c / (P_ik + c) ],
                    c = negatives / num_samples; i0 is the entry of sample i; 1e-7 is added to both denominators
        loss = weight * (L(s over the teacher's bank) + L(t over the student's bank))

    Afterwards entry i of each bank becomes the normalized momentum * old + (1 - momentum) * new, on several GPUs with
    the samples of all. Banks and both Z are
    buffers without gradient, so a resumed run continues with them. Negatives are drawn with replacement (our choice;
    the released loader draws them without replacement, in a loop), which does not change the expected loss.

    Args:
        setting: the run's shapes; needs `train_targets` and both networks' pooled_dim.
        weight: 0.8.
        dim: length of the embeddings.
        negatives: number of samples of other classes for each sample.
        tau: temperature of the similarities.
        momentum: weight of a bank's old entry in the update.
        mode: "exact" takes the sample itself as the positive, "relax" any sample of its class, as released.
    """

    name = "crd"
    citation = (
        "Y. Tian, D. Krishnan, P. Isola. Contrastive representation distillation. ICLR 2020. "
        "https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})
    min_classes = 2
    one_class_per_image = True
    bank_s: Tensor
    bank_t: Tensor
    z: Tensor
    order: Tensor
    first: Tensor
    count: Tensor

    def __init__(
        self,
        setting: Setting,
        weight: float = 0.8,
        dim: int = 128,
        negatives: int = 16384,
        tau: float = 0.07,
        momentum: float = 0.5,
        mode: str = "exact",
    ) -> None:
        super().__init__(setting)
        if mode not in ("exact", "relax"):
            raise MethodError(f"crd: mode is {mode!r}; use 'exact' or 'relax'")
        if dim < 1 or negatives < 1 or tau <= 0 or not 0 <= momentum <= 1:
            raise MethodError(
                f"crd: dim is {dim}, negatives {negatives}, tau {tau} and momentum {momentum}; dim and negatives must "
                "be at least 1, tau above 0, momentum between 0 and 1"
            )
        if setting.num_samples < negatives:
            raise MethodError(
                f"crd: negatives is {negatives} and the training set has {setting.num_samples} samples; "
                f"set negatives to at most {setting.num_samples}"
            )
        if setting.student.pooled_dim is None or setting.teacher.pooled_dim is None:
            raise MethodError("crd: it needs pooled features, and the pooled_dim of a network is unknown")
        self.weight, self.negatives, self.tau, self.momentum = weight, negatives, tau, momentum
        self.relaxed = mode == "relax"
        self.embed_s = nn.Linear(setting.student.pooled_dim, dim)
        self.embed_t = nn.Linear(setting.teacher.pooled_dim, dim)
        bound = (3 / dim) ** 0.5
        for network in ("s", "t"):
            self.register_buffer(f"bank_{network}", torch.empty(setting.num_samples, dim).uniform_(-bound, bound))
        self.register_buffer(
            "z", torch.zeros(2)
        )  # for the student's and the teacher's anchors; 0 before the first batch
        self._index_classes(setting)

    def _index_classes(self, setting: Setting) -> None:
        """Sort the samples by class, so that samples of other classes are the positions outside one range."""
        targets = setting.train_targets
        if targets is None:
            raise MethodError(
                "crd: negatives are samples of other classes, so Setting.train_targets must contain the label of "
                "every training sample"
            )
        if targets.shape != (setting.num_samples,):
            raise MethodError(f"crd: train_targets has shape {tuple(targets.shape)}, not ({setting.num_samples},)")
        count = torch.bincount(targets, minlength=setting.num_classes)
        if count.max() == setting.num_samples:
            raise MethodError("crd: all training samples are of one class; negatives are samples of other classes")
        for name, value in (("order", targets.argsort(stable=True)), ("first", count.cumsum(0) - count)):
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("count", count, persistent=False)

    @classmethod
    def bank_bytes(cls, setting: Setting, options: dict[str, Any]) -> int:
        """Two float32 banks [num_samples, dim] and the int64 order [num_samples] of samples by class."""
        return setting.num_samples * (2 * int(options["dim"]) * 4 + 8)

    def forward(self, batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, Tensor]:
        if batch.targets.ndim != 1:
            raise MethodError(
                f"crd: targets have shape {tuple(batch.targets.shape)} and it needs one class per image; "
                "choose a recipe without mixup and cutmix"
            )
        s, t = pooled_pair(self.name, student, teacher)
        s, t = F.normalize(self.embed_s(s), dim=1), F.normalize(self.embed_t(t), dim=1)
        entries = self.draw(batch)
        total = self._direction(s, self.bank_t, entries, 0) + self._direction(t, self.bank_s, entries, 1)
        if self.training:
            self._update(self.bank_s, s, batch.index)
            self._update(self.bank_t, t, batch.index)
        return {self.name: self.weight * total}

    def draw(self, batch: Batch) -> Tensor:
        """Bank positions for a batch, [N, 1 + negatives]: the positive, then uniform samples of other classes."""
        count, first = self.count[batch.targets][:, None], self.first[batch.targets][:, None]

        def below(limit: Tensor, columns: int) -> Tensor:
            # A remainder of 62 random bits is uniform to within limit / 2^62.
            return torch.randint(2**62, (len(limit), columns), device=limit.device) % limit

        positions = below(len(self.order) - count, self.negatives)
        positions = positions + count * (positions >= first)
        positive = batch.index[:, None]
        if self.relaxed:
            positive = self.order[first + below(count, 1)]
        return torch.cat([positive, self.order[positions]], dim=1)

    def _direction(self, anchors: Tensor, bank: Tensor, entries: Tensor, direction: int) -> Tensor:
        """L of anchors [N, dim] over the entries [N, 1 + negatives] of a bank."""
        # A product with the whole bank reads far less memory than gathering N * (1 + negatives) rows. The backward
        # pass needs the copy, because the bank is updated before.
        scores = (anchors @ bank.clone().T).gather(1, entries).div(self.tau).exp()
        # `torch.where` instead of `if`: no synchronization with the device.
        mean = gathered(scores.detach().mean()[None]).mean()
        z = torch.where(self.z[direction] > 0, self.z[direction], len(bank) * mean)
        if self.training:
            self.z[direction] = z
        scores = scores / z
        c = self.negatives / len(bank)
        positive, negative = scores[:, 0], scores[:, 1:]
        log_positive = (positive / (positive + c + EPS)).log()
        log_negative = (c / (negative + c + EPS)).log()
        return -(log_positive.sum() + log_negative.sum()) / len(anchors)

    def _update(self, bank: Tensor, new: Tensor, index: Tensor) -> None:
        with torch.no_grad():
            index, new = gathered(index), gathered(new)
            bank[index] = F.normalize(self.momentum * bank[index] + (1 - self.momentum) * new, dim=1)
