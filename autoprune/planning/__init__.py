"""Groups + keep ratios + importance + constraints -> plan. Reads weights, changes nothing.

`importance.py` scores channels, `widths.py` says which widths are allowed, `planner.py` puts them together,
`plan_file.py` writes and reads plans.
"""

from autoprune.planning.planner import Planner, make_plan

__all__ = ["Planner", "make_plan"]
