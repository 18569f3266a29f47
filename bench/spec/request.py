"""A request: command-line overrides of what tables say. The options of `kdbench run` are listed here alone."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from ..errors import SpecError, unknown
from ..text import shortened
from . import network_name
from .choice import MethodChoice, parse_methods, parse_sweeps
from .engine_options import parse_engine, parse_slurm
from .recipe import PRECISIONS
from .scale import Scale

RESULTS = Path("results/runs")
MAX_SEEDS = 1000
KEYWORD = inspect.Parameter.KEYWORD_ONLY


def data_root() -> Path:
    """The folder that holds data sets: `KDBENCH_DATA`, else `data` in the working directory."""
    return Path(os.environ.get("KDBENCH_DATA", "data"))


def parse_scale(text: str | None) -> Scale | None:
    """ "full", "mini" or None.

    Raises:
        SpecError: anything else.
    """
    if text not in (None, "full", "mini"):
        raise unknown("scale", text, ["full", "mini"])
    return text  # type: ignore[return-value]


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """ "3" -> (0, 1, 2), "0,4" -> (0, 4).

    Raises:
        SpecError: anything else.
    """
    if not text:
        return None
    usage = f"--seeds {shortened(text, 60)}: give how many (3), or which, separated by commas (0,4)"
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise SpecError(f"{usage}; a seed has at most nine digits")
    numbers = tuple(int(part) for part in parts)
    if (count := numbers[0] if len(numbers) == 1 else len(numbers)) > MAX_SEEDS:
        raise SpecError(f"{usage}; {count} seeds are more than the {MAX_SEEDS} that one table can have")
    seeds = tuple(range(count)) if len(numbers) == 1 else numbers
    if not seeds or len(set(seeds)) < len(seeds):
        raise SpecError(f"{usage}; each seed once" if seeds else usage)
    return seeds


def parse_changes(settings: Iterable[str] | None) -> dict[str, Any]:
    """`["lr=0.1"]` -> `{"lr": 0.1}`; values are read as YAML.

    Raises:
        SpecError: a setting is not FIELD=VALUE.
    """
    from . import yaml_reader

    changes: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        name = name.strip()
        if name in changes:
            raise SpecError(f"--set {name} is given twice; remove one")
        if not equals or not name:
            raise SpecError(f"--set {setting}: write FIELD=VALUE, as in --set epochs=1")
        try:
            changes[name] = yaml_reader.load_value(value)
        except yaml_reader.YamlError as error:
            raise SpecError(f"--set {shortened(setting, 200)}: the value is {error}") from error
    return changes


def parse_precision(text: str | None) -> str | None:
    """One of `PRECISIONS`, "auto" or None.

    Raises:
        SpecError: anything else.
    """
    if text is not None and text not in ("auto", *PRECISIONS):
        raise unknown("precision", text, ["auto", *PRECISIONS])
    return text


class TeacherFile(NamedTuple):
    """A teacher in place of a trained one: a checkpoint, or a network with its library's published weights.

    Attributes:
        network: that it is for; None for the one that it fits.
        path: a file; without a network also a folder of files. None for the published weights of `network`.
    """

    network: str | None
    path: Path | None


def parse_teachers(
    given: str | Path | Mapping[str, str | Path] | Iterable[str | Path] | None,
) -> tuple[TeacherFile, ...]:
    """`["resnet56=a.pth", "b.pth"]` -> the files a.pth, for resnet56, and b.pth; a mapping is by network."""
    if isinstance(given, Mapping):
        return tuple(TeacherFile(network, Path(path)) for network, path in given.items())
    return tuple(_teacher_file(each) for each in ([given] if isinstance(given, str | Path) else given or ()))


def _teacher_file(text: str | Path) -> TeacherFile:
    if isinstance(text, Path) or os.path.exists(text):  # Path.exists raises for some
        return TeacherFile(None, Path(text))
    if not network_name.is_outside(text):
        network, equals, path = text.partition("=")
        return TeacherFile(network.strip(), Path(path)) if equals else TeacherFile(None, Path(text))
    network, equals, path = text.rpartition("=")
    if equals and network_name.is_complete(network):
        return TeacherFile(network.strip(), Path(path))
    return TeacherFile(text.strip(), None)


def limited(value: float | None, name: str) -> float | None:
    """`value` where it is a number of at most a million; typer's limits let NaN pass.

    Raises:
        SpecError: NaN or infinity.
    """
    if value is not None and not value <= 1e6:
        raise SpecError(f"--{name} {value}: give a number up to 1000000, or leave the option out for no limit")
    return value


def parse_names(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """ "kd, dist" -> ("kd", "dist"), and a list of such texts likewise; commas in brackets are part of a name."""
    texts = [given] if isinstance(given, str) else list(given or ())
    return tuple(name.strip() for text in texts if text for name in re.split(r",(?![^\[]*\])", text))


def option(
    help: str,  # noqa: A002 - typer's name for it
    *,
    default: Any = None,
    name: str | None = None,
    text: Any = None,
    parse: Callable[[Any], Any] | None = None,
    **limits: Any,
) -> Any:
    """A field of a request that is an option of the command line.

    Args:
        help: what `--help` prints.
        default: of the field.
        name: of the option where it is not the field's, such as `--set`.
        text: type that the command line reads, where it is not the field's; `parse` makes the field of it.
        parse: raises SpecError for what it cannot read.
        limits: of `typer.Option`, such as `min`.
    """
    names = [name] if name else []
    metadata = {"option": typer.Option(*names, help=help, **limits), "text": text, "parse": parse}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class RunRequest:
    """Command-line overrides of a run.

    Attributes:
        scale: None takes full where the data is on disk, else mini.
        seeds: None takes the table's.
        methods: only these, by method or by the table's label; all when empty. `none` always runs. A method that a
            table does not list, or one with options, joins it.
        sweep: variants of methods; with them alone, nothing else but `none` runs.
        precision: of the recipes of students and teachers; "auto" lets `launch.precision` choose.
        changes: fields of the students' recipe, `teacher.<field>` of the teachers'; such runs are not comparable with
            a paper.
        devices: None takes every CUDA device, or the CPU.
        pairs: only these, as "TEACHER->STUDENT"; all when empty. A pair that no table lists joins those of its task.
        student: networks that are trained in place of the tables' students, under each of their teachers.
        teacher: files used in place of trained teachers, and networks that teach in place of the tables' teachers.
        timeout: minutes.
        engine: one of `engine_options.ENGINES`.
        slurm: options of sbatch by their long names.
        address: of a Ray cluster; None takes one that runs on this machine, else a new one.
        trackers: names of `kdbench.trackers`, or files that define one.
        log_dir: None takes each tracker's default place, below the folder of runs.
        memory: GiB of each device.
        calibrate: implies `explain`.
        on: a GPU of `launch.device_facts`, in place of the devices that are here.
        price: of an hour of a device.
        data_root: folder that holds data sets; the environment's `KDBENCH_DATA` unless it is given.
        reading: options with which the tables' recipes read `data`; planning fills them in.
    """

    scale: Scale | None = option(
        "full (the paper's data and recipe) or mini (embedded data, minutes). Default: full where its data is on disk.",
        text=str | None,
        parse=parse_scale,
    )
    seeds: tuple[int, ...] | None = option("How many (3), or which (0,4).", text=str | None, parse=parse_seeds)
    methods: tuple[MethodChoice, ...] = option(
        "Only these, separated by commas: a name, NAME:OPTION=VALUE, or a file of your own; `none` always runs.",
        default=(),
        text=str | None,
        parse=parse_methods,
    )
    sweep: tuple[MethodChoice, ...] = option(
        "Variants of a method, one for each value (several options: each combination), beside --methods.",
        default=(),
        text=list[str] | None,
        parse=parse_sweeps,
        metavar="METHOD.OPTION=VALUE,...",
    )
    data: Path | None = option(
        "Your own data: a COCO-format folder, an image folder, a folder of images/ and masks/, or an .npz of images."
    )
    ignore_index: int | None = option("Label in the masks of --data that is ignored. Default: 255.", min=0, max=255)
    changes: dict[str, Any] = option(
        "Change a field of the students' recipe (teacher.FIELD: the teachers'); rows are not comparable.",
        default={},
        name="--set",
        text=list[str] | None,
        parse=parse_changes,
        metavar="FIELD=VALUE",
    )
    precision: str | None = option(
        "Of training, students' and teachers': ieee, tf32 or bfloat16; auto takes bfloat16 where a probe of a second "
        "finds the device faster with it, else ieee. Default: the recipe's.",
        text=str | None,
        parse=parse_precision,
        metavar="PRECISION",
    )
    pairs: tuple[str, ...] = option(
        'Only these teacher-student pairs, separated by commas: "resnet56->resnet20"; others join the tables.',
        default=(),
        text=str | None,
        parse=parse_names,
        metavar="TEACHER->STUDENT",
    )
    student: tuple[str, ...] = option(
        "A student in place of the tables': a network, timm:NAME, torchvision:NAME or ./net.py:FUNCTION. Can be given "
        "several times.",
        default=(),
        text=list[str] | None,
        parse=parse_names,
        metavar="NETWORK",
    )
    teacher: tuple[TeacherFile, ...] = option(
        "A checkpoint to use in place of a trained teacher, or a folder of them: for the teacher that it fits, or for "
        "NETWORK; or timm:NAME or torchvision:NAME, with their published weights. Can be given several times.",
        default=(),
        text=list[str] | None,
        parse=parse_teachers,
        metavar="[NETWORK=]FILE",
    )
    cohort: int | None = option(
        "Most students in one cohort, which is split where memory is short. Default: 10.", min=1, max=1000
    )
    jobs: int | None = option(
        "Jobs at a time on each device. Default: 1; at mini scale, one a CPU core up to 4; in Slurm's queue, 100.",
        min=1,
        max=1000,
    )
    workers: int | None = option("Loader processes a job.", min=0, max=256)
    devices: tuple[str, ...] | None = option(
        "cpu, cuda, or cuda:0,cuda:1 for a job on each.",
        name="--device",
        text=str | None,
        parse=lambda text: parse_names(text) or None,
    )
    gpus: int = option(
        "GPUs of each job, which share its batches; with --device cpu, processes. Default: 1.",
        default=1,
        min=1,
        max=64,
    )
    engine: str = option(
        "Where jobs run: local, slurm, or ray.", default="local", text=str | None, parse=parse_engine, metavar="ENGINE"
    )
    slurm: dict[str, str] = option(
        "Options of sbatch for each job: partition=gpu,gres=gpu:1,time=8:00:00. Can be given several times.",
        default={},
        text=list[str] | None,
        parse=parse_slurm,
        metavar="NAME=VALUE,...",
    )
    address: str | None = option(
        "Of the Ray cluster. Default: RAY_ADDRESS, one that was started on this machine, or a new one.",
        metavar="HOST:PORT",
    )
    memory: float | None = option(
        "GiB of each device for its jobs, if not all.", min=0.1, parse=partial(limited, name="memory")
    )
    timeout: float | None = option(
        "Stop a job after this many minutes.", min=0.01, parse=partial(limited, name="timeout")
    )
    equal_cost: bool = option(
        "Also train `none` and `kd` for as long as each method takes.", default=False, name="--equal-cost"
    )
    keep_stale: bool = option(
        "Keep finished runs whose method's code or teacher has changed since.", default=False, name="--keep-stale"
    )
    trackers: tuple[str, ...] = option(
        "Log losses, learning rate, metrics and rows to these: tensorboard, wandb, mlflow, or a file of your own.",
        default=(),
        name="--log",
        text=str | None,
        parse=parse_names,
        metavar="TRACKER,...",
    )
    log_dir: Path | None = option("Folder of the trackers' files. Default: below --results.", name="--log-dir")
    results: Path = option("Folder of runs.", default=RESULTS)
    explain: bool = option("Print the plan and its cost, and stop.", default=False, name="--explain")
    calibrate: bool = option(
        "Time 20 to 50 training steps of each kind of job on this machine, print the plan with them, and stop.",
        default=False,
    )
    on: str | None = option("With --explain: plan for a GPU that is not here: h100, a100, t4, ...", metavar="GPU")
    price: float | None = option(
        "With --explain: of an hour of a device, in any currency.", min=0, parse=partial(limited, name="price")
    )
    data_root: Path = field(default_factory=data_root)
    reading: dict[str, Any] = field(default_factory=dict)

    @property
    def only_explain(self) -> bool:
        """Whether the plan is printed with its cost, and nothing is trained."""
        return self.explain or self.calibrate

    @property
    def choices(self) -> tuple[MethodChoice, ...]:
        """The methods to run; all of the tables when empty."""
        return (*self.methods, *self.sweep)

    @property
    def data_options(self) -> dict[str, Any]:
        """Options for opening `data`."""
        return self.reading if self.ignore_index is None else {**self.reading, "ignore_index": self.ignore_index}

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """The options as parameters of a command function."""
        types = get_type_hints(cls)
        parameters = []
        for each in dataclasses.fields(cls):
            if each.metadata:
                read, shown = each.metadata["text"], each.metadata["option"]
                annotation: Any = Annotated[read or types[each.name], shown]
                default = None if read else each.default
                parameters.append(inspect.Parameter(each.name, KEYWORD, default=default, annotation=annotation))
        return parameters

    @classmethod
    def parse(cls, **values: Any) -> RunRequest:
        """A request from what the command line read.

        Raises:
            SpecError: a value cannot be read; names the option.
        """
        parsers = {each.name: each.metadata["parse"] for each in dataclasses.fields(cls) if each.metadata.get("parse")}
        return cls(**{name: parsers[name](value) if name in parsers else value for name, value in values.items()})


def option_of(name: str) -> Any:
    """The command-line option of a request's field, for other commands that have it too."""
    return next(each.metadata["option"] for each in dataclasses.fields(RunRequest) if each.name == name)


def takes_request(command: Callable[..., None]) -> Callable[..., None]:
    """A command function with the options of a `RunRequest` in place of its parameter `request`."""
    hints = get_type_hints(command, include_extras=True)
    others = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "request"
    ]

    def parsed(**values: Any) -> None:
        names = {parameter.name for parameter in others}
        request = RunRequest.parse(**{name: value for name, value in values.items() if name not in names})
        command(**{name: values[name] for name in names}, request=request)

    parameters = [*others, *RunRequest.parameters()]
    parsed.__name__, parsed.__doc__ = command.__name__, command.__doc__
    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return parsed
