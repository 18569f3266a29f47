"""The two scales of a table."""

from __future__ import annotations

from typing import Literal

Scale = Literal["full", "mini"]
