"""What the shipped tables know of a network: its names, the data set it is for, and how images are prepared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple, get_args

from .. import networks
from ..errors import SpecError, unknown
from ..grid.pairs import networks_at
from ..spec import network_name
from ..spec.recipe import Recipe, ResizedCrop, ScaledCrop, load_recipe
from ..spec.scale import Scale
from ..spec.table import Table, load_table, table_names

SCALES: tuple[Scale, ...] = get_args(Scale)


class NamedNetwork(NamedTuple):
    """What a name of a network may mean.

    Attributes:
        name: of the papers' tables, else of kdbench.
        candidates: networks of kdbench, the likeliest first.
    """

    name: str
    candidates: list[str]


def find_network(name: str, dataset: str | None) -> NamedNetwork:
    """The networks that a name means: of the tables of a data set first, then of kdbench.

    Case, `_` and `-` do not matter where no network has the very name, and RepDistiller's `ShuffleV1` is known.

    Args:
        name: such as `resnet20`, or `mobilenet_v2`, which is another network on CIFAR than on ImageNet.
        dataset: a data set of kdbench; None for the user's own.

    Raises:
        SpecError: no network has the name; the nearest is suggested.
    """
    if network_name.is_outside(name):
        name = network_name.resolve(name)
        networks.task(name)
        return NamedNetwork(name, [name])
    tables = [table for table in _tables() if dataset in (None, table.dataset.full)]
    papers: dict[str, list[str]] = {}
    for table in tables:
        for pair in table.pairs:
            for paper, network in zip((pair.teacher, pair.student), networks_at(pair, "full"), strict=True):
                if _exists(network) and network not in papers.setdefault(paper, []):
                    papers[paper].append(network)
    known = [*(paper for paper in papers if papers[paper]), *networks.names()]
    chosen = name if name in known or _exists(name) else next((k for k in known if _plain(k) == _plain(name)), None)
    if chosen is None:
        raise unknown("network", name, set(known))
    of_papers, itself = papers.get(chosen, []), [chosen] if _exists(chosen) else []
    candidates = itself + of_papers if dataset is None else of_papers + itself
    return NamedNetwork(chosen, list(dict.fromkeys(candidates)))


def default_dataset(network: str) -> str:
    """The data set of most of the tables that have a network, by the network's own name rather than a paper's.

    Other classifiers are for CIFAR-100.

    Raises:
        SpecError: no table has it.
    """
    for own_name in (True, False):
        sets = [table.dataset.full for table in _tables() if network in _networks_of(table, "full", own_name)]
        if sets:
            return Counter(sets).most_common(1)[0][0]  # of as many, the first
    if networks.task(network) == "classification":
        return "cifar100"
    for table in _tables():
        if network in _networks_of(table, "mini"):
            return table.dataset.mini
    raise SpecError(f"no table has the network {network}, so its data set is not known; give --data")


def image_recipe(task: str, network: str, dataset: str | None, image_kinds: Sequence[str] = ()) -> Recipe:
    """The recipe by which images are prepared for the evaluation of a network: that of a table.

    Args:
        task: of the network.
        network: of kdbench.
        dataset: a data set of kdbench; None for the user's own.
        image_kinds: of recipes that read the user's data; the first one that a table with the network has, else the
            first that any table has.

    Raises:
        SpecError: no table has such data.
    """
    choices = [(table, scale) for scale in SCALES for table in _tables() if table.task == task]
    if dataset is not None:
        found = [(t, s) for t, s in choices if getattr(t.dataset, s) == dataset]
        if not found:
            raise SpecError(f"no table evaluates {task} on {dataset}; give a recipe (`kdbench list recipes`)")
    else:
        kinds = [load_recipe(getattr(t.recipe, s)).image.kind for t, s in choices]
        found = [each for wanted in image_kinds for each, kind in zip(choices, kinds, strict=True) if kind == wanted]
        if not found:
            raise SpecError(
                f"no table evaluates {task} on such data ({', '.join(image_kinds)}); give a recipe (--recipe)"
            )
    table, scale = next((each for each in found if network in _networks_of(*each)), found[0])
    return load_recipe(getattr(table.recipe, scale))


def for_evaluation(recipe: Recipe, training_images: int) -> Recipe:
    """A recipe that fits any data: what concerns training alone, and might not fit, is taken out of it.

    Args:
        recipe: whose image preparation is used.
        training_images: of the data, of which a batch cannot have more.
    """
    image = recipe.image
    if isinstance(image, ResizedCrop):
        image = image.model_copy(update={"mixup": 0.0, "cutmix": 0.0, "rand_augment": None})
    elif isinstance(image, ScaledCrop):
        image = image.model_copy(update={"height": 1, "width": 1})  # whole images are evaluated
    batch = min(recipe.micro_batch_size, training_images)
    return recipe.model_copy(update={"image": image, "batch_size": batch, "accumulate": 1})


@cache
def _tables() -> tuple[Table, ...]:
    return tuple(map(load_table, table_names()))


def _networks_of(table: Table, scale: Scale, own_name: bool = True) -> Iterator[str]:
    for pair in table.pairs:
        if scale == "full" or pair.mini:
            yield from networks_at(pair, scale) if own_name else (pair.teacher, pair.student)


def _exists(name: str) -> bool:
    try:
        networks.task(name)
    except SpecError:
        return False
    return True


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower()).replace("shufflev", "shufflenetv")
