"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861) at width 1: 4.23 million parameters, 569 million multiply-adds.

State-dict names are those of DIST's and mdistiller's implementations (`model.<i>.<j>`, `fc`), so that their files fit.
"""

from __future__ import annotations

from torch import Tensor, nn

STAGES = (((64, 1), (128, 2), (128, 1)), ((256, 2), (256, 1)), ((512, 2), *[(512, 1)] * 5), ((1024, 2), (1024, 1)))
"""Output channels and stride of the separable convolutions of each stage."""


class MobileNetV1(nn.Module):
    """A 3x3 and thirteen depthwise separable convolutions with ReLU, global pooling and a linear layer.

    Initialized as in DIST's code: convolutions Kaiming normal over fan-out (which, as in PyTorch, ignores groups), the
    linear layer uniform in +-1/sqrt(K) with zero biases.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers = [nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))]
        width = 32
        for outputs, stride in (layer for stage in STAGES for layer in stage):
            layers.append(_separable(width, outputs, stride))
            width = outputs
        self.model = nn.Sequential(*layers)
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.uniform_(self.fc.weight, -(num_classes**-0.5), num_classes**-0.5)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> logits [N, K]."""
        logits: Tensor = self.fc(self.model(x).mean((2, 3)))
        return logits


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
