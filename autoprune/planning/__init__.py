"""Groups + keep ratios + importance + constraints -> plan. Reads weights, and data where asked to; changes nothing.

`importance/` scores channels, `calibration.py` holds the data that some measures need, `widths.py` says which widths
are allowed, `ranking.py` shares channels out between groups, `planner.py` puts them together, `plan_file.py` writes
and reads plans.
"""

from autoprune.planning.calibration import CalibrationData
from autoprune.planning.planner import Planner, make_plan

__all__ = ["CalibrationData", "Planner", "make_plan"]
