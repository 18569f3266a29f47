"""The file that a job writes its events to, read while it grows, from any machine."""

from __future__ import annotations

from pathlib import Path

from ..train.events import Event, from_line


class EventFile:
    """Reads what was added to a file of events since the last time.

    It is opened each time, which lets network file systems ask their server for what is new.

    Args:
        path: of the file, which may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._place = 0

    def read(self) -> list[Event]:
        """The events in the lines that are whole since the last call; other lines are left out."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._place)
                new = file.read()
        except FileNotFoundError:
            return []
        end = new.rfind(b"\n") + 1
        self._place += end
        return [event for line in new[:end].splitlines() if (event := from_line(line.decode(errors="replace")))]
