"""YAML as plain data: what is refused, with its line, before it can grow."""

from __future__ import annotations

import pytest

from kdbench.spec.yaml_reader import MAX_DEPTH, YamlError, load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: [1, 2.5, x, null, true]", {"a": [1, 2.5, "x", None, True]}),
        ("base: &b {x: 1, y: 2}\nmore: {<<: *b, y: 3}", {"base": {"x": 1, "y": 2}, "more": {"x": 1, "y": 3}}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("1: a\n'1': b", {1: "a", "1": "b"}),
    ],
)
def test_plain_values_aliases_and_merge_keys_are_read(text: str, value: object) -> None:
    assert load(text) == value


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}], y{i}: 1}}\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: a is given a second time, after line 1"),
        ("a: {b: 1, c: 2, b: 3}", "b is given a second time"),
        ("- {x: 1}\n- {y: 1, y: 1}", "line 2: y is given a second time"),
        ("a: &a {b: *a}", "contains itself"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} levels"),
        ("[" * 100_000, f"more than {MAX_DEPTH} levels"),
        (BOMB, "more than 200000 values"),
        (MERGES, "more than 200000 values"),
        ("a: " + "9" * 5000, "no plain data"),
        ("a: 2001-99-99", "would be read as a date"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
    ],
)
def test_what_is_no_plain_data_is_refused(text: str, words: str) -> None:
    with pytest.raises(YamlError) as refused:
        load(text)
    assert words in str(refused.value)
