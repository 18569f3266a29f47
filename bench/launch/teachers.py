"""Teachers given as files: which file is for which teacher network, and which pairs run with them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kdbench import methods

from .. import networks
from ..errors import CheckpointError, SpecError, unknown
from ..grid.cells import expand_pair
from ..grid.pairs import networks_at, pair_name
from ..networks.load import explain_misfit, try_networks
from ..records.checkpoint import sha256
from ..spec import network_name
from ..spec.request import RunRequest
from ..spec.scale import Scale
from ..spec.table import Pair, Table
from ..tasks.opened import OpenedData

SUFFIXES = (".pt", ".pth", ".tar", ".pkl", ".ckpt", ".bin", ".safetensors")
MOST_FILES = 500


class GivenTeachers(NamedTuple):
    """The teacher files of a request for the tables of one data set.

    Attributes:
        tables: with the pairs that run.
        files: by teacher network.
        notices: for the plan.
    """

    tables: list[Table]
    files: dict[str, Path]
    notices: list[str]


def assign(tables: Sequence[Table], scale: Scale, request: RunRequest, data: OpenedData) -> GivenTeachers:
    """The file of each teacher network that the request gives one for.

    A file that is given for a network is used for it, and other teachers are trained here. A file without a network,
    and those of a folder, are used for the teacher that they fit, and pairs whose teacher has none are left out.

    Args:
        tables: of one data set, validated.
        scale: "full" or "mini".
        request: its `teacher`, methods and recipe changes.
        data: its classes and the normalisation of its images.

    Raises:
        SpecError: a file fits several teachers, or two files fit one.
        CheckpointError: a file cannot be read, fits no teacher, or its weights cannot be used.
    """
    needed, classes = frozen_teachers(tables, scale, request), data.classes
    if not request.teacher:
        return GivenTeachers(list(tables), {}, [])
    if not needed:
        return GivenTeachers(list(tables), {}, ["--teacher is not used: no run has a teacher that is trained before"])
    files: dict[str, Path] = {}
    notices: list[str] = []
    for given in request.teacher:
        if given.network is None:
            assert given.path is not None
            _add_fitting(given.path, sorted(needed), classes, files, notices)
        elif given.path is not None:
            _add_named(given.network, given.path, scale, needed, classes, files, notices)
        elif not network_name.is_in_file(given.network):
            path = networks.weights(given.network, len(classes))
            _add_named(given.network, path, scale, needed, classes, files, notices)
            notices += _stated(given.network, path, data)
    if all(given.network is not None for given in request.teacher):
        if others := sorted(needed.keys() - files.keys()):
            notices.append(f"teachers trained here, because --teacher gives no file for them: {', '.join(others)}")
        return GivenTeachers(list(tables), files, notices)
    kept, left_out = _with_teachers(tables, scale, request, files)
    if left_out:
        notices.append(
            f"left out, because their teachers have no file (--teacher NETWORK=FILE gives one): {', '.join(left_out)}"
        )
    return GivenTeachers(kept, files, notices)


def check_networks(tables: Mapping[Scale, Sequence[Table]], request: RunRequest) -> None:
    """Refuse a `--teacher NETWORK=FILE` whose network is no teacher of the tables, which are given by scale.

    Raises:
        SpecError: suggests the nearest name.
    """
    named = [given.network for given in request.teacher if given.network is not None]
    known: set[str] = set()
    for scale, group in tables.items() if named else ():
        for network, names in frozen_teachers(group, scale, request).items():
            known |= {network, *names}
    for network in named:
        if not network_name.is_outside(network) and network not in known:
            raise unknown("teacher of these tables in --teacher NETWORK=FILE", network, known)


def frozen_teachers(tables: Sequence[Table], scale: Scale, request: RunRequest) -> dict[str, set[str]]:
    """The teacher networks that runs of a request need trained, each with the names of it in the tables."""
    needed: dict[str, set[str]] = {}
    for table in tables:
        for pair in table.pairs:
            if _needs_teacher(table, pair, scale, request):
                needed.setdefault(networks_at(pair, scale)[0], set()).add(pair.teacher)
    return needed


def _needs_teacher(table: Table, pair: Pair, scale: Scale, request: RunRequest) -> bool:
    """Whether one of a pair's runs has a teacher that is trained before."""
    return any(
        cell.options is not None and not cell.skip and methods.teacher_mode(cell.entry.method, cell.options) == "frozen"
        for cell in expand_pair(table, pair, scale, request.changes)
    )


def _with_teachers(
    tables: Sequence[Table], scale: Scale, request: RunRequest, files: Mapping[str, Path]
) -> tuple[list[Table], list[str]]:
    """The tables with the pairs whose teacher has a file or that need none, and the names of the other pairs."""
    kept, left_out = [], []
    for table in tables:
        pairs = []
        for pair in table.pairs:
            if networks_at(pair, scale)[0] in files or not _needs_teacher(table, pair, scale, request):
                pairs.append(pair)
            else:
                left_out.append(f"{table.name} {pair_name(pair)}")
        if pairs:
            kept.append(table.model_copy(update={"pairs": tuple(pairs)}))
    return kept, left_out


def _add_named(
    name: str,
    path: Path,
    scale: Scale,
    needed: Mapping[str, set[str]],
    classes: tuple[str, ...],
    files: dict[str, Path],
    notices: list[str],
) -> None:
    """A file for a network, which must fit it."""
    for network in [network for network, names in needed.items() if name in {network, *names}]:
        trial = try_networks(path, [network], classes)
        if network in trial.refusals:
            prefix = "" if name == network else f"at scale {scale} the teacher {name} is the network {network}: "
            raise CheckpointError(prefix + trial.refusals[network] + explain_misfit(path, network, classes))
        _add(network, path, trial.notices[network], files, notices)


def _add_fitting(
    path: Path, needed: list[str], classes: tuple[str, ...], files: dict[str, Path], notices: list[str]
) -> None:
    """A file, or the files of a folder, for the teachers that they fit."""
    folder = os.path.isdir(path)  # Path.is_dir raises for some
    for file in _files(path) if folder else [path]:
        try:
            trial = try_networks(file, needed, classes)
        except CheckpointError as error:
            if not folder:
                raise
            notices.append(f"not used: {error}")
            continue
        if len(trial.notices) > 1:
            names = " and ".join(trial.notices)
            raise SpecError(f"{file} fits {names}; say which with --teacher {min(trial.notices)}={file}")
        for network, differences in trial.notices.items():
            _add(network, file, differences, files, notices)
        if not trial.notices and folder:
            notices.append(f"not used: {file} fits no teacher of these tables")
        elif not trial.notices:
            raise CheckpointError(misfit_message(file, trial.refusals, classes))
    if folder and not files.keys() & set(needed):
        raise CheckpointError(f"no file in {path} fits a teacher of these tables ({', '.join(needed)})")


def _stated(network: str, path: Path, data: OpenedData) -> list[str]:
    """What a network's library states of its weights, and how its images differ from those of the data."""
    stated = networks.published(network, path, sha256(path))
    if stated is None:
        return []
    scores = ", ".join(f"{value:.2f} {name}" for name, value in stated.metrics.items())
    lines = [f"teacher {network}: {stated.source} states {scores}; it is measured here before it teaches"]
    there, here = (*stated.mean, *stated.std), (*data.mean, *data.std)
    if not all(math.isclose(a, b, abs_tol=0.005) for a, b in zip(there, here, strict=True)):
        lines.append(
            f"teacher {network}: its images were normalised by mean {_three(there[:3])}, sd {_three(there[3:])}, and "
            f"here by mean {_three(here[:3])}, sd {_three(here[3:])}, which lowers its score"
        )
    return lines if scores else lines[1:]


def _three(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def misfit_message(file: Path, refusals: Mapping[str, str], classes: tuple[str, ...]) -> str:
    """Why a file fits no teacher; of several refusals the most specific one."""
    nearest = min(refusals, key=lambda name: (" does not fit: " not in refusals[name], name))
    reason = refusals[nearest] + explain_misfit(file, nearest, classes)
    others = sorted(refusals.keys() - {nearest})
    return f"{reason} (tried as {nearest}; {', '.join(others)} fit less)" if others else reason


def _add(network: str, file: Path, differences: Sequence[str], files: dict[str, Path], notices: list[str]) -> None:
    if network in files:
        raise SpecError(f"{files[network]} and {file} are both for the teacher {network}; give one of them")
    files[network] = file
    notices.append("; ".join([f"teacher {network}: {file}", *differences]))


def _files(folder: Path) -> Iterator[Path]:
    """The checkpoint files in a folder and below.

    Raises:
        SpecError: there are none, or too many to try.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not found:
        raise SpecError(f"--teacher {folder} holds no checkpoint ({', '.join(SUFFIXES)}); give a file, or their folder")
    if len(found) > MOST_FILES:
        raise SpecError(f"--teacher {folder} holds {len(found)} checkpoints; give a folder with one for each teacher")
    return iter(found)
