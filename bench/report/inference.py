"""Cost of inference of cells' students, in one setup: machine and threads; runs of a network share its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..records.inference import Inference, Latency, Network, Setup, all_inference
from ..records.row import Row
from ..records.row_file import InvalidRow
from .cells import Cell
from .inference_cost import CellInference, setup_text
from .verdicts import Sample


@dataclass(frozen=True)
class Measured:
    """What was measured in folders of runs.

    Attributes:
        networks: latency by network, whatever the weights.
        sizes: bytes of a network's files by format.
        int8: scores of quantized students by run, with their metric.
    """

    networks: Mapping[Network, Sequence[Latency]] = field(default_factory=dict)
    sizes: Mapping[Network, Mapping[str, int]] = field(default_factory=dict)
    int8: Mapping[str, tuple[str, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Iterable[tuple[Row, Inference]]) -> Measured:
        """Of several runs of a network, the latest figures count."""
        networks: dict[Network, list[Latency]] = {}
        sizes: dict[Network, dict[str, int]] = {}
        int8 = {}
        for row, each in found:
            network = Network.of(row)
            networks.setdefault(network, []).extend(each.latency)
            sizes.setdefault(network, {}).update(each.bytes)
            if each.int8:
                int8[row.id] = (each.int8.metric, each.int8.score)
        ordered = {name: sorted(figures, key=lambda each: each.measured) for name, figures in networks.items()}
        return cls(ordered, sizes, int8)

    def of_network(self, row: Row) -> Sequence[Latency]:
        """Everything that was measured of the network of a finished run's student."""
        return self.networks.get(Network.of(row), ())

    def latency(self, network: Network, setup: Setup) -> dict[tuple[str, int], Latency]:
        """By program and batch, of images of the size that FLOPs are counted at."""
        figures = self.networks.get(network, ())
        return {(f.program, f.batch): f for f in figures if f.setup == setup and f.size == network.size}


NOTHING_MEASURED = Measured()


def read_measured(results: Path, rows: Iterable[Row]) -> tuple[Measured, list[InvalidRow]]:
    """What was measured of the students in a folder of runs, and files that are damaged."""
    found, invalid = all_inference(results, (row for row in rows if row.status == "done"))
    return Measured.of(found), invalid


def with_inference(cells: Sequence[Cell], measured: Measured) -> list[Cell]:
    """The cells with what inference takes: of one setup, so that their figures are comparable.

    It is the one in which most of the cells' networks were measured, of several the latest.
    """
    if not measured.networks:
        return list(cells)
    networks = {Network.of(row) for cell in cells for row in cell.rows}
    setups = _setups(networks, measured)
    return [replace(cell, inference=_inference(cell, measured, setups)) for cell in cells]


def _setups(networks: Iterable[Network], measured: Measured) -> list[Setup]:
    """Setups that any of the networks was measured in, the one that is shown first."""
    counts: Counter[Setup] = Counter()
    latest: dict[Setup, str] = {}
    for network in networks:
        figures = [each for each in measured.networks.get(network, ()) if each.size == network.size]
        counts.update({each.setup for each in figures})
        for each in figures:
            latest[each.setup] = max(latest.get(each.setup, ""), each.measured)
    return sorted(counts, key=lambda setup: (counts[setup], latest[setup], setup), reverse=True)


def _inference(cell: Cell, measured: Measured, setups: Sequence[Setup]) -> CellInference | None:
    """What inference takes with a cell's students; None where nothing was measured, or their networks differ."""
    networks = {Network.of(row) for row in cell.rows}
    if len(networks) != 1:
        return None
    (network,) = networks
    if network not in measured.networks:
        return None
    scores = [measured.int8[row.id] for row in cell.rows if row.id in measured.int8]
    return CellInference(
        latency=measured.latency(network, setups[0]) if setups else {},
        sizes=measured.sizes.get(network, {}),
        int8=Sample.of([score for metric, score in scores if metric == cell.metric]),
        others=tuple(setups[1:]),
        every=tuple(measured.networks[network]),
    )


def notes(cells: Iterable[Cell]) -> list[str]:
    """What the figures are of, in sentences: machine, threads and versions; and what is left out."""
    found = [cell.inference for cell in cells if cell.inference]
    figures = [each for one in found for each in one.latency.values()]
    lines = []
    if figures:
        setup = figures[0].setup
        versions = sorted({f"{name} {version}" for each in figures for name, version in each.libraries.items()})
        days = sorted({each.measured[:10] for each in figures})
        when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        lines.append(
            f"Latency: median / 95th percentile of a forward on {setup_text(setup)} "
            f"({', '.join(versions)}; {when}), random images, no preprocessing; runs of one network share it. "
            "Memory is what loading and running it at batch 1 adds to the process."
        )
    others = list(dict.fromkeys(setup for one in found for setup in one.others))
    if others:
        names = "; ".join(map(setup_text, others))
        lines.append(f"Latency that was measured elsewhere is not shown, as it is not comparable: {names}.")
    if any(one.int8 for one in found):
        lines.append("int8: score of quantized ONNX files (static, per channel) of these runs' students, last epoch.")
    return lines
