"""Run walkthrough.ipynb in a store of its own, and keep its outputs in the file: `make notebook`."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

NOTEBOOK = Path(__file__).with_suffix(".ipynb")
GONE = {"text/html": "", "text/plain": ""}


def executed(directory: Path) -> NotebookNode:
    """Execute the notebook, recording in the directory's mlflow.db; return it. Raises CellExecutionError."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
        "IPYTHONDIR": str(directory / "ipython"),
    }
    # Connect to the kernel through files that other users cannot open, not through ports.
    with tempfile.TemporaryDirectory() as sockets:
        kernel = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
        client = NotebookClient(
            notebook,
            config=Config(KernelManager=kernel),
            timeout=300,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(directory)}},
        )
        client.execute(env=os.environ | own)
    for cell in notebook.cells:  # a progress bar that has disappeared leaves an empty output
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("data") != GONE]
    return notebook


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        notebook = executed(Path(directory))
    nbformat.write(notebook, NOTEBOOK)
    print(f"wrote {NOTEBOOK}", file=sys.stderr)


if __name__ == "__main__":
    main()
