"""Searchers x budgets x seeds -> what each found, finished alike -> what may be concluded.

`cells.py` says what is searched, `selection.py` which of a search's finalists counts, `matching.py` finds the hand-set
plans that are as fast, `jobs.py` says what is to be finished, `controls.py` trains a control and `record.py` keeps what
is done; `summary.py` draws the `conclusions.py` by the pure functions of `statistics.py`.
"""

from autoprune.comparison.cells import Cell, Run, cells_of
from autoprune.comparison.conclusions import Summary
from autoprune.comparison.record import PlanResult, Record
from autoprune.comparison.summary import summarise

__all__ = ["Cell", "PlanResult", "Record", "Run", "Summary", "cells_of", "summarise"]
