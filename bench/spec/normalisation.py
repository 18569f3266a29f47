"""The constants that images are normalised with."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

from .schema import Spec

Channels = tuple[float, float, float]
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]

_CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
NAMED: dict[str, tuple[Channels, Channels]] = {
    "crd": _CIFAR100,
    "repdistiller": _CIFAR100,
    "mdistiller": _CIFAR100,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and standard deviation by the name of the code that has them: HobbitLong/RepDistiller (of CRD) and
megvii-research/mdistiller on CIFAR-100, torchvision on ImageNet."""

_NUMBER = r"([0-9]*\.?[0-9]+)"
_THREE = rf"\s*[:=]?\s*[\[(]?{_NUMBER}[\s,]+{_NUMBER}[\s,]+{_NUMBER}[\])]?"
_CONSTANTS = re.compile(rf"mean{_THREE}[\s,;]+(?:sd|std){_THREE}", re.IGNORECASE)
_REMARK = re.compile(r"\s*\([^()]*\)\s*$")

FORMS = f"`mean R G B, sd R G B` with values in 0..1, or `of {'`, `of '.join(NAMED)}`"


class Normalisation(Spec):
    """Mean and standard deviation per channel, RGB in 0..1, and where they are stated.

    Attributes:
        mean: subtracted.
        std: divided by.
        stated: as a manifest or library states them; "of the data set" for the data set's.
    """

    mean: tuple[Mean, Mean, Mean]
    std: tuple[Deviation, Deviation, Deviation]
    stated: Annotated[str, Field(max_length=2000)]


def parse_normalisation(text: Any) -> Any:
    """ "mean .5 .5 .5, sd .25 .25 .25 (a remark)" or "of CRD" -> `Normalisation`; what is no text stays.

    Raises:
        ValueError: any other text.
    """
    if not isinstance(text, str):
        return text
    for words in (text.strip(), _REMARK.sub("", text).strip()):
        name = words.lower().removeprefix("of ").strip()
        if name in NAMED:
            mean, std = NAMED[name]
            return Normalisation(mean=mean, std=std, stated=text)
        if match := _CONSTANTS.fullmatch(words):
            r, g, b, *deviations = map(float, match.groups())
            if max(r, g, b, *deviations) <= 1 and min(deviations) > 0:
                return Normalisation(mean=(r, g, b), std=(deviations[0], deviations[1], deviations[2]), stated=text)
    raise ValueError(f"write {FORMS}")
