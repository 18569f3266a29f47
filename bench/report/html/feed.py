"""Regressions as an Atom feed (RFC 4287), for readers that ask for news of a published report."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode
from xml.etree import ElementTree

from ...spec.schema import digest
from ...text import printable
from .history_data import Change
from .redact import Clean, unchanged

ATOM = "http://www.w3.org/2005/Atom"
MOST = 50
START = "1970-01-01T00:00:00+00:00"  # of a feed without an entry


def atom(changes: Sequence[Change], clean: Clean = unchanged) -> str:
    """The latest regressions; `changes` are in order, the latest first. Links are relative to the feed's file.

    `clean` maps the texts.
    """
    regressions = [change for change in changes if change.word == "regressed"][:MOST]
    feed = ElementTree.Element("feed", xmlns=ATOM)
    _text(feed, "title", "kdbench: regressions")
    _text(feed, "id", "urn:kdbench:regressions")
    _text(feed, "updated", regressions[0].finished if regressions else START)
    _text(ElementTree.SubElement(feed, "author"), "name", "kdbench report")
    for change in regressions:
        entry = ElementTree.SubElement(feed, "entry")
        what = f"{change.method} on {change.title}, {change.pair}: {change.of} regressed ({change.size})"
        _text(entry, "title", clean(f"{what} at {change.commit}"))
        _text(entry, "id", f"urn:kdbench:{digest([what, change.commit])}")
        _text(entry, "updated", change.finished)
        ElementTree.SubElement(entry, "link", href=f"../figures.html#{urlencode(clean(change.address))}")
    ElementTree.indent(feed)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(feed, encoding="unicode")}\n'


def _text(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = printable(text)
