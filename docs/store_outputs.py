"""Run the notebooks and store their outputs: ``python docs/store_outputs.py [NAME.ipynb ...]``.

Each runs in a scratch folder in which the bundles lie where it looks for them. Kept are what it
prints and its pictures (JPEG); logs, progress bars, warnings and times are not.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent
LOG = re.compile(r"^\d{4}-\d\d-\d\d .*\n(?:[ ].*\n|\n)*", re.M)
KINDS = ("text/plain", "image/jpeg")


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh run."""
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "docs", "tutorials")
        folder.mkdir(parents=True)
        Path(scratch, "bundles").symlink_to(DOCS.parent / "bundles")
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=where).execute()
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave what a reader wants to see, and nothing of the machine or the hour."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata, cell.execution_count = {}, None
        streams = [o.text for o in cell.outputs if o.get("name") == "stdout"]
        text = LOG.sub("", "".join(streams))
        kept = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
        for output in cell.outputs:
            data = {k: v for k, v in output.get("data", {}).items() if k in KINDS}
            if "image/jpeg" in data:
                data["text/plain"] = "a picture"
                kept.append(nbformat.v4.new_output("display_data", data=data))
        cell.outputs = kept


def main(names: list[str]) -> None:
    """Run the named notebooks, or all, and write them back."""
    for path in [DOCS / "tutorials" / n for n in names] or sorted(DOCS.glob("tutorials/*.ipynb")):
        notebook = executed(path)
        tidy(notebook)
        nbformat.write(notebook, path)
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
