"""FreeKD: the wavelet transform, and where prompts come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench import methods
from kdbench.methods._haar import haar, inverse_haar
from kdbench.methods.base import Batch, MethodError, NetworkInfo, Outputs
from kdbench.spec.choice import parse_methods
from tests.helpers.golden import batch, setting
from tests.helpers.small_teacher import CHANNELS, SmallTeacher, endless

SHAPES = [(4, 6, channels) for channels in CHANNELS]


@pytest.fixture
def data() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(4, 3, 16, 16, generator=generator), torch.arange(4), torch.arange(4))


@pytest.fixture
def teacher() -> SmallTeacher:
    torch.manual_seed(0)
    return SmallTeacher()


def build(**options: Any) -> Any:
    torch.manual_seed(2)
    if (file := Path(options.get("prompts", ""))).is_file():
        options = {"prompts_sha256": hashlib.sha256(file.read_bytes()).hexdigest()[:16]} | options
    info = NetworkInfo(CHANNELS)
    return methods.build("freekd", setting(info, info, "detection"), **options)


def saved(path: Path, prompts: list[Tensor], wrapped: bool = True) -> str:
    """A file as the released code writes it."""
    state = {f"distill.mask_modules.{level}.mask_token": values for level, values in enumerate(prompts)}
    more = {f"distill.mask_modules.{level}.prob.0.bias": torch.zeros(3) for level in range(len(prompts))}
    torch.save({"state_dict": state | more} if wrapped else state | more, path)
    return str(path)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (12, 6), (3, 3), (1, 1), (5, 16)])
def test_the_transform_keeps_the_norm_and_is_inverted(size: tuple[int, int]) -> None:
    features = torch.randn(2, 3, *size, dtype=torch.float64)
    low, bands = haar(features, 3)
    squares = low.square().sum() + sum(band.square().sum() for band in bands)
    torch.testing.assert_close(squares, features.square().sum())
    torch.testing.assert_close(inverse_haar(low, bands, size), features)


def test_orientations_are_told_apart_by_the_transform() -> None:
    rows = torch.tensor([1.0, -1.0]).repeat(4)[:, None].expand(1, 1, 8, 8)
    low, (finest, *coarse) = haar(rows, 3)
    assert (finest[:, :, 0] == 2).all() and not finest[:, :, 1:].any()
    assert not low.any() and not any(band.any() for band in coarse)


def test_what_differs_in_the_low_band_alone_is_in_the_squared_error_alone() -> None:
    feature = torch.randn(1, 5, 16, 16)
    info = NetworkInfo((5,))
    method = methods.build("freekd", setting(info, info, "detection"), align=None)
    terms = method(batch(1), Outputs((), (feature + 1,)), Outputs((), (feature,)))
    assert terms["frequency"].item() == pytest.approx(0, abs=1e-5) and terms["mse"].item() == pytest.approx(5)


def test_prepare_lowers_its_loss_and_leaves_the_teacher_alone(teacher: SmallTeacher, data: Batch) -> None:
    method = build(prompt_steps=200)
    state = {key: value.clone() for key, value in teacher.state_dict().items()}
    before = method.prompt_loss(teacher, data).item()
    method.prepare(teacher, endless(data))
    assert method.prompt_loss(teacher, data).item() < before - 0.2
    assert all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in method.prompts)


@pytest.mark.parametrize("wrapped", [True, False])
def test_prompts_are_read_from_a_file(wrapped: bool, teacher: SmallTeacher, data: Batch, tmp_path: Path) -> None:
    prompts = [torch.randn(shape) for shape in SHAPES]

    def untouched() -> Iterator[Batch]:
        raise AssertionError("a batch was taken")
        yield data

    method = build(prompts=saved(tmp_path / "prompts.pt", prompts, wrapped))
    method.prepare(teacher, untouched())
    assert all(torch.equal(read, given) for read, given in zip(method.prompts, prompts, strict=True))
    assert method.preparation_key != build().preparation_key


def test_a_file_that_does_not_fit_is_refused(teacher: SmallTeacher, data: Batch, tmp_path: Path) -> None:
    one_level = saved(tmp_path / "one.pt", [torch.zeros(SHAPES[0])])
    with pytest.raises(MethodError, match=r"shapes \[\(4, 6, 5\)\], and this teacher needs"):
        build(prompts=one_level).prepare(teacher, endless(data))
    (tmp_path / "text.pt").write_text("prompts")
    with pytest.raises(MethodError, match="cannot be read as a file of torch.save"):
        build(prompts=str(tmp_path / "text.pt")).prepare(teacher, endless(data))
    with pytest.raises(MethodError, match="cannot be read .No such file"):
        build(prompts=str(tmp_path / "none.pt"))


@pytest.mark.parametrize("sha256", [None, "", "00000000"])
def test_options_name_the_content_of_the_file(sha256: str | None, tmp_path: Path) -> None:
    file = saved(tmp_path / "prompts.pt", [torch.zeros(shape) for shape in SHAPES])
    content = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    with pytest.raises(MethodError, match=f"give prompts_sha256={content[:16]}, if that is the file"):
        build(prompts=file, prompts_sha256=sha256)
    build(prompts=file, prompts_sha256=content)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tokens": 0}, "num_tokens is 0"),
        ({"num_tokens": 10**9}, "from 1 to 1000"),
        ({"prompt_steps": -1}, "prompt_steps -1"),
        ({"prompt_lr": 0.0}, "0.0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        build(**options)


def test_a_checksum_of_digits_alone_is_written_in_quotes() -> None:
    (number,), (text,) = (parse_methods(f"freekd:prompts_sha256={value}") for value in ("12345678", '"12345678"'))
    with pytest.raises(MethodError, match="prompts_sha256 of freekd is 12345678; it must be str . None; .* in quotes"):
        methods.resolve("freekd", dict(number.options))
    assert methods.resolve("freekd", dict(text.options))["prompts_sha256"] == "12345678"
