"""Executes docs/notebook.ipynb in a kernel; `python tests/notebook.py` stores the outputs in it."""

import base64
import io
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


def execute(folder: Path) -> Any:
    """Return the notebook with the outputs that it has in this working directory. Raises an error of a cell."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources, coalesce_streams=True).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
    return notebook


def shrink_pictures(notebook: Any) -> Any:
    """Return the notebook with pictures of few colours, which take a quarter of the space."""
    for data in (output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output):
        if "image/png" in data:
            picture = io.BytesIO()
            Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB").quantize(48).save(
                picture, "png", optimize=True
            )
            data["image/png"] = base64.b64encode(picture.getvalue()).decode()
    return notebook


if __name__ == "__main__":
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(shrink_pictures(execute(Path(folder))), NOTEBOOK)
