"""Classes that a split has nothing of, in words."""

from __future__ import annotations

from collections.abc import Sequence

from ._text import counted

_NAMED = 5


def empty_classes(source: str, what: str, classes: Sequence[str], counts: Sequence[int]) -> str:
    """A notice about the classes without any `what`; empty if every class has some.

    Args:
        source: the split or its file.
        what: "box" or "pixel".
        classes: K names.
        counts: of each class, K numbers, or whether there are any.
    """
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if not empty:
        return ""
    named = ", ".join(map(repr, empty[:_NAMED])) + (", ..." if len(empty) > _NAMED else "")
    of = f"of {counted(len(classes), 'class', 'classes')}"
    return f"{source}: {counted(len(empty), f'{of} has', f'{of} have')} no {what}: {named}"
