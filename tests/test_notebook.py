"""The notebook that the README links to runs from its first cell to its last, and shows what it says."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from helpers.places import ROOT

PATH = ROOT / "tests/notebooks/prune.ipynb"
pytestmark = [pytest.mark.slow, pytest.mark.compiler, pytest.mark.subprocess]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    notebook = nbformat.read(PATH, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook, folder


def outputs(notebook, kind):
    """What cells show as this kind, by their source."""
    return {
        cell.source: output["data"][kind]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if kind in output.get("data", {})
    }


def shown(notebook, kind, begin):
    (found,) = [data for source, data in outputs(notebook, kind).items() if begin in source]
    return found


def test_it_prunes_and_shows_what_came_of_it(run):
    notebook, folder = run
    table = shown(notebook, "text/html", "autoprune.prune")
    assert "<th>test accuracy</th>" in table
    assert "<strong>" in table
    frame = shown(notebook, "text/html", "to_dataframe")
    assert "within_budget" in frame
    assert len(shown(notebook, "image/png", "plot_front")) > 5000
    assert Path(folder / "small.keras").exists()
    assert float(shown(notebook, "text/plain", "again.evaluate")) > 0.85


def test_it_is_kept_without_outputs():
    for cell in nbformat.read(PATH, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
