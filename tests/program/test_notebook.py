"""The notebook runs as it stands, and says what is kept in it."""

import shutil

import nbformat
import pytest

from experiments.walkthrough import NOTEBOOK, executed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def notebook(empty_store, tmp_path_factory):
    place = tmp_path_factory.mktemp("notebook")
    shutil.copy(empty_store, place / "mlflow.db")
    return executed(place)


def tables(notebook):
    """What the cells of a notebook answer with, as text, but for figures."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    answers = [output.data for output in outputs if output.output_type == "execute_result"]
    return [data["text/plain"] for data in answers if "image/png" not in data]


def test_the_notebook_goes_from_a_run_to_a_sweep_to_a_figure(notebook):
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in shown if output.get("name") == "stdout")
    assert "recorded as" in printed
    assert "150 runs, recorded as sweep" in printed
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2


def test_the_notebooks_tables_are_those_that_are_kept_in_it(notebook):
    kept = tables(nbformat.read(NOTEBOOK, as_version=4))
    assert len(kept) == 3
    assert tables(notebook) == kept
