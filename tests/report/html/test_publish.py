"""`kdbench report --publish`: what a static host gets, what is removed, refused and left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kdbench.errors import StoreError
from kdbench.report.evidence import NOTHING
from kdbench.report.html import site
from kdbench.report.html.folder import FILES
from kdbench.report.html.lines import all_lines
from kdbench.report.html.redact import redactor
from kdbench.report.html.site import Content, write
from kdbench.spec.run import Run
from kdbench.spec.table import load_table
from tests.helpers.command import kdbench
from tests.helpers.report_pages import rows, tables

pytest.importorskip("itables", reason="itables is not installed: pip install 'kdbench[report]'")
pytest.importorskip("plotly", reason="plotly is not installed: pip install 'kdbench[report]'")

SMALL = Content(all_lines([load_table("akd/coco")], [], NOTHING)[:5], [], [])


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_publication_is_a_static_site_with_relative_links(tmp_path: Path) -> None:
    out = tmp_path / "site"
    write(SMALL, out, public=True)
    assert {".nojekyll", "index.html", "figures.html", "data/regressions.xml"} <= names(out)
    for page in ("index.html", "figures.html"):
        for link in re.findall(r'(?:src|href)="([^"]*)"', (out / page).read_text()):
            assert link.startswith(("#", "data:")) or (out / link).is_file(), link


def test_files_that_only_an_earlier_publication_had_are_removed(tmp_path: Path) -> None:
    (tmp_path / "CNAME").write_text("kd.example.org")
    write(SMALL, tmp_path, public=True)
    kept = names(tmp_path)
    (tmp_path / "assets/old.js").write_text("")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / FILES).write_text((tmp_path / FILES).read_text() + "assets/old.js\n../notes.txt\nnotes.txt\n/etc/x\n")
    write(SMALL, tmp_path, public=True)
    assert names(tmp_path) == kept | {"notes.txt"}


def test_a_publication_that_was_cut_short_can_be_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(site, "page", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(SMALL, tmp_path, public=True)
    assert not (tmp_path / "index.html").exists()
    write(SMALL, tmp_path, public=True)
    assert (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [("notes.txt", "has notes.txt and no earlier report"), ("index.html", "was not written by kdbench report")],
)
def test_a_folder_with_something_else_is_refused(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("mine")
    with pytest.raises(StoreError, match=message):
        write(SMALL, tmp_path, public=True)
    assert names(tmp_path) == {file}


def test_paths_and_the_host_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-node-17")
    first = next(row for row in rows() if row.run.scale == "full" and row.run.method == "maskd")
    run = Run.model_validate(first.run.model_dump() | {"teacher_file": "/mnt/vault/alice/teacher.pt"})
    reason = "on gpu-node-17: File /home/alice/kd/run.py: no /mnt/vault/alice/data/x.png"
    row = first.model_copy(update={"run": run, "id": run.id, "status": "failed", "reason": reason, "metrics": None})
    content = Content(all_lines(tables(), [row], NOTHING), [], [f"left out: {Path.home()}/x/row.json: bad"])
    found = {}
    for public in (False, True):
        write(content, tmp_path / str(public), public=public)
        files = [path for path in (tmp_path / str(public)).rglob("*") if path.is_file() and "assets" not in path.parts]
        text = "".join(path.read_text() for path in files)
        found[public] = [word for word in ("alice", "gpu-node-17", "vault", f"{Path.home()}/") if word in text]
    assert found == {False: ["alice", "gpu-node-17", "vault", f"{Path.home()}/"], True: []}


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("/home/jo do/a/b.pt", "…/b.pt"),
        ("x /srv/my work/kd/results/runs/1/row.json: bad", "x …/row.json: bad"),
        ("/home/alice/", "~/"),
        ("file:///home/me/x/y", "…/y"),
        (r"C:\Users\me\x.pt", "…/x.pt"),
        ("teacher_file: /mnt/w/r50.pt", "teacher_file: …/r50.pt"),
        ("run on node-17: failed", "run on (host): failed"),
        ("~/secret/w.pt", "…/w.pt"),
        ({"at": "/w8A/AA//", "values": ["/mnt/x/net.py:build"]}, {"at": "/w8A/AA//", "values": ["…/net.py:build"]}),
    ],
)
def test_absolute_paths_are_shortened(text: object, published: object) -> None:
    assert redactor(Path("/home/jo do"), Path("/srv/my work/kd"), "node-17")(text) == published


@pytest.mark.parametrize(
    "text",
    [
        "https://github.com/a/b/c",
        "t s / √n = 0.1",
        "images/s",
        "results/runs/a",
        "akd/coco",
        "node-17",
        "node-170",
        3.5,
    ],
)
def test_other_texts_stay(text: object) -> None:
    assert redactor(Path("/root"), Path("/srv/kd"), "node-17")(text) == text


def test_the_command_publishes_and_refuses_two_folders(tmp_path: Path) -> None:
    done = kdbench("report", "akd/coco", "--publish", "site", folder=tmp_path, environment={})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/.nojekyll").exists() and not (tmp_path / "results/report").exists()
    done = kdbench("report", "--out", "a", "--publish", "b", folder=tmp_path, environment={})
    assert done.returncode == 2 and "give one of them" in done.stderr and "Traceback" not in done.stderr
