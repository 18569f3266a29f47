"""What a table, a recipe and a run accept, and how they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdbench.errors import SpecError
from kdbench.spec.recipe import RECIPES, Recipe, Resize, ScaledCrop, load_recipe, recipe_names
from kdbench.spec.schema import merged, parse, read_yaml
from kdbench.spec.table import MethodEntry, Table, load_table, table_names
from tests.helpers.tables import FOLDER, fixed_table


@pytest.mark.parametrize("name", table_names())
def test_every_table_in_the_tree_validates(name: str) -> None:
    table = load_table(name)
    assert table.name == name
    assert all(scale in recipe_names() for scale in (table.recipe.full, table.recipe.mini))
    assert load_recipe(table.recipe.full).task == load_recipe(table.recipe.mini).task == table.task


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_in_the_tree_validates(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.source


@pytest.fixture
def content() -> dict[str, Any]:
    """A table's YAML, to be edited."""
    return read_yaml(FOLDER / "dist" / "coco.yaml")


def refused_table(tmp_path: Path, content: Any) -> str:
    """The message with which a table is refused."""
    path = tmp_path / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(SpecError) as caught:
        load_table(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_a_table_in_a_file_of_ones_own_is_called_after_it(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    table = load_table(str(path))
    assert table.name == "mine"
    assert table.pairs == fixed_table("dist/coco").pairs


def test_a_table_with_earlier_keys_is_read_with_one_notice_a_key(
    tmp_path: Path, content: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    content["pairs"][0]["recipe"] = {"optimiser": "adamw"}
    content["methods"][1]["against"] = "none"
    content["methods"][1]["options"] = {"against": 1}  # a method's option keeps its name
    path.write_text(yaml.safe_dump(content))
    for _ in range(2):
        table = load_table(str(path))
        assert table.pairs[0].recipe == {"optimizer": "adamw"}
        assert (table.methods[1].gain_over, table.methods[1].options) == ("none", {"against": 1})
    notices = capsys.readouterr().err.splitlines()
    assert sorted(notices) == [
        f"{path}: against is now called gain_over; rename it",
        f"{path}: optimiser is now called optimizer; rename it",
    ]


def test_a_key_under_both_its_names_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    content["methods"][1] |= {"against": "none", "gain_over": "none"}
    assert "against is the earlier name of gain_over; remove one" in refused_table(tmp_path, content)


def test_a_recipe_is_changed_by_an_earlier_name_with_a_notice(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_recipe("coco_2x", {"optimizer": "sgd", "optimiser": "adamw"}).optimizer == "adamw"
    assert capsys.readouterr().err == "--set: optimiser is now called optimizer; rename it\n"


def put(content: dict[str, Any], place: str, value: Any) -> None:
    """Set `content[a][0][b] = value` for the place "a.0.b"."""
    *outer, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    target: Any = content
    for part in outer:
        target = target[part]
    target[last] = value


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("pears", ["pears: unknown key: 'pears'. Did you mean 'pairs'?", "teacher_recipe"]),
        ("pairs.0.teachr", ["pairs[0].teachr: unknown key: 'teachr'. Did you mean 'teacher'?", "mini"]),
        ("pairs.0.mini.studnt", ["pairs[0].mini.studnt: unknown key: 'studnt'. Did you mean 'student'?"]),
        ("methods.1.option", ["methods[1].option: unknown key: 'option'. Did you mean 'options'?", "mini_options"]),
        ("data_size.clases", ["data_size.clases: unknown key: 'clases'. Did you mean 'classes'?", "val_images"]),
        ("reported.0.tabel", ["reported[0].tabel: unknown key: 'tabel'. Did you mean 'table'?", "file, table"]),
        ("recipe.ful", ["recipe.ful: unknown key: 'ful'. Did you mean 'full'?", "Available: full, mini"]),
    ],
)
def test_an_unknown_key_is_one_error_with_file_field_and_the_nearest(
    place: str, words: list[str], tmp_path: Path, content: dict[str, Any]
) -> None:
    put(content, place, {})
    message = refused_table(tmp_path, content)
    assert all(word in message for word in words), message
    assert message.count("unknown key") == 1


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("seeds", "0", "seeds: Input should be a valid"),
        ("seeds", [], "seeds: Tuple should have at least 1 item"),
        ("seeds", [0.5], "seeds[0]: Input should be a valid integer"),
        ("selection", "first", "selection: Input should be 'last', 'best' or 'mean_last10'"),
        ("data_size.classes", "80", "data_size.classes: Input should be a valid integer"),
        ("data_size.classes", 0, "data_size.classes: Input should be greater than 0"),
        ("pairs", [], "has no pairs; a table needs dataset, recipe and pairs"),
        ("pairs.0.teacher", 101, "pairs[0].teacher: Input should be a valid string"),
        ("pairs.1.skip", True, "pairs[1].skip: Input should be a valid string"),
        ("methods.1.options", ["weight"], "methods[1].options: Input should be"),
    ],
)
def test_a_wrong_type_or_value_names_file_and_field(
    place: str, value: Any, words: str, tmp_path: Path, content: dict[str, Any]
) -> None:
    put(content, place, value)
    assert words in refused_table(tmp_path, content)


def test_a_missing_field_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    del content["pairs"][0]["student"]
    assert "pairs[0].student: Field required" in refused_table(tmp_path, content)
    with pytest.raises(SpecError, match=r"metric: Field required"):
        parse(Table, {name: value for name, value in content.items() if name != "metric"}, Path("shipped.yaml"))


def test_a_pair_of_a_paper_without_methods_is_refused_unless_it_is_skipped(content: dict[str, Any]) -> None:
    shipped = {"name": "shipped", **content, "methods": []}
    with pytest.raises(SpecError, match=r"pairs\[0\] \(retinanet_x101_fpn -> retinanet_r50_fpn\) has no methods"):
        parse(Table, shipped, Path("shipped.yaml"))
    shipped["pairs"] = [content["pairs"][0] | {"skip": "it is nowhere"}]
    assert parse(Table, shipped, Path("shipped.yaml")).pairs[0].skip


def test_a_pair_of_a_paper_without_none_is_refused(content: dict[str, Any]) -> None:
    content["pairs"][1]["methods"] = [{"method": "dist"}]
    with pytest.raises(SpecError, match=r"pairs\[1\]: add the method 'none'"):
        parse(Table, {"name": "shipped", **content}, Path("shipped.yaml"))


def test_one_label_twice_is_refused_and_labels_tell_forms_of_a_method_apart(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    content["methods"].append({"method": "dist", "options": {"tau": 2.0}})
    assert "pairs[0]: dist appears twice; give each its own label" in refused_table(tmp_path, content)
    content["methods"][-1]["label"] = "dist, tau 2"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert [entry.display_name for entry in load_table(str(tmp_path / "mine.yaml")).methods][-1] == "dist, tau 2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a mapping of fields, found NoneType"),
        ("- a\n- b\n", "expected a mapping of fields, found list"),
        ("word", "expected a mapping of fields, found str"),
        ("a: [1, 2\nb: 3", "not valid YAML"),
        ("a: {b: 1}}", "not valid YAML"),
        ("paper: 2020-01-01", "would be read as a date"),
        ("pairs: &a [*a]", "contains itself"),
    ],
)
def test_yaml_that_is_no_mapping_of_plain_values_is_refused(text: str, words: str, tmp_path: Path) -> None:
    assert words in refused_table(tmp_path, text)


def test_a_file_that_is_no_text_and_a_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"paper: \xff\xfe")
    with pytest.raises(SpecError, match=r"bytes\.yaml: is not a text file in UTF-8"):
        load_table(str(path))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(SpecError, match=r"folder\.yaml: cannot be read"):
        load_table(str(tmp_path / "folder.yaml"))


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir", "!!python/name:os.mkdir"]
)
def test_yaml_that_names_code_is_refused_and_nothing_runs(tag: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    argument = f" ['{made}']" if "name" not in tag else " ''"
    message = refused_table(tmp_path, f"paper: {tag}{argument}\n")
    assert "not valid YAML" in message and "could not determine a constructor" in message
    assert not made.exists()


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize("field", ["lr", "weight_decay", "clip_norm"])
def test_numbers_that_are_none_are_refused_in_recipes(field: str, number: str) -> None:
    with pytest.raises(SpecError, match=rf"coco_mini\.yaml: {field}: "):
        load_recipe("coco_mini", {field: yaml.safe_load(number)})


def test_numbers_that_are_none_are_refused_inside_options(tmp_path: Path, content: dict[str, Any]) -> None:
    content["methods"][1]["options"] = {"weights": [1.0, float("nan")], "tau": float("inf")}
    message = refused_table(tmp_path, content)
    assert "methods[1].options.weights[1]: must be a finite number" in message
    assert "methods[1].options.tau: must be a finite number" in message


def test_a_run_never_holds_a_recipe_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        Recipe.model_validate(load_recipe("coco_mini").model_dump() | {"lr": float("inf")})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"milestones": [24]}, r"milestones \[24\] must lie before the last of 24 epochs"),
        ({"milestones": [30]}, r"milestones \[30\] must lie before"),
        ({"epochs": 22}, r"milestones \[16, 22\] must lie before the last of 22 epochs"),
        ({"milestones": [0]}, r"milestones\[0\]: Input should be greater than 0"),
        ({"image.shorter": 1334}, "image: shorter 1334 is above longer 1333"),
        ({"image.flip": 1.5}, "image.flip: Input should be less than or equal to 1"),
        (
            {"image.short": 800},
            "image.short: unknown key: 'short'. Did you mean 'shorter'.* Available: flip, kind, longer",
        ),
        ({"image": {"shorter": 800, "hight": 2}}, "image.hight: unknown key"),
        ({"image": 800}, "image: Input should be"),
        ({"lr.value": 0.1}, "lr: Input should be a valid number"),
        ({"image.shorter.pixels": 3}, r"image.shorter: Input should be a valid integer"),
        ({"lr": "0.1"}, "lr: Input should be a valid number"),
        ({"epochs": 2.5}, "epochs: Input should be a valid integer"),
        ({"epochs": True}, "epochs: Input should be a valid integer"),
        ({"momentum": 1.0}, "momentum: Input should be less than 1"),
        ({"precision": "float16"}, "precision: Input should be 'ieee', 'tf32' or 'bfloat16'"),
        ({"max_steps": 0}, "max_steps: Input should be greater than 0"),
    ],
)
def test_a_change_that_cannot_be_is_refused_with_file_and_field(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=rf"coco_2x\.yaml: {words}"):
        load_recipe("coco_2x", changes)


@pytest.mark.parametrize(
    ("recipe", "changes", "words"),
    [
        ("cifar_mini", {"momentum": 0.5}, "momentum has no effect with optimizer adamw; leave it out, or set optim"),
        ("cifar_mini", {"nesterov": True}, "nesterov has no effect with optimizer adamw"),
        ("cifar_mini", {"milestones": [2]}, "milestones has no effect with schedule cosine"),
        ("coco_2x", {"min_lr": 0.1}, "min_lr has no effect with schedule step; .* set schedule to cosine or poly"),
    ],
)
def test_a_change_without_effect_is_refused(recipe: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=rf"{recipe}\.yaml: {words}"):
        load_recipe(recipe, changes)
    switched = {"optimizer": "sgd", "schedule": "step" if "milestones" in changes else "poly"}
    assert load_recipe(recipe, changes | switched)


def segmentation(image: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """What a recipe for segmentation says, with changes."""
    crop = {"kind": "scaled_crop", "height": 512, "width": 1024} | (image or {})
    plain = {"name": "x", "source": "a test", "task": "segmentation", "epochs": 2, "batch_size": 4, "lr": 0.1}
    return plain | {"image": crop} | fields


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (segmentation({"scale": [2.0, 0.5]}), r"image: scale \[2\.0, 0\.5\] must be ascending"),
        (segmentation({"scale": [0.0, 0.5]}), r"image.scale\[0\]: Input should be greater than 0"),
        (segmentation({"scale_step": 0.4}), r"scale \[0\.5, 2\.0\] is no whole number of scale_step 0\.4 wide"),
        (segmentation({"scale_step": 0.0}), "image.scale_step: Input should be greater than 0"),
        (segmentation({"height": 0}), "image.height: Input should be greater than 0"),
        (segmentation({"size": 512}), "image.size: unknown key"),
        (segmentation({"kind": "scaled"}), "image: "),
        (segmentation(power=0.0), "power: Input should be greater than 0"),
        (segmentation(epoch_steps=0), "epoch_steps: Input should be greater than 0"),
        (segmentation(aux_weight=-0.1), "aux_weight: Input should be greater than or equal to 0"),
        (segmentation(schedule="polynomial"), "schedule: Input should be 'step', 'cosine', 'exponential' or 'poly'"),
    ],
)
def test_a_segmentation_recipe_that_cannot_be_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=rf"^here\.yaml: .*{words}"):
        parse(Recipe, values, Path("here.yaml"))


@pytest.mark.parametrize(
    ("scale", "step", "steps"),
    [([0.5, 2.0], 0.1, 15), ([0.5, 2.0], 0.25, 6), ([1.0, 1.0], 0.1, 0), ([0.5, 0.8], 0.3, 1), ([0.5, 2], None, None)],
)
def test_the_steps_of_a_scale_are_counted_whatever_rounds_between(
    scale: list[float], step: float | None, steps: int | None
) -> None:
    image = parse(Recipe, segmentation({"scale": scale, "scale_step": step}), Path("here.yaml")).image
    assert isinstance(image, ScaledCrop) and image.scale_steps == steps


def test_a_segmentation_recipe_has_cirkds_crops_by_default() -> None:
    recipe = parse(Recipe, segmentation(), Path("here.yaml"))
    assert recipe.image == ScaledCrop(height=512, width=1024, scale=(0.5, 2.0), scale_step=0.1, flip=0.5)
    assert (recipe.power, recipe.aux_weight, recipe.epoch_steps) == (0.9, 0.4, None)


@pytest.mark.parametrize(("field", "nearest"), [("lrr", "lr"), ("epoch", "epochs"), ("imag.shorter", "image")])
def test_a_change_of_an_unknown_field_suggests_the_nearest(field: str, nearest: str) -> None:
    with pytest.raises(SpecError, match=f"unknown recipe field: .* Did you mean '{nearest}'"):
        load_recipe("coco_2x", {field: 1})


def test_changes_reach_inside_and_leave_the_rest_and_their_source_alone() -> None:
    plain = load_recipe("coco_2x")
    image = {"shorter": 64, "longer": 96}
    changes = {"lr": 0.5, "image": image, "image.shorter": 32}
    changed = load_recipe("coco_2x", changes)
    assert changed.image == Resize(shorter=32, longer=96, flip=plain.image.flip)
    assert changed == plain.model_copy(update={"lr": 0.5, "image": changed.image})
    assert changes == {"lr": 0.5, "image": {"shorter": 64, "longer": 96}, "image.shorter": 32}
    assert load_recipe("coco_2x") == plain


def test_an_unknown_table_or_recipe_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown table: 'akd/cocoo'. Did you mean 'akd/coco'"):
        load_table("akd/cocoo")
    with pytest.raises(SpecError, match="unknown recipe: 'coco_3x'. Did you mean 'coco_2x'"):
        load_recipe("coco_3x")
    with pytest.raises(SpecError, match=r"missing\.yaml: cannot be read: No such file"):
        load_table(str(tmp_path / "missing.yaml"))


def test_a_recipe_file_with_an_unknown_key_is_refused() -> None:
    values = read_yaml(RECIPES / "coco_2x.yaml") | {"name": "x", "weight_dcay": 0.1}
    with pytest.raises(SpecError, match=r"^here\.yaml: weight_dcay: unknown key.*Did you mean 'weight_decay'"):
        parse(Recipe, values, Path("here.yaml"))


def test_mini_options_lie_over_the_options_at_mini_alone() -> None:
    options = {"akd+maskd": {"weight": 7.0, "custom_mask_warmup": 7000}}
    mini = {"akd+maskd": {"custom_mask_warmup": 40, "mask_steps": 60}}
    entry = MethodEntry(method="akd+maskd+box_l1", options=options, mini_options=mini)
    assert entry.options_at("full") == options
    assert entry.options_at("mini") == {"akd+maskd": {"weight": 7.0, "custom_mask_warmup": 40, "mask_steps": 60}}


def test_merged_lays_dicts_inside_dicts_over_each_other_and_replaces_everything_else() -> None:
    below: dict[str, Any] = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {"g": 4}, "h": [1, 2]}
    above: dict[str, Any] = {"b": {"d": {"i": 5}}, "f": 6, "h": [3], "j": {"k": 7}}
    expected = {"a": 1, "b": {"c": 2, "d": {"e": 3, "i": 5}}, "f": 6, "h": [3], "j": {"k": 7}}
    assert merged(below, above) == expected
    assert below == {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {"g": 4}, "h": [1, 2]}
    assert merged(below, {}) == below and merged({}, above) == above
