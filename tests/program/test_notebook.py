"""The notebook runs as it is, and its outputs are those stored in it."""

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


def answers(notebook):
    """Return the outputs of a notebook's cells."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data for output in outputs if output.output_type == "execute_result"]


def texts(notebook):
    """Return the outputs that are the same in every store, as text: those without a run's id."""
    return [data["text/plain"] for data in answers(notebook) if not data["text/plain"].startswith("<run ")]


def test_the_notebook_goes_from_a_run_to_a_sweep_to_a_figure(notebook):
    shown = answers(notebook)
    assert "data:image/png;base64," in shown[0]["text/html"]
    assert texts(notebook)[2] == "150"
    assert sum("image/png" in data for data in shown) == 1
    assert shown[-1]["text/plain"] == "'identical'"


def test_no_cell_prints_or_leaves_a_bar(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} == {"execute_result"}


def test_the_notebooks_outputs_are_those_stored_in_it(notebook):
    kept = texts(nbformat.read(NOTEBOOK, as_version=4))
    assert len(kept) == 7
    assert texts(notebook) == kept
