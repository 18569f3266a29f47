"""The command `kdbench`: one verb a function, everything heavy imported where it is used."""

from __future__ import annotations

import io
import signal
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from .deploy import commands as deploy_commands
from .errors import SpecError, is_for_users, message_of, refuse_undecodable, unknown
from .launch import commands as launch_commands
from .spec.request import RESULTS, RunRequest, data_root, option_of, parse_scale, takes_request
from .text import counted, printable, shortened

if TYPE_CHECKING:
    from .records.store import InvalidRow
    from .report.evidence import Published
    from .spec.table import Table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Tables = Annotated[list[str] | None, typer.Argument(help="Such as akd/coco. Without: all; of `table`, an overview.")]
ScaleOption = Annotated[str | None, option_of("scale")]
DataOption = Annotated[Path | None, option_of("data")]
IgnoreOption = Annotated[int | None, option_of("ignore_index")]
ResultsOption = Annotated[Path, option_of("results")]
MEASURED = Path(str(files("kdbench.results"))) / "measured"  # committed rows; the user's rows come first
BASELINES = Path("results/baselines")
REPORT = Path("results/report")
INTERRUPTED = 130  # exit status of a command that was stopped by Ctrl-C
FIRST_LOSSES = BASELINES / "first_losses.json"  # what `guard` compares with
TRY = {
    **{"epochs": 1, "warmup_steps": 10, "clip_norm": 1.0},
    **{"teacher.epochs": 2, "teacher.warmup_steps": 15, "teacher.clip_norm": 1.0},
}
"""Recipe fields of `kdbench try`: less than 90 s on two CPU cores."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"kdbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Reproduce the tables of knowledge-distillation papers, each reported number beside the measured one."""


@app.command()
@takes_request
def run(tables: Tables = None, *, request: RunRequest) -> None:
    """Run every teacher, student and method of the tables that is not finished yet."""
    from .launch.execution import execute
    from .launch.explain import explain
    from .launch.planning import make_plans

    plans = make_plans(_tables(tables), request, _say)
    for plan in plans:
        explain(plan, _say)
    outcomes = [] if request.only_explain else [execute(plan, _say) for plan in plans]
    if not all(outcome.done for outcome in outcomes):
        raise typer.Exit(1)


@app.command("try")
def try_(results: ResultsOption = Path("results/try")) -> None:
    """Train one pair of dist/cifar100 for one or two minutes on embedded data, with and without distillation."""
    from .launch.execution import execute
    from .launch.planning import make_plans
    from .records.store import read_rows
    from .report.terminal import print_tables

    tables = _tables(["dist/cifar100"])
    [plan] = make_plans(tables, RunRequest(scale="mini", results=results, changes=TRY), _say)
    outcome = execute(plan, _say)
    print_tables(tables, *read_rows([results]), scale="mini", out=results / "tables")
    if not outcome.done:
        raise typer.Exit(1)


@app.command()
def table(
    tables: Tables = None,
    scale: ScaleOption = None,
    results: ResultsOption = RESULTS,
    out: Annotated[Path, typer.Option(help="Where CSV, Markdown and LaTeX are written.")] = Path("results/tables"),
    every: Annotated[bool, typer.Option("--all", help="Print every table.")] = False,
    layout: Annotated[str, typer.Option(help="evidence; or paper: methods down, pairs across.")] = "evidence",
    select: Annotated[
        str | None, typer.Option(help="Show the epoch last, best or mean_last10. Default: the one that is reported.")
    ] = None,
    data: DataOption = None,
    ignore_index: IgnoreOption = None,
) -> None:
    """Print every reported number of tables beside its evidence, with verdicts; without a table, a line a paper."""
    from .records.store import read_rows
    from .report.added import register_files, with_added
    from .report.inference import read_measured
    from .report.paper_text import parse_layout
    from .report.terminal import print_overview, print_tables
    from .spec.table import parse_selection

    how, chosen_scale, selection = parse_layout(layout), parse_scale(scale), parse_selection(select)
    rows, invalid = read_rows([results, MEASURED])
    published, invalid_weights = _published(results)
    invalid += invalid_weights
    if not (tables or every or scale or select or data) and how == "evidence":
        print_overview(_tables(None), rows, invalid, published, out=out)
        return
    register_files(results, _say)
    shown = with_added(_tables(tables), results)
    if data is not None:
        from .launch.user_data import describe
        from .report.own_data import results_on

        described = describe(data, data_root(), {} if ignore_index is None else {"ignore_index": ignore_index})
        shown, rows = results_on(data, *described, shown, rows, chosen_scale, repeats=bool(tables))
    measured, invalid_figures = read_measured(results, rows)
    invalid += invalid_figures
    print_tables(shown, rows, invalid, chosen_scale, published, out, layout=how, select=selection, measured=measured)


app.command()(launch_commands.evaluate)
app.command()(launch_commands.merge)
app.command()(launch_commands.status)


@app.command()
def runs(results: ResultsOption = RESULTS) -> None:
    """List the runs of a folder: hash, networks, method, status, score and age, the latest first."""
    from .report.added import register_files
    from .report.runs import print_runs

    register_files(results, _say)
    print_runs(results)


@app.command()
def show(
    run: deploy_commands.RunArgument,
    results: ResultsOption = RESULTS,
) -> None:
    """Print a run: its specification, scores, cost, epochs, classes and files."""
    from .report.added import register_files
    from .report.runs import print_run

    register_files(results, _say)
    print_run(results, run)


app.command()(deploy_commands.export)
app.command()(deploy_commands.latency)
app.command()(deploy_commands.predict)


@app.command()
def plots(
    tables: Tables = None,
    scale: ScaleOption = None,
    data: DataOption = None,
    ignore_index: IgnoreOption = None,
    results: ResultsOption = RESULTS,
    out: Annotated[Path, typer.Option(help="Where PNG and SVG are written.")] = Path("results/plots"),
) -> None:
    """Draw measured against reported, gains, curves, losses, predictions, confusions and the history over commits."""
    from .records.store import read_all, read_rows
    from .regress.history_figure import draw_history
    from .report.added import register_files, with_added
    from .report.panels import Gallery
    from .report.plots import draw_all, draw_reported_ranks

    rows, invalid = read_rows([results, MEASURED])
    data_options = {} if ignore_index is None else {"ignore_index": ignore_index}
    gallery = Gallery(results, data_root(), data, data_options)
    register_files(results, _say)
    shown = with_added(_tables(tables), results)
    drawing = draw_all(shown, rows, out, parse_scale(scale), gallery)
    ranks = [] if tables else [draw_reported_ranks(out)]
    for each in (drawing, *ranks):
        for line in (*each.messages, *each.files):
            _say(line)
    past, _ = read_all([results, MEASURED, BASELINES])
    for drawn in _tables(tables):
        for path in draw_history(drawn, past, out, parse_scale(scale)):
            _say(path)
    for invalid_row in invalid:
        typer.echo(printable(f"left out: {invalid_row.path}: {invalid_row.reason}"), err=True)


@app.command()
def report(
    tables: Tables = None,
    results: ResultsOption = RESULTS,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page; an earlier one is replaced.", show_default=str(REPORT))
    ] = None,
    publish: Annotated[
        Path | None, typer.Option(help="Write for a static host instead: without paths and name of this machine.")
    ] = None,
    pictures: Annotated[
        Path, typer.Option(help="Folder of `kdbench plots`, whose pictures of predictions are shown in details.")
    ] = Path("results/plots"),
) -> None:
    """Write a page of every cell with its details, and figures, that opens from disk without a network."""
    from .records.store import read_all
    from .regress.history_page import table_histories
    from .report.html.site import build

    if out and publish:
        raise SpecError(f"--out {out} and --publish {publish} are two folders; give one of them")
    build(
        _tables(tables) if tables else None,
        [results, MEASURED],
        lambda: _published(results),
        publish or out or REPORT,
        _say,
        lambda shown, rows: table_histories(shown, [*rows, *read_all([BASELINES])[0]]),
        public=publish is not None,
        plots=pictures,
    )


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="Folder of rows to compare with.")] = BASELINES,
    head: Annotated[Path, typer.Argument(help="Folder of runs, or of rows that were kept.")] = RESULTS,
    every: Annotated[bool, typer.Option("--all", help="Print cells that are unchanged or not measured, too.")] = False,
) -> None:
    """Compare two folders of rows cell by cell: exit 1 if a cell regressed, 2 if one is unsure or none is measured."""
    from .regress import baselines
    from .regress import compare as comparison
    from .regress.terminal import print_comparison

    sides = [baselines.load(base), baselines.load(head)]
    after = baselines.latest(sides[1][0])
    before = baselines.latest(sides[0][0], {row.environment.machine for row in after})
    cells = comparison.compare(before, after)
    invalid = [file for _, files in sides for file in files]
    print_comparison(cells, (base, before), (head, after), invalid, every)
    raise typer.Exit(comparison.exit_status(cells))


@app.command()
def guard(
    update: Annotated[bool, typer.Option("--update", help="Keep the loss terms of the code as it is.")] = False,
) -> None:
    """Check that every method computes the loss terms that are kept: exit 1 if one does not."""
    from .regress.guard import guard as compare_first_losses

    if not compare_first_losses(FIRST_LOSSES, update, _say):
        raise typer.Exit(1)


@app.command()
def baseline(results: ResultsOption = RESULTS) -> None:
    """Keep the rows of a folder of runs in results/baselines, for `compare` and for the history that `plots` draws."""
    from .regress.baselines import keep, load

    for row in load(results)[1]:
        _say(f"left out: {row.path}: {row.reason}")
    for folder, count in keep(results, BASELINES).items():
        _say(f"{folder}: {counted(count, 'row')}")


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="methods, networks, datasets, tables or recipes.")] = None,
    name: Annotated[str | None, typer.Argument(help="Of a method: what it computes, and its options.")] = None,
) -> None:
    """List methods, networks, data sets, tables and recipes, or show a method with its options."""
    from .report.listing import listing

    for line in listing(kind, name):
        _say(line)


@app.command()
def check(
    data: DataOption = None,
    ignore_index: IgnoreOption = None,
    results: ResultsOption = RESULTS,
    chosen: Annotated[
        str | None, typer.Option("--methods", metavar="NAMES", help="Check the contract of these alone: ./mine.py,kd.")
    ] = None,
) -> None:
    """Validate every table, recipe, reported number, data folder and result row, without training.

    With --data or --methods, these alone.
    """
    from .launch.check import data_problems, method_problems, problems
    from .spec.choice import parse_methods

    if chosen is not None and data is not None:
        raise SpecError("--methods and --data are two checks; give one of them")
    if ignore_index is not None and data is None:
        raise SpecError("--ignore-index is of the masks of --data; give both, or neither")
    found = problems(data_root(), [results, MEASURED])
    if chosen is not None:
        found = method_problems(parse_methods(chosen))
    elif data is not None:
        found = data_problems(data_root(), data, ignore_index)
    count = 0
    for line, wrong in found:
        typer.secho(printable(f"{'wrong' if wrong else 'ok':<6} {line}"), fg="red" if wrong else None)
        count += wrong
    if count:
        typer.echo(f"{count} wrong", err=True)
        raise typer.Exit(1)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="method.")],
    name: Annotated[str, typer.Argument(help="Of the method and of its file.")],
    task: Annotated[str, typer.Option(help="classification, detection or segmentation.")] = "classification",
) -> None:
    """Write a method of your own into this folder: NAME.py, which works and is commented, and its test."""
    from .contract.new_method import write_method

    if kind != "method":
        raise unknown("kind", kind, ["method"])
    for line in write_method(name, task, Path()):
        _say(line)


def main() -> None:
    """Run the command; an error that a user can fix is one message, not a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped command stops its jobs as well
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8 gets `?` for what it cannot print
            stream.reconfigure(errors="replace")
    try:
        refuse_undecodable(sys.argv[1:])
        app()
    except KeyboardInterrupt:
        _stopped()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of KeyboardInterrupt
            _stopped()
        raise
    except Exception as error:
        if not is_for_users(error):
            raise
        typer.secho(f"error: {printable(shortened(message_of(error)))}", fg="red", err=True)
        sys.exit(2)


def _published(results: Path) -> tuple[Published, list[InvalidRow]]:
    """What others published, as kdbench brings it, with the weights that were evaluated; and invalid rows of these."""
    from .records.weights import COMMITTED, read_weights, weights_folder
    from .report.evidence import Published
    from .spec.reruns import all_reruns, all_settings

    weights, invalid = read_weights([weights_folder(results), COMMITTED])
    return Published(all_reruns(), all_settings(), weights), invalid


def _say(text: object) -> None:
    typer.echo(printable(str(text)))


def _stopped() -> NoReturn:
    typer.echo("stopped; the same command goes on from what is finished and from checkpoints", err=True)
    sys.exit(INTERRUPTED)


def _tables(names: list[str] | None) -> list[Table]:
    from .spec.table import load_table, table_names

    return [load_table(name) for name in names or table_names()]


if __name__ == "__main__":
    main()
