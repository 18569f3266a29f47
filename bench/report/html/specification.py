"""The resolved specification of a run as YAML, in blocks of which runs share most: data, teacher and recipe."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from ...spec.run import Run
from ...text import printable

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # the one in C is ten times as fast


class Specifications:
    """Specifications as YAML; a part that many runs have is written once."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._blocks: dict[tuple[str, int], tuple[BaseModel, str]] = {}  # a part is kept, so that its id stays its own

    def blocks(self, run: Run) -> list[str]:
        """Blocks of text that are the specification one after the other; fields with their default are left out."""
        blocks: list[str] = []
        plain: dict[str, Any] = {}
        for name, field in Run.model_fields.items():
            value = getattr(run, name)
            if value == field.default:
                continue
            if not isinstance(value, BaseModel):
                plain[name] = value
                continue
            if plain:
                blocks.append(self._plain(plain))
                plain = {}
            blocks.append(self._block(name, value))
        return [*blocks, self._plain(plain)] if plain else blocks

    def _plain(self, fields: dict[str, Any]) -> str:
        key = repr(fields)
        if key not in self._texts:
            self._texts[key] = _yaml(fields)
        return self._texts[key]

    def _block(self, name: str, part: BaseModel) -> str:
        key = name, id(part)
        if key not in self._blocks:
            self._blocks[key] = part, _yaml({name: part.model_dump(mode="json", exclude_defaults=True)})
        return self._blocks[key][1]


def _yaml(value: dict[str, Any]) -> str:
    return printable(yaml.dump(value, Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=100))
