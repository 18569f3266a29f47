"""The commands `kdbench export`, `latency` and `predict`; everything heavy is imported where it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..spec.request import RESULTS, data_root, option_of, parse_scale
from ..text import printable

RunArgument = Annotated[str, typer.Argument(help="The run's hash or its first digits; or its folder, or a link to it.")]
DataOption = Annotated[Path | None, typer.Option(help="The user's own data that the run was trained on.")]
IgnoreOption = Annotated[int | None, option_of("ignore_index")]
ResultsOption = Annotated[Path, option_of("results")]


def export(
    run: RunArgument,
    form: Annotated[str, typer.Option("--format", help="torch, torchscript, exported-program or onnx.")],
    out: Annotated[Path | None, typer.Option(help="Folder. Default: one below results/exports.")] = None,
    data: DataOption = None,
    ignore_index: IgnoreOption = None,
    latency: Annotated[bool, typer.Option("--latency", help="Also measure latency and memory of inference.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Of onnx: also a quantized file, with its score.")] = False,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Points by which the file's metric may differ. Default: 0.0001.")
    ] = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Export a student for use elsewhere: the network alone, checked, with its preprocessing and a model card."""
    from ..report.added import register_files, with_added
    from ..spec.table import load_table, table_names
    from .checking import TOLERANCE
    from .export import ExportRequest
    from .export import export as export_student
    from .saved import DataPlace

    register_files(results, _say)
    place = DataPlace(data_root(), data, {} if ignore_index is None else {"ignore_index": ignore_index})
    tables = with_added([load_table(name) for name in table_names()], results)
    request = ExportRequest(
        run, form, results, place, out, latency, int8, TOLERANCE if tolerance is None else tolerance
    )
    for path in export_student(request, tables, _say):
        _say(path)


def latency(
    tables: Annotated[list[str] | None, typer.Argument(help="Such as akd/coco. Without: every run.")] = None,
    scale: Annotated[str | None, option_of("scale")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also quantize and score the student of each run.")] = False,
    data: DataOption = None,
    ignore_index: IgnoreOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Measure latency, memory and file size of the students of tables, each network once; `table` shows them.

    With the threads of this process: OMP_NUM_THREADS=1 for one. Exit 1 if something could not be measured.
    """
    from ..records.store import read_rows
    from ..report.added import register_files, with_added
    from ..spec.table import load_table
    from .saved import DataPlace
    from .table_latency import LatencyRequest, measure_tables

    chosen = parse_scale(scale)
    register_files(results, _say)
    place = DataPlace(data_root(), data, {} if ignore_index is None else {"ignore_index": ignore_index})
    loaded = with_added([load_table(name) for name in tables or ()], results)
    request = LatencyRequest(results, place, chosen, int8)
    if not measure_tables(request, loaded, read_rows([results])[0], _say):
        raise typer.Exit(1)


def predict(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    out: Annotated[Path | None, typer.Option(help="Folder. Default: one below results/predictions.")] = None,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Least score of boxes that are drawn.")] = 0.3,
    data: DataOption = None,
    ignore_index: IgnoreOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Predict the classes, boxes or masks of images with a saved student: predictions.json and drawn pictures."""
    from ..report.added import register_files
    from .predict import predict as predict_images
    from .saved import DataPlace

    register_files(results, _say)
    place = DataPlace(data_root(), data, {} if ignore_index is None else {"ignore_index": ignore_index})
    for path in predict_images(results, run, images, place, out, min_score, _say):
        _say(path)


def _say(text: object) -> None:
    typer.echo(printable(str(text)))
