"""Manifests of published weights: what they may hold, and the errors that name file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.errors import SpecError
from kdbench.spec.normalisation import Normalisation, parse_normalisation
from kdbench.spec.weights import Listed, licence_in, load_manifest, parse_weights

METRICS = ("top1", "top5", "ap", "miou")
CRD = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def manifest(folder: Path, text: str) -> list[Listed]:
    (folder / "m.csv").write_text(text)
    return load_manifest(folder / "m.csv", METRICS)


def test_columns_have_any_order_and_files_are_relative_to_the_manifest(tmp_path: Path) -> None:
    text = """\ufeffnote,recorded_top1,network,file,method,teacher,normalisation,source,bytes,selection
"a, b",70.77,resnet20,sub/r.pth,kd,resnet56,of CRD,x/y@1 (MIT),12,best

,,resnet8,/abs/r.pth,,,,,,
"""
    first, second = manifest(tmp_path, text)
    weights = first.weights
    assert first.path == tmp_path / "sub/r.pth" and first.place == f"{tmp_path / 'm.csv'}:2"
    assert (weights.recorded, weights.bytes, weights.selection) == ({"top1": 70.77}, 12, "best")
    assert (weights.method, weights.teacher, weights.licence, weights.note) == ("kd", "resnet56", "MIT", "a, b")
    assert weights.normalisation == Normalisation(mean=CRD[0], std=CRD[1], stated="of CRD")
    assert second.path == Path("/abs/r.pth") and second.place.endswith(":4")
    assert (second.weights.method, second.weights.recorded, second.weights.normalisation) == ("none", {}, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,network,color\nr.pt,resnet8,red\n",
            r"m.csv:1: column 'color' is unknown; the columns are file, network",
        ),
        ("file,network,recorded_f1\n", "'recorded_f1' is unknown; .*recorded_top1, recorded_top5, recorded_ap"),
        ("file,network,file\n", "column 'file' is there twice"),
        ("file\nr.pt\n", "column 'network' is missing"),
        ("", "column 'file' is missing"),
        ("file,network\n", "m.csv: lists no file"),
        ("file,network\nr.pt,\n", "m.csv:2: network: Field required"),
        ("file,network\na.pt,resnet8\nr.pt,resnet8,x\n", "m.csv:3: has 3 fields and the first line 2"),
        ("file,network\nr.pt,resnet8\nr.pt,resnet8\n", "m.csv:3: file: repeats line 2: r.pt"),
        ("file,network,sha256\nr.pt,resnet8,abc\n", "m.csv:2: sha256: String should match"),
        ("file,network,bytes\nr.pt,resnet8,-1\n", "m.csv:2: bytes: .*'-1'"),
        ("file,network,recorded_top1\nr.pt,resnet8,high\n", "m.csv:2: recorded_top1: 'high' is no number"),
        ("file,network,recorded_top1\nr.pt,resnet8,100.5\n", "m.csv:2: recorded_top1: .* less than or equal to 100"),
        ("file,network,recorded_top1\nr.pt,resnet8,nan\n", "m.csv:2: recorded_top1: Input should be"),
        ("file,network,selection\nr.pt,resnet8,final\n", "m.csv:2: selection: Input should be '', 'last', 'best'"),
        ("file,network,teacher\nr.pt,resnet8,resnet56\n", "m.csv:2: method: is needed beside teacher"),
        ("file,network,normalisation\nr.pt,resnet8,of me\n", "m.csv:2: normalisation: write `mean R G B, sd R G B`"),
        ('file,network\n"r.pt,resnet8\n', "m.csv:2: not valid CSV"),
        ("file,network,note\nr.pt,resnet8," + "x" * 2001 + "\n", "m.csv:2: note: String should have at most 2000"),
    ],
)
def test_an_error_names_the_file_the_line_and_the_field(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        manifest(tmp_path, text)


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone.csv: cannot be read"):
        load_manifest(tmp_path / "gone.csv", METRICS)
    (tmp_path / "m.csv").write_bytes(b"file,network\n\xff,resnet8\n")
    with pytest.raises(SpecError, match=r"m.csv: is not a text file in UTF-8"):
        load_manifest(tmp_path / "m.csv", METRICS)


@pytest.mark.parametrize(
    "text",
    [
        "mean .5071 .4867 .4408, sd .2675 .2565 .2761",
        "mean .5071 .4867 .4408, sd .2675 .2565 .2761 (72.61 with the constants of CRD)",
        "Mean: (0.5071, 0.4867, 0.4408); std = [0.2675, 0.2565, 0.2761]",
        "of CRD",
        "of RepDistiller (CIFAR-100)",
        "mdistiller",
    ],
)
def test_a_normalisation_is_constants_or_the_name_of_the_code_that_has_them(text: str) -> None:
    found = parse_normalisation(text)
    assert (found.mean, found.std, found.stated) == (*CRD, text)


@pytest.mark.parametrize("text", ["mean 125 122 112, sd 67 65 70", "mean .5 .5 .5", "mean .5 .5 .5, sd 0 .5 .5"])
def test_other_constants_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"write `mean R G B, sd R G B` with values in 0..1"):
        parse_normalisation(text)


def test_an_option_that_is_wrong_is_named_as_an_option() -> None:
    with pytest.raises(SpecError, match="--selection: Input should be"):
        parse_weights({"file": "r.pt", "network": "resnet8", "selection": "final"}, names="--")


def test_the_licence_is_read_from_the_source() -> None:
    assert licence_in("a/b (BSD-3-Clause), as kept in c/d@7 (x)") == "BSD-3-Clause"
    assert licence_in("a/b (the second file)") == ""
