"""CRD: contrastive representation distillation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Batch, Method, MethodError, Outputs, Setting
from .functional import pooled_pair

EPS = 1e-7


class CRD(Method):
    """Tell the pair (student, teacher) of one sample from pairs with samples of other classes, in both directions.

        s, t = L2-normalised linear embeddings of the pooled features                 [N, dim]
        P(anchor, k) = exp(anchor . bank[k] / tau) / Z,  Z = num_samples * mean of exp(...) over the first batch
        L(anchor) = -1/N sum_i [ log P_i0 / (P_i0 + c) + sum_{k=1..negatives} log c / (P_ik + c) ],
                    c = negatives / num_samples; i0 is sample i's own entry; 1e-7 is added to both denominators
        loss = weight * (L(s over the teacher's bank) + L(t over the student's bank))

    Afterwards entry i of each bank becomes the normalised momentum * old + (1 - momentum) * new. Banks and both Z are
    buffers without gradient: a resumed run goes on with them. Negatives are drawn with replacement (our choice; the
    released loader draws each sample's without, in a loop), which leaves the expected loss as it is.

    Args:
        setting: the run's shapes; needs `train_targets` and both networks' pooled_dim.
        weight: 0.8.
        dim: length of the embeddings.
        negatives: samples of other classes that each sample is set against.
        tau: temperature of the similarities.
        momentum: share of a bank's old entry that stays.
        mode: "exact" takes the sample itself as the positive, "relax" any sample of its class, as released.
    """

    name = "crd"
    citation = (
        "Y. Tian, D. Krishnan, P. Isola. Contrastive representation distillation. ICLR 2020. "
        "https://github.com/HobbitLong/RepDistiller"
    )
    tasks = frozenset({"classification"})
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
            raise MethodError("crd: it reads pooled features, and a network does not say how long its are (pooled_dim)")
        self.weight, self.negatives, self.tau, self.momentum = weight, negatives, tau, momentum
        self.relaxed = mode == "relax"
        self.embed_s = nn.Linear(setting.student.pooled_dim, dim)
        self.embed_t = nn.Linear(setting.teacher.pooled_dim, dim)
        bound = (3 / dim) ** 0.5
        for side in ("s", "t"):
            self.register_buffer(f"bank_{side}", torch.empty(setting.num_samples, dim).uniform_(-bound, bound))
        self.register_buffer("z", torch.zeros(2))  # of the student's and the teacher's direction; 0 until the first
        self._index_classes(setting)

    def _index_classes(self, setting: Setting) -> None:
        """Sort the samples by class, so that "a sample of another class" is a position outside one span."""
        targets = setting.train_targets
        if targets is None:
            raise MethodError(
                "crd: negatives are samples of other classes, so Setting.train_targets must hold the label of every "
                "training sample"
            )
        if targets.shape != (setting.num_samples,):
            raise MethodError(f"crd: train_targets has shape {tuple(targets.shape)}, not ({setting.num_samples},)")
        count = torch.bincount(targets, minlength=setting.num_classes)
        if count.max() == setting.num_samples:
            raise MethodError("crd: every training sample has one class; negatives are samples of other classes")
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
                f"crd: targets have shape {tuple(batch.targets.shape)} and it needs one class an image; "
                "choose a recipe without mixup and cutmix"
            )
        s, t = pooled_pair(self.name, student, teacher)
        own, other = F.normalize(self.embed_s(s), dim=1), F.normalize(self.embed_t(t), dim=1)
        drawn = self.draw(batch)
        total = self._direction(own, self.bank_t, drawn, 0) + self._direction(other, self.bank_s, drawn, 1)
        if self.training:
            self._remember(self.bank_s, own, batch.index)
            self._remember(self.bank_t, other, batch.index)
        return {self.name: self.weight * total}

    def draw(self, batch: Batch) -> Tensor:
        """Bank entries for a batch, [N, 1 + negatives]: the positive, then samples uniform over the other classes."""
        count, first = self.count[batch.targets][:, None], self.first[batch.targets][:, None]

        def below(limit: Tensor, columns: int) -> Tensor:
            # A remainder of 62 random bits is uniform to within limit / 2^62.
            return torch.randint(2**62, (len(limit), columns), device=limit.device) % limit

        places = below(len(self.order) - count, self.negatives)
        places = places + count * (places >= first)
        positive = batch.index[:, None]
        if self.relaxed:
            positive = self.order[first + below(count, 1)]
        return torch.cat([positive, self.order[places]], dim=1)

    def _direction(self, anchors: Tensor, bank: Tensor, drawn: Tensor, side: int) -> Tensor:
        """L of anchors [N, dim] over a bank's drawn entries [N, 1 + negatives]."""
        # One product with the whole bank moves far less memory than N * (1 + negatives) gathered rows would. The copy
        # is what the backward pass reads, because the bank itself moves on before that.
        scores = (anchors @ bank.clone().T).gather(1, drawn).div(self.tau).exp()
        # A tensor decides, to spare the device a wait.
        z = torch.where(self.z[side] > 0, self.z[side], len(bank) * scores.detach().mean())
        if self.training:
            self.z[side] = z
        scores = scores / z
        c = self.negatives / len(bank)
        positive, negative = scores[:, 0], scores[:, 1:]
        true = (positive / (positive + c + EPS)).log()
        false = (c / (negative + c + EPS)).log()
        return -(true.sum() + false.sum()) / len(anchors)

    def _remember(self, bank: Tensor, new: Tensor, index: Tensor) -> None:
        with torch.no_grad():
            bank[index] = F.normalize(self.momentum * bank[index] + (1 - self.momentum) * new, dim=1)
