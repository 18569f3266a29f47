"""State dicts in files of any program: found, brought to a network's names, and loaded if every tensor fits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..text import counted

DEEPEST, MOST = 4, 200
"""Levels of dicts in which state dicts are looked for, and dicts that are looked at."""

PREFIXES = 16
"""Prefixes of names that are tried, those of most names first."""

AVERAGED = re.compile(r"(.*[._])?(ema|swa|averaged?)([._].*)?", re.IGNORECASE)
"""Keys and prefixes of a running mean of the weights, which files have beside the weights."""

COUNTER = "num_batches_tracked"
"""Of a BatchNorm, which reads it only without a momentum; files from before PyTorch 0.4.1 lack it."""

WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing add to names."""

UNUSED = re.compile(r"(.*\.)?(total_ops|total_params|n_averaged|relative_position_index|attn_mask|num_batches_tracked)")
"""Counters, tables that networks compute themselves, and what profilers leave: no network needs them from a file."""

INTEGERS = (torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

State = dict[str, Tensor]
Convert = Callable[[State], State]


class MisfitError(CheckpointError):
    """No state dict in a file fits a network."""


class Fit(NamedTuple):
    """A state dict of a file that fits a network.

    Attributes:
        state: under the network's names.
        notices: what differed from the network's own state dict.
    """

    state: State
    notices: tuple[str, ...]


class Variant(NamedTuple):
    """A state dict of a file, with its names as a network may have them.

    Attributes:
        place: keys that lead to it.
        prefix: that was taken off its names.
        state: tensors by the names that remain.
        others: names in the dict that do not have the prefix.
        beside: the other keys of the file, where it is under a key.
    """

    place: tuple[str, ...]
    prefix: str
    state: State
    others: tuple[str, ...]
    beside: tuple[str, ...]

    @property
    def words(self) -> str:
        parts = [f"the key {'.'.join(self.place)}"] if self.place else []
        parts += [f"the prefix {self.prefix}"] if self.prefix else []
        return " and ".join(parts) or "no key"


def load_weights(
    network: nn.Module, content: Mapping[str, Any], source: Path, convert: Convert | None = None
) -> tuple[str, ...]:
    """Load the state dict in a file's content that fits a network; returns what differed in it.

    Args:
        network: whose tensors are all replaced.
        content: of the file.
        source: the file, for messages.
        convert: brings names of the network's library to those of the network.

    Raises:
        CheckpointError: as `fit`, or a tensor has no finite numbers.
    """
    found = fit(network, content, source, convert)
    check_values(found.state, source)
    state = network.state_dict()  # with the versions of its modules, which some cannot load without
    state.update(found.state)
    network.load_state_dict(state)
    return found.notices


def fit(network: nn.Module, content: Mapping[str, Any], source: Path, convert: Convert | None = None) -> Fit:
    """The state dict in a file's content whose names and shapes are all of a network's; arguments as `load_weights`.

    Raises:
        CheckpointError: there is none, there are several, or its numbers are of another kind; says what is there.
    """
    expected = network.state_dict()
    fits: list[tuple[Variant, Fit]] = []
    for variant in variants(content):
        state, notices = _completed(variant, expected, convert)
        if not misfit(state, expected) and not any(_equal(state, known.state) for _, known in fits):
            fits.append((variant, Fit(state, notices)))
    if not fits:
        raise MisfitError(_refusal(network, content, source, convert))
    found, others = _chosen(fits, source)
    converted = check_kinds(found.state, expected, source)
    return Fit(found.state, (*found.notices, *others, *converted))


def closest(network: nn.Module, content: Mapping[str, Any], convert: Convert | None = None) -> tuple[State, list[str]]:
    """Of the state dicts in a file's content, the one with most of a network's names, and how it does not fit."""
    expected = network.state_dict()
    states = [_completed(variant, expected, convert)[0] for variant in variants(content)]
    state = max(states, key=lambda each: (len(expected.keys() & each.keys()), len(each)), default={})
    return state, misfit(state, expected)


def variants(content: Mapping[str, Any]) -> Iterator[Variant]:
    """Every state dict in a file's content, with each prefix that many of its names have taken off."""
    for place, tensors in islice(_dicts(content), MOST):
        names = {WRAPPERS.sub("", name): value for name, value in tensors.items()}
        beside = tuple(str(key)[:40] for key in content if str(key) != place[0]) if place else ()
        for prefix in _prefixes(names):
            inside = {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}
            others = tuple(name for name in names if not name.startswith(prefix))
            removed = _removed(tensors, inside) if prefix or tensors.keys() != names.keys() else prefix
            yield Variant(place, removed, inside, others, beside)
            if {name.split(".")[0] for name in inside} == {"backbone", "head"}:
                parted = {name.split(".", 1)[-1]: value for name, value in inside.items()}
                yield Variant(place, f"{removed}backbone. and {removed}head.", parted, others, beside)


def misfit(state: State, expected: State) -> list[str]:
    """The names of tensors that are missing, unknown, or of another shape; empty for a state dict that fits."""
    wrong = sorted(expected.keys() ^ state.keys())
    return wrong or [name for name, value in expected.items() if state[name].shape != value.shape]


def check_kinds(state: State, expected: State, source: Path) -> tuple[str, ...]:
    """Refuse tensors that are no plain numbers of the kind that a network has; returns what is converted.

    Raises:
        CheckpointError: names the tensor and its type.
    """
    converted: dict[torch.dtype, int] = {}
    for name, value in state.items():
        wanted = expected[name].dtype
        if value is expected[name]:
            continue  # a counter that the file lacks
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise CheckpointError(
                f"{source}: {name} is no plain tensor ({value.layout}, {value.dtype}, {value.device}); save dense, "
                "unquantized weights"
            )
        alike = FLOATS if wanted.is_floating_point else (wanted, torch.int64) if wanted in INTEGERS else (wanted,)
        if value.dtype not in alike:
            raise CheckpointError(
                f"{source}: {name} is {_name(value.dtype)} and the network has {_name(wanted)}; converting it would "
                f"change the weights, so save them as {_name(wanted)}"
            )
        if value.dtype != wanted:
            converted[value.dtype] = converted.get(value.dtype, 0) + 1
    return tuple(
        f"{counted(count, 'tensor is', 'tensors are')} converted from {_name(kind)}"
        for kind, count in converted.items()
    )


def check_values(state: Mapping[str, Tensor], source: Path) -> None:
    """Refuse weights that are not finite, or statistics that no data has.

    Raises:
        CheckpointError: names the first such tensor.
    """
    for name, value in state.items():
        if value.is_floating_point() and not (finite := value.float().isfinite()).all():
            values = f"of its {counted(value.numel(), 'value')}"
            wrong = counted(int((~finite).sum()), f"{values} is", f"{values} are")
            raise CheckpointError(
                f"{source}: {name} is not finite: {wrong} NaN or infinite; give a checkpoint from before the "
                "training diverged"
            )
        if name.endswith("running_var") and value.numel() and value.min() < 0:
            raise CheckpointError(f"{source}: {name} has negative variances; give an undamaged checkpoint")


def contents(content: Mapping[str, Any]) -> str:
    """What a file's content is, in words: its keys and the tensors of its largest state dict."""
    keys = [f"{str(key)[:40]} ({_kind(value)})" for key, value in islice(content.items(), 6)]
    more = f", and {len(content) - 6} more" if len(content) > 6 else ""
    found = [tensors for _, tensors in islice(_dicts(content), MOST)]
    largest = max(found, key=len, default={})
    if len(largest) == len(content):
        shown = [f"{str(name)[:60]} {tuple(value.shape)}" for name, value in largest.items()]
        return f"{counted(len(shown), 'tensor')}: {', '.join(shown[:2])}, ..., {shown[-1]}" if shown else "nothing"
    first = next((f"; the first tensor is {str(n)[:60]} {tuple(v.shape)}" for n, v in largest.items()), "")
    return f"{', '.join(keys)}{more}{first}"


def _completed(variant: Variant, expected: State, convert: Convert | None) -> tuple[State, tuple[str, ...]]:
    """A state dict under a network's names, with the counters that it lacks, and what differs in it."""
    state = convert(variant.state) if convert is not None else dict(variant.state)
    unused = [name for name in state if name not in expected and UNUSED.fullmatch(name)]
    lacking = {name: value for name, value in expected.items() if name.endswith(COUNTER) and name not in state}
    state = {name: value for name, value in state.items() if name not in unused} | lacking
    notices = []
    if variant.place not in ((), ("state",)) or variant.prefix:
        beside = f" (the file also has {', '.join(variant.beside[:4])})" if variant.beside else ""
        notices.append(f"weights under {variant.words}{beside}")
    if convert is not None and state.keys().isdisjoint(variant.state):
        notices.append("the names of the network's library")
    if variant.others:
        tensors = counted(len(variant.others), "tensor without that prefix is", "tensors without that prefix are")
        notices.append(f"{tensors} left out, such as {variant.others[0]}")
    if unused:
        tensors = counted(
            len(unused), "tensor that the network does not use is", "tensors that the network does not use are"
        )
        notices.append(f"{tensors} left out, such as {unused[0]}")
    if lacking:
        notices.append(f"no {COUNTER}, which the network does not read")
    return state, tuple(notices)


def _dicts(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], State]]:
    """The dicts in a file's content that hold tensors, with the keys that lead to them, outermost first."""
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    seen: set[int] = set()
    while waiting:
        place, content = waiting.pop(0)
        if id(content) in seen or len(seen) > MOST:
            continue
        seen.add(id(content))
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors and all(isinstance(name, str) for name in tensors):
            yield place, tensors
        if len(place) < DEEPEST:
            waiting += [((*place, str(key)), value) for key, value in content.items() if isinstance(value, dict)]


def _prefixes(names: Iterable[str]) -> list[str]:
    """The prefixes that a state dict in these names may have: none, and those of most names that end before a dot."""
    counts = Counter({"": 0})
    for name in names:
        parts = name.split(".")[:-1]
        counts.update(["", *(".".join(parts[: depth + 1]) + "." for depth in range(min(len(parts), DEEPEST)))])
    return sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))[:PREFIXES]


def _removed(tensors: State, inside: State) -> str:
    """What was taken off the beginning of a state dict's names, those of wrappers included."""
    first = next(iter(inside), "")
    origin = next((name for name, value in tensors.items() if value is inside.get(first)), first)
    return origin.removesuffix(first) if origin.endswith(first) else "_orig_mod."


def _chosen(fits: list[tuple[Variant, Fit]], source: Path) -> tuple[Fit, tuple[str, ...]]:
    """The one that is meant of several state dicts that fit: the weights, not their running mean.

    Raises:
        CheckpointError: they are as good as each other.
    """
    weights = [each for each in fits if not AVERAGED.fullmatch(".".join((*each[0].place, each[0].prefix)))]
    kept = fits if len(fits) == 1 else weights
    if len(kept) != 1:
        places = " and under ".join(variant.words for variant, _ in fits[:3])
        raise CheckpointError(
            f"{source} holds {len(fits)} state dicts that fit: under {places}; save the one that you mean into a file "
            "of its own"
        )
    others = [variant.words for variant, each in fits if each is not kept[0][1]]
    said = any(notice.startswith("weights under") for notice in kept[0][1].notices)
    taken = "" if said else f"weights under {kept[0][0].words}; "
    notice = f"{taken}those under {', '.join(others)} are left out"
    return kept[0][1], (notice,) if others else ()


def _equal(state: State, other: State) -> bool:
    """Whether two state dicts of one network hold the same weights."""
    return all(value is other[name] or _same(value, other[name]) for name, value in state.items())


def _same(value: Tensor, other: Tensor) -> bool:
    plain = value.layout == other.layout == torch.strided and not (value.is_meta or other.is_meta)
    return plain and value.dtype == other.dtype and torch.equal(value, other)


def _refusal(network: nn.Module, content: Mapping[str, Any], source: Path, convert: Convert | None) -> str:
    """Why no state dict in a file fits, and what is there."""
    expected = network.state_dict()
    state, wrong = closest(network, content, convert)
    if not state:
        return f"{source} holds no state dict of tensors ({contents(content)}); give the file of a network's weights"
    if expected.keys() == state.keys():
        name = wrong[0]
        rows = all(state[each].shape[1:] == expected[each].shape[1:] for each in wrong)
        other = "number of classes" if rows else "width or version of the network"
        return (
            f"{source} does not fit: {name} is {tuple(state[name].shape)} there and {tuple(expected[name].shape)} here "
            f"({len(wrong)} such); it was made for another {other}"
        )
    missing, surplus = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    parts = [f"{counted(len(missing), 'name is', 'names are')} missing, such as {missing[0]}"] if missing else []
    parts += [f"{counted(len(surplus), 'name is', 'names are')} unknown, such as {surplus[0]}"] if surplus else []
    return (
        f"{source} is another network's: {' and '.join(parts)}; give the checkpoint of this very network. "
        f"It has {contents(content)}"
    )


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return counted(len(value), "entry", "entries")
    return f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
