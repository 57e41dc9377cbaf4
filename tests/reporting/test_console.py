"""What a search says on its way, on terminals of any width and where there is none."""

import contextlib
import io
import logging
import re

import nbclient
import nbformat
import numpy as np
import pytest
from rich.console import Console

from autoprune.reporting import console as console_module
from autoprune.reporting.console import CONSOLE, stage, training_stage, visible_logging
from autoprune.reporting.curves import Curves
from helpers.events import trackers_in

NOTE = "best 0.913 at 59.8% of the dense latency, 3 failed"


@pytest.mark.skipif(CONSOLE.is_terminal, reason="a terminal shows a bar instead")
@pytest.mark.parametrize(("total", "steps", "lines"), [(60, 60, 10), (5, 5, 5), (1, 750, 10), (3, 69, 10)])
def test_every_tenth_of_a_stage_is_a_line(messages, total, steps, lines):
    with stage("search", total, "evaluations") as shown:
        for done in np.arange(1, steps + 1) * total / steps:
            shown.advance(done, "a note")
    said = [line for line in messages().splitlines() if "search" in line]
    assert len(said) == lines
    assert re.search(rf"search {total}/{total} evaluations, in \d:\d\d:\d\d: a note", said[-1])
    assert all(re.search(r"evaluations, \d:\d\d:\d\d left(, [\d.e+]+ a minute)?: a note", line) for line in said[:-1])


@pytest.fixture
def terminal(monkeypatch):
    """Makes the shared console a terminal of a width; what is written to it is the stream's value."""

    def make(width):
        stream = io.StringIO()
        shown = Console(file=stream, width=width, force_terminal=True, legacy_windows=False, color_system=None)
        monkeypatch.setattr(console_module, "CONSOLE", shown)
        return stream

    monkeypatch.setenv("TERM", "xterm")
    return make


def lines_of(stream):
    """Everything that was ever written on a line of the terminal."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\r", stream.getvalue()))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("ended", [False, True])
def test_bars_never_wrap(terminal, width, ended):
    """Whatever they show: a line that is too long would be shown again and again."""
    stream = terminal(width)
    with stage("budget memory 0.45", 1200, "plans compiled") as shown:
        for done in (1, 700, *([1200] if ended else [])):
            shown.advance(done, NOTE)
    lines = lines_of(stream)
    assert max(map(len, lines)) < width
    last = [line for line in lines if line.strip()][-1]
    assert last.startswith("budget memory 0.45")
    assert f"{'1,200' if ended else '700'}/1,200 plans compiled" in last
    assert ("59.8%" in last) == (width >= 100)


def test_a_bar_ends_where_it_ended(terminal, tmp_path):
    stream = terminal(100)
    with stage("uniform", 60, "evaluations") as shown:
        shown.advance(3, NOTE)
    last = [line for line in lines_of(stream) if line.strip()][-1]
    assert re.match(r"uniform +━* +3/60 evaluations ended in 0:00:00", last)
    assert "left" not in last
    stream = terminal(100)
    curves = Curves(trackers_in(tmp_path), "training", "tune")
    with contextlib.suppress(InterruptedError), training_stage("tune", 4, curves) as show:
        show(1.0, {"loss": 0.5, "val_accuracy": 0.75})
        show(1.5, {"loss": 0.4})
        raise InterruptedError
    last = [line for line in lines_of(stream) if line.strip()][-1]
    assert "1.5/4 epochs stopped in" in last
    assert "loss 0.400, accuracy 0.750" in last


def test_what_never_began_leaves_no_bar(terminal, tmp_path):
    """Such as the training of a base model that was kept."""
    stream = terminal(100)
    with training_stage("base model", 12, Curves(trackers_in(tmp_path), "training", "base model")):
        pass
    assert stream.getvalue().endswith("\x1b[2K")  # The line is cleared again.


@pytest.mark.skipif(CONSOLE.is_terminal, reason="a terminal shows a bar instead")
def test_an_early_end_is_told_where_there_is_no_terminal(messages):
    with stage("uniform", 60, "evaluations") as shown:
        shown.advance(3, "a note")
    with stage("base model", 12, "epochs"):
        pass
    (said,) = [line for line in messages().splitlines() if "uniform" in line or "base model" in line]
    assert re.search(r"uniform 3/60 evaluations, ended in 0:00:00: a note", said)


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
