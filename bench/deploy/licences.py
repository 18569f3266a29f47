"""What is known about the terms of use of a trained student's weights: those of the data that it learned from."""

from __future__ import annotations

TERMS = {
    "digits": "scikit-learn's digits (UCI, CC BY 4.0), drawn into scenes here",
    "cifar10": "CIFAR-10, published for research without a licence",
    "cifar100": "CIFAR-100, published for research without a licence",
    "imagenet": "ImageNet, whose terms allow non-commercial research and education",
    "coco": "COCO 2017: annotations CC BY 4.0, images under the terms of their Flickr users",
    "cityscapes": "Cityscapes, whose licence allows non-commercial use",
    "camvid": "CamVid, published for research without a licence",
}
"""By data set, in a few words; their sites have the text that counts."""


def licence_note(data: str, is_own: bool, init: str) -> str:
    """What a model card says of terms of use.

    Args:
        data: name of the data set.
        is_own: the data is the user's own, whatever its name.
        init: where the student's weights started: "random" or published weights.
    """
    terms = TERMS.get(data, "") if not is_own else ""
    source = f"The weights were learned from {terms}." if terms else f"The weights were learned from your data {data}."
    start = "" if init == "random" else f" They started from {init} weights of the network's library, with its terms."
    return (
        f"{source}{start} kdbench (Apache-2.0) claims no rights in them; whether the terms of the data extend to "
        "weights is for you to judge."
    )
