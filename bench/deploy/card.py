"""The model card of an exported student: Markdown for people, from the machine-readable description."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .. import tasks
from ..spec import network_name
from ..spec.schema import flattened
from ..text import counted, markdown, markdown_cell, option_text
from .checking import Check
from .formats import FORMATS
from .manifest import ExportedFile, Manifest

FILE = "README.md"
SHOWN = 40  # names of classes; all are in the JSON

OUTPUTS = {
    "classification": "`logits`: the largest is the predicted class; softmax makes probabilities of them.",
    "segmentation": "`logits`: the largest of each pixel is its class, at the size of the input.",
    "detection": "`boxes` (x1, y1, x2, y2) in pixels of the resized image, `scores` in 0..1 and `labels`, best first; "
    "rows with the score 0 are no detections. One image a call, height and width multiples of 32; `size` is the height "
    "and width of the resized image before padding.",
}
"""By task, what the outputs mean."""


def model_card(manifest: Manifest) -> str:
    """The card of an export, Markdown."""
    blocks = [
        f"# {markdown(manifest.network)} trained by {markdown(manifest.method)}",
        markdown(f"{manifest.name}: {manifest.task} on {manifest.data}, run {manifest.run}, {manifest.finished}."),
        *_scores(manifest),
        "## Files",
        _table(("format", "file", "size", "check"), [_file_cells(file) for file in manifest.files]),
        *(markdown(note) for file in manifest.files for note in (file.quantized, *file.notes) if note),
        *_usage(manifest),
        *_training(manifest),
        *_cost(manifest),
        "## Terms of use",
        markdown(manifest.licence),
    ]
    return "\n\n".join(blocks) + "\n"


def _scores(manifest: Manifest) -> Iterator[str]:
    titles = {metric.key: metric.title for metric in tasks.get(manifest.task).metrics}
    shown = {titles.get(name, name): value for name, value in manifest.metrics.items()}
    yield "## Scores"
    yield f"On {counted(manifest.val_images, 'validation image')} of {markdown(manifest.data)}, last epoch:"
    yield _table(("metric", "%"), [(name, f"{value:.2f}") for name, value in shown.items()])
    if manifest.verdicts:
        yield "In tables of papers:"
        yield "\n".join(f"- {markdown(line)}" for line in manifest.verdicts)
    if manifest.scale == "mini":
        yield "This is a run at scale mini, of a small network on a reduced recipe: it is no evidence about a paper."


def _usage(manifest: Manifest) -> Iterator[str]:
    yield "## How to use it"
    yield "An image, RGB of 8 bits a channel, becomes an input by these steps, in order:"
    yield "\n".join(f"{i}. {_step(step)}" for i, step in enumerate(manifest.preprocessing, 1))
    yield f"Outputs: {OUTPUTS[manifest.task]}"
    for file in manifest.files:
        yield f"### {FORMATS[file.format.removesuffix('-int8')].title}{' (int8)' * file.format.endswith('-int8')}"
        yield _shapes(file)
        yield f"```python\n{usage(file, manifest)}\n```"
    names = ", ".join(f"`{_code(name)}`" for name in manifest.classes[:SHOWN])
    rest = len(manifest.classes) - SHOWN
    yield f"Classes, in order: {names}{f' and {rest} more, in `student.json`' if rest > 0 else ''}."


def usage(file: ExportedFile, manifest: Manifest) -> str:
    """Python lines that load and run a file."""
    names = list(file.inputs)
    own = network_name.is_in_file(manifest.network)
    lines = FORMATS[file.format.removesuffix("-int8")].usage
    return (
        lines.replace("{file}", file.file)
        .replace("{vision}", ", torchvision" if manifest.task == "detection" else "")
        .replace("{network}", f', network="./{manifest.network}"' if own else "")
        .replace("{arguments}", ", ".join(names))
        .replace("{feed}", "{" + ", ".join(f'"{name}": {name}' for name in names) + "}")
    )


def _training(manifest: Manifest) -> Iterator[str]:
    options = ", ".join(f"{name} {option_text(value)}" for name, value in flattened(manifest.options).items())
    facts = {
        "network": manifest.network,
        "teacher": manifest.teacher or "none",
        "method": f"{manifest.method}{f' ({options})' if options else ''}",
        "recipe": manifest.recipe,
        "data": f"{manifest.data}, {counted(manifest.train_images, 'training image')}",
        "trained on": f"{manifest.environment.machine}, {manifest.environment.device}",
        "kdbench": f"commit {manifest.environment.commit}, Python {manifest.environment.python}",
    }
    yield "## Training"
    yield "\n".join(f"- {name}: {markdown(value)}" for name, value in facts.items())


def _cost(manifest: Manifest) -> Iterator[str]:
    cost = manifest.cost
    height, width = cost.image_size
    yield "## Cost"
    yield (
        f"{cost.params / 1e6:.3f} M parameters, {cost.flops / 1e9:.3f} GFLOPs for an image of {height}x{width} pixels; "
        f"training and evaluation took {cost.wall_seconds / 60:.1f} min."
    )
    timed = [(file.file, each) for file in manifest.files for each in file.latency]
    if timed:
        cells = [
            (
                *(file, each.program, str(each.batch), f"{each.median_ms:.2f}", f"{each.p95_ms:.2f}"),
                *(str(each.threads), "-" if each.peak_memory is None else f"{each.peak_memory / 2**20:.0f}"),
            )
            for file, each in timed
        ]
        columns = ("exported file", "program", "batch", "median, ms", "p95, ms", "CPU threads", "peak memory, MiB")
        yield _table(columns, cells)
        machines = dict.fromkeys(each.machine for _, each in timed)
        yield (
            f"Latency of a forward without preprocessing, on {markdown(', '.join(machines))}; memory is what loading "
            "and running the network adds."
        )


def _file_cells(file: ExportedFile) -> tuple[str, ...]:
    size = f"{file.bytes / 2**20:.2f} MiB" if file.bytes >= 10**5 else f"{file.bytes / 2**10:.1f} KiB"
    return file.format, file.file, size, _check(file.check)


def _check(check: Check) -> str:
    """What a file was found to compute, in words."""
    parts = []
    if check.measured is not None and check.recorded is not None:
        parts.append(f"{check.metric} {check.measured:.4f} of this file, {check.recorded:.4f} in the run's row")
        if check.network is not None:
            parts.append(f"{check.network:.4f} of the network itself on this machine")
    else:
        parts.append(f"the metric was not measured again ({check.reason})")
    if check.random_images:
        images = counted(check.random_images, "random image")
        parts.append(f"outputs differ by up to {check.largest_difference:.1g} on {images}")
    return "; ".join(parts)


def _shapes(file: ExportedFile) -> str:
    def listed(shapes: dict[str, Any]) -> str:
        return ", ".join(f"`{name}` [{', '.join(map(str, shape))}]" for name, shape in shapes.items())

    letters = any(isinstance(side, str) for shape in file.inputs.values() for side in shape)
    any_number = "; letters are any number" if letters else ""
    return f"Inputs: {listed(file.inputs)}. Outputs: {listed(file.outputs)}{any_number}."


def _step(step: dict[str, Any]) -> str:
    rest = {name: value for name, value in step.items() if name != "step"}
    details = ", ".join(f"{name.replace('_', ' ')} {json.dumps(value)}" for name, value in rest.items())
    return f"{str(step['step']).replace('_', ' ')}: {details}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(markdown_cell(cell) for cell in line)} |" for line in lines)


def _code(text: str) -> str:
    return markdown(text).replace("`", "'")
