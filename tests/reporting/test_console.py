"""What a search says on its way, where there is no terminal."""

import logging

import nbclient
import nbformat
import numpy as np
import pytest

from autoprune.reporting.console import CONSOLE, stage, visible_logging


@pytest.mark.skipif(CONSOLE.is_terminal, reason="a terminal shows a bar instead")
@pytest.mark.parametrize(("total", "steps", "lines"), [(60, 60, 10), (5, 5, 5), (1, 750, 10), (3, 69, 10)])
def test_every_tenth_of_a_stage_is_a_line(messages, total, steps, lines):
    with stage("search", total) as shown:
        for done in np.arange(1, steps + 1) * total / steps:
            shown.advance(done, "a note")
    said = [line for line in messages().splitlines() if "search" in line]
    assert len(said) == lines
    assert f"{total}/{total}  a note" in said[-1]


def test_a_program_without_logging_sees_what_is_told(monkeypatch, capsys):
    own = logging.getLogger("autoprune")
    monkeypatch.setattr(own, "propagate", False)  # Pytest's handlers are the root's.
    with visible_logging():
        logging.getLogger("autoprune.search").info("run folder: here")
    logging.getLogger("autoprune.search").info("unseen")
    said = capsys.readouterr().out
    assert "run folder: here" in said
    assert "unseen" not in said
    assert not own.handlers


def test_a_program_with_logging_of_its_own_is_told_once(messages, capsys):
    with visible_logging():
        logging.getLogger("autoprune.search").info("run folder: here")
    assert messages().count("run folder: here") == 1
    assert "run folder" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of Jupyter's own.
def test_a_notebook_shows_a_stage_in_one_line_that_stays():
    code = (
        "from autoprune.reporting.console import stage\n"
        "with stage('rl', 60) as shown:\n"
        "    for done in range(1, 61):\n"
        "        shown.advance(done, f'best 0.{done}')\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=300).execute()
    shown = [output["data"]["text/plain"] for output in notebook.cells[0].outputs if "data" in output]
    assert len(shown) == 1
    assert shown[0].startswith("rl ")
    assert "60/60" in shown[0]
    assert shown[0].endswith("best 0.60")
