"""The command `kdbench`: one verb a function, everything heavy imported where it is used."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from datasets.coco import CocoFolder

    from .grid import Plan
    from .specs import Data, Scale, Table

app = typer.Typer(
    help="Reproduce the tables of knowledge-distillation papers, and see which printed numbers hold.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Tables = Annotated[list[str] | None, typer.Argument(help="Tables such as akd/coco; all when none is named.")]
ScaleOption = Annotated[
    str | None,
    typer.Option(help="full (the paper's data and recipe) or mini (embedded data, minutes). Default: what is there."),
]
DataOption = Annotated[Path | None, typer.Option(help="A COCO-format folder to use as the data set.")]
ResultsOption = Annotated[Path, typer.Option(help="Folder of runs.")]
RESULTS = Path("results/runs")
MEASURED = Path(__file__).parents[1] / "results" / "measured"  # committed rows; one's own go first


@app.command()
def run(
    tables: Tables = None,
    scale: ScaleOption = None,
    seeds: Annotated[str | None, typer.Option(help="How many (3), or which (0,4).")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these, separated by commas; `none` always runs.")] = None,
    data: DataOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the students' recipe (teacher.FIELD: the teachers'); rows are not comparable.",
        ),
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="A checkpoint to use in place of trained teachers.")] = None,
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Most students that train side by side. Default: 1, at mini scale 16.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at a time on each device. Default: 1; at mini scale, one a CPU core up to 4."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Loader processes a job.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, or cuda:0,cuda:1 for a job on each.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0.01, help="Stop a job after this many minutes.")] = None,
    results: ResultsOption = RESULTS,
    explain: Annotated[bool, typer.Option("--explain", help="Print the plan and stop.")] = False,
) -> None:
    """Run every teacher, student and method of the tables that is not finished yet."""
    from . import grid
    from .engines.local import LocalEngine, cores
    from .run import Job

    chosen = _tables(tables, "detection")
    at = _scale(scale, data)
    changes = _changes(set_ or [])
    seed_numbers = _seeds(seeds)
    devices = _devices(device)
    names = tuple(name.strip() for name in methods.split(",")) if methods else ()
    grid.check(chosen, names, at, changes)
    folder = _open(chosen, at, data)
    found = _described(folder)
    most = cohort or (1 if at == "full" else 16)
    choice = grid.Choice(at, found, seed_numbers, names, changes, _sha256(teacher), most)
    plan = grid.plan(chosen, choice)
    _check_teacher(teacher, plan, folder)
    job = Job(
        runs=(),
        data_root=_data_root(),
        data_path=data,
        results=results,
        teacher_file=teacher,
        workers=workers if workers is not None else (min(8, os.cpu_count() or 1) if at == "full" else 0),
    )
    side_by_side = jobs or (min(4, cores()) if at == "mini" and devices == ["cpu"] else 1)
    engine = LocalEngine(job, devices * side_by_side, 60 * timeout if timeout else None)
    _print_plan(plan, engine, found, at)
    if explain:
        return
    rows = engine.execute(plan)
    _summary(plan, rows)


@app.command()
def table(
    tables: Tables = None,
    scale: ScaleOption = None,
    results: ResultsOption = RESULTS,
    out: Annotated[Path, typer.Option(help="Where CSV, Markdown and LaTeX are written.")] = Path("results/tables"),
) -> None:
    """Print every number a paper prints beside the measured one, with a verdict."""
    from .render.tables import show
    from .store import read_rows

    rows, misfits = read_rows([results, MEASURED])
    show(_tables(tables), rows, misfits, scale=_scale_name(scale), out=out)


@app.command()
def plots(
    tables: Tables = None,
    scale: ScaleOption = None,
    results: ResultsOption = RESULTS,
    out: Annotated[Path, typer.Option(help="Where PNG and SVG are written.")] = Path("results/plots"),
) -> None:
    """Draw measured against reported, gains, and learning curves."""
    from .render.plots import draw_all
    from .store import read_rows

    rows, misfits = read_rows([results, MEASURED])
    drawing = draw_all(_tables(tables), rows, out, scale=_scale_name(scale))
    for line in (*drawing.messages, *(str(path) for path in drawing.files)):
        typer.echo(line)
    for misfit in misfits:
        typer.echo(f"left out: {misfit.path}: {misfit.reason}", err=True)


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="methods, networks, datasets, tables or recipes.")] = None,
) -> None:
    """List what there is."""
    import datasets
    import methods

    from . import networks
    from .errors import unknown
    from .specs import load_recipe, load_table, recipe_names, table_names

    kinds: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "methods": lambda: [(name, methods.method_class(name).citation) for name in methods.names()],
        "networks": lambda: [(name, networks.family(name)) for name in networks.names()],
        "datasets": lambda: [(name, "") for name in datasets.names()],
        "tables": lambda: [(name, load_table(name).title) for name in table_names()],
        "recipes": lambda: [(name, load_recipe(name).source) for name in recipe_names()],
    }
    if kind is not None and kind not in kinds:
        raise unknown("kind", kind, kinds)
    for title in [kind] if kind else kinds:
        if not kind:
            typer.secho(title, bold=True)
        entries = kinds[title]()
        width = max(len(name) for name, _ in entries)
        for name, about in entries:
            typer.echo(f"  {name:<{width}}  {about}".rstrip())


@app.command()
def check(
    data: DataOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Validate every table, recipe, reported number, data folder and result row, without training."""
    from .checks import problems

    count = 0
    for line, wrong in problems(_data_root(), data, [results, MEASURED]):
        typer.secho(f"{'wrong' if wrong else 'ok':<6} {line}", fg="red" if wrong else None)
        count += wrong
    if count:
        typer.echo(f"{count} wrong", err=True)
        raise typer.Exit(1)


def main() -> None:
    """Run the command; what a user can mend is one message, not a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped command stops its jobs as well
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from the last epoch", err=True)
        sys.exit(130)
    except Exception as error:
        if not _for_users(error):
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)


def _for_users(error: Exception) -> bool:
    from methods.base import MethodError

    from .errors import USER_ERRORS

    return isinstance(error, (*USER_ERRORS, MethodError))


def _tables(names: list[str] | None, task: str | None = None) -> list[Table]:
    from .specs import load_table, table_names

    tables = [load_table(name) for name in names or table_names()]
    return [one for one in tables if names or task is None or one.task == task]


def _data_root() -> Path:
    return Path(os.environ.get("KDBENCH_DATA", "data"))


def _scale_name(scale: str | None) -> Scale | None:
    from .errors import unknown

    if scale not in (None, "full", "mini"):
        raise unknown("scale", scale, ["full", "mini"])
    return scale  # type: ignore[return-value]


def _scale(scale: str | None, data: Path | None) -> Scale:
    """The scale asked for; else full when its data is on disk, and the choice is printed."""
    named = _scale_name(scale)
    if named:
        return named
    if data is not None:
        typer.echo("scale full, because --data names a data set (--scale mini uses small networks on it)")
        return "full"
    if (_data_root() / "coco").is_dir():
        typer.echo(f"scale full, because {_data_root() / 'coco'} is there")
        return "full"
    typer.echo(f"scale mini (embedded data): {_data_root() / 'coco'} is not there; --data PATH names a data set")
    return "mini"


def _open(tables: list[Table], scale: Scale, path: Path | None) -> CocoFolder:
    """The data set of the tables, with every file looked at and every notice printed."""
    import datasets

    from .errors import SpecError

    names = sorted({getattr(table.dataset, scale) for table in tables})
    if len(names) > 1 and path is None:
        raise SpecError(f"these tables are about different data sets ({', '.join(names)}); run them one by one")
    folder = datasets.open_coco(names[0], _data_root(), path)
    folder.train.verify()
    folder.val.verify()
    for notice in folder.notices:
        typer.echo(f"data: {notice}")
    return folder


def _described(folder: CocoFolder) -> Data:
    from .specs import Data

    return Data(
        name=folder.name,
        fingerprint=folder.fingerprint,
        train_images=folder.train.counts.images,
        val_images=folder.val.counts.images,
        classes=len(folder.classes),
    )


def _changes(settings: list[str]) -> dict[str, Any]:
    import yaml

    from .errors import SpecError

    changes: dict[str, Any] = {}
    for setting in settings:
        field, equals, value = setting.partition("=")
        if not equals:
            raise SpecError(f"--set {setting}: write FIELD=VALUE, as in --set epochs=1")
        try:
            changes[field] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(f"--set {setting}: the value is not valid YAML") from error
        if isinstance(changes[field], str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value):
            changes[field] = float(value)  # YAML wants 1.0e-2 where people write 1e-2
    return changes


def _devices(text: str | None) -> list[str]:
    """Names of devices that work.

    Raises:
        SpecError: one does not exist here.
    """
    import torch

    from .engines.local import default_devices
    from .errors import SpecError

    names = text.split(",") if text else default_devices()
    for name in names:
        try:
            torch.zeros(1, device=name)
        except (RuntimeError, AssertionError) as error:
            there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
            raise SpecError(f"--device {name}: {str(error).splitlines()[0]}; there is: {there}") from error
    return names


def _seeds(text: str | None) -> tuple[int, ...] | None:
    from .errors import SpecError

    if not text:
        return None
    usage = f"--seeds {text}: give how many (3), or which, separated by commas (0,4)"
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise SpecError(usage) from error
    seeds = tuple(range(numbers[0])) if len(numbers) == 1 else numbers
    if not seeds or min(seeds) < 0:
        raise SpecError(usage)
    return seeds


def _sha256(file: Path | None) -> str | None:
    from . import checkpoints

    if file is None:
        return None
    checkpoints.read(file)  # a broken file is refused before any work
    return checkpoints.sha256(file)


def _check_teacher(file: Path | None, plan: Plan, folder: CocoFolder) -> None:
    """A given teacher file fits every teacher that it stands in for."""
    import torch

    from .run import load_network

    if file is not None:
        for name in sorted({run.teacher.student for run in plan.runs if run.teacher}):
            load_network(file, name, folder.classes, torch.device("cpu"))


def _print_plan(plan: Plan, engine: Any, data: Any, scale: str) -> None:
    done = sum(engine.finished(run) for run in plan.runs)
    jobs = sum(len(stage) for stage in plan.stages)
    typer.echo(
        f"{len(plan.runs)} runs in {jobs} jobs at scale {scale} on {data.name} ({data.train_images} + "
        f"{data.val_images} images, {data.classes} classes, {data.fingerprint}); {done} finished before"
    )
    for number, stage in enumerate(plan.stages):
        for cohort in stage:
            left = sum(not engine.finished(run) for run in cohort)
            names = ", ".join(run.student if run.method == "none" else run.method for run in cohort)
            typer.echo(f"  stage {number + 1}: {cohort[-1].student} seed {cohort[0].seed}, {left} to do: {names}")
    for skipped in plan.skipped:
        typer.echo(f"  skipped: {skipped.table} {skipped.cell}: {skipped.reason}")


def _summary(plan: Plan, rows: list[Any]) -> NoReturn:
    """Counts by status; exits with 1 when a run is not done."""
    bad = [row for row in rows if row.status != "done"]
    missing = len(plan.runs) - len(rows)
    typer.echo(f"{len(rows) - len(bad)} of {len(plan.runs)} runs done; `kdbench table` shows them")
    for row in bad:
        typer.secho(f"  {row.status}: {row.run.shown}: {row.reason}", fg="red")
    if missing:
        typer.secho(f"  {missing} runs left no row; run the same command again", fg="red")
    raise typer.Exit(1 if bad or missing else 0)


if __name__ == "__main__":
    main()
