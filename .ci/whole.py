"""Exit with 1, naming the first fault, unless every file that the installed packages list is there."""

import sys
from importlib.metadata import distributions

for package in distributions():
    if package.files is None:
        sys.exit(f"{package.name}: was not installed to its end")
    for file in package.files:
        if file.suffix != ".pyc" and not package.locate_file(file).exists():
            sys.exit(f"{package.name}: {file} is gone")
