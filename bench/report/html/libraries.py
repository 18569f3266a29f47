"""The JavaScript libraries of the page, from the Python packages that bring them."""

from __future__ import annotations

import re
from importlib import resources
from importlib.util import find_spec

from ...errors import SpecError

INSTALL = "pip install 'kdbench[report]'"

EXPORTS = re.compile(r"export\{([^{}]*)\};?")


def check_installed() -> None:
    """Refuse to begin where a package is missing.

    Raises:
        SpecError: names it, and the command that installs it.
    """
    for package in ("itables", "plotly"):
        if find_spec(package) is None:
            raise SpecError(f"the report needs the package {package}, which is not installed: {INSTALL}")


def datatables() -> dict[str, str]:
    """DataTables as `datatables.js`, which defines `DataTable`, and `datatables.css`.

    The package brings an ES module, and browsers load none from disk: its exports become one name.

    Raises:
        SpecError: this version of the package has no such file, or another form of it.
    """
    module = _read("itables", "html/dt_bundle.js")
    found = EXPORTS.findall(module)
    names = re.search(r"([\w$]+) as default", found[-1]) if found else None
    if len(found) != 1 or names is None:
        raise SpecError(f"this version of itables has another form than the report knows; install it by {INSTALL}")
    body = EXPORTS.sub(lambda _: f"window.DataTable={names[1]};", module)
    return {
        "datatables.js": f'(()=>{{"use strict";{body}\n}})();\n',
        "datatables.css": _read("itables", "html/dt_bundle.css"),
    }


def plotly() -> str:
    """Plotly, which draws curves.

    Raises:
        SpecError: the package has no such file.
    """
    return _read("plotly", "package_data/plotly.min.js")


def _read(package: str, name: str) -> str:
    file = resources.files(package).joinpath(name)
    if not file.is_file():
        raise SpecError(f"this version of {package} has no {name}, which the report needs; install it by {INSTALL}")
    return file.read_text(encoding="utf-8")
