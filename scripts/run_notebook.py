"""Run the code cells of a notebook in one namespace and store what they print: the notebook as a reader would see it.

    python scripts/run_notebook.py docs/example.ipynb

What it writes is relative to a folder that is thrown away, so that a stored output holds no path of this machine.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any


def run_cells(notebook: dict[str, Any], folder: Path) -> list[str]:
    """What each code cell prints, run in `folder`; an exception says which cell it came from."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed, before = [], Path.cwd()
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    os.chdir(folder)
    try:
        for number, cell in enumerate(cells, 1):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
            printed.append(out.getvalue())
    finally:
        os.chdir(before)
    return printed


def with_outputs(notebook: dict[str, Any], printed: list[str]) -> dict[str, Any]:
    """The notebook with those outputs in place of whatever it held."""
    found = iter(enumerate(printed, 1))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number, text = next(found)
            stream = {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
            cell |= {"execution_count": number, "outputs": [stream] if text else []}
    return notebook


def main() -> None:
    """Run one notebook and write it back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    path, start = parser.parse_args().notebook.resolve(), time.monotonic()
    notebook = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        printed = run_cells(notebook, Path(folder))
    path.write_text(json.dumps(with_outputs(notebook, printed), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(printed)} cells in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
