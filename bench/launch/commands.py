"""The commands `evaluate`, `merge` and `status`; everything heavy is imported where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..spec.request import RESULTS, data_root, option_of
from ..text import printable


def evaluate(
    weights: Annotated[Path | None, typer.Option(help="A checkpoint of any program, as a state dict.")] = None,
    network: Annotated[str | None, typer.Option(help="Its network (kdbench list networks, or a paper's name).")] = None,
    manifest: Annotated[Path | None, typer.Option(help="A CSV that lists files, in place of --weights.")] = None,
    data: Annotated[str | None, typer.Option(help="A data set's name, or your own. Default: the network's.")] = None,
    recorded: Annotated[float | None, typer.Option(help="What its source states, percent.")] = None,
    teacher: Annotated[str | None, typer.Option(help="Teacher of a distilled network.")] = None,
    method: Annotated[str | None, typer.Option(help="By which it was distilled.")] = None,
    selection: Annotated[str | None, typer.Option(help="Epoch of the weights: last or best.")] = None,
    normalisation: Annotated[
        str | None, typer.Option(help="Of its images: 'mean R G B, sd R G B' in 0..1. Default: the data set's.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Where it was published.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights.")] = None,
    note: Annotated[str | None, typer.Option(help="Kept in the row.")] = None,
    ignore_index: Annotated[int | None, option_of("ignore_index")] = None,
    recipe: Annotated[str | None, typer.Option(help="Prepares the images. Default: the network's table's.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:0. Default: a CUDA device if there is one.")] = None,
    workers: Annotated[int | None, option_of("workers")] = None,
    results: Annotated[Path, typer.Option(help="Folder of runs; rows go to weights/ beside it.")] = RESULTS,
) -> None:
    """Measure published weights on the validation images, and keep a row of each file for the tables.

    A manifest has the columns file, network, dataset, sha256, bytes, teacher, method, fills, source, licence,
    recorded_top1 (or another metric), selection, normalisation and note, in any order. Exit 1 if a file failed.
    """
    from .devices import usable
    from .evaluation import EvaluationRequest, files_to_evaluate
    from .evaluation import evaluate as evaluate_files

    fields = {"network": network, "recorded": recorded, "teacher": teacher, "method": method, "selection": selection}
    fields |= {"normalisation": normalisation, "source": source, "licence": licence, "note": note}
    files = files_to_evaluate(manifest, weights, fields)
    chosen = usable((device,) if device else None, say)[0]
    request = EvaluationRequest(data, ignore_index, recipe, chosen, workers, results, data_root())
    if evaluate_files(files, request, say).failed:
        raise typer.Exit(1)


def merge(
    other: Annotated[Path, typer.Argument(help="Folder of runs, such as OTHER/results/runs.")],
    results: Annotated[Path, option_of("results")] = RESULTS,
) -> None:
    """Add the finished runs of another folder, such as another machine's. Exit 1 if one of its rows is left out."""
    from .merge import merge as merge_runs

    if not merge_runs(other, results, say):
        raise typer.Exit(1)


def status(results: Annotated[Path, option_of("results")] = RESULTS) -> None:
    """Show who trains what in a folder of runs: jobs of every command and machine, and how the other runs ended."""
    from ..engines.status import print_status

    print_status(results)


def say(text: object) -> None:
    """Print a line."""
    typer.echo(printable(str(text)))
