"""Groups + keep ratios + importance + constraints -> plan. Reads weights, and data where asked to; changes nothing.

`importance/` scores channels, `calibration.py` holds the data that some measures need, `space.py` is the search space,
`ranking.py` shares channels out between groups, `planner.py` puts them together, `plan_file.py` writes and reads plans,
`patterns.py` looks at sparsity within kernels, `gather_scatter.py` at that of machines that gather.
"""

from autoprune.planning.calibration import CalibrationData
from autoprune.planning.importance.rounds import harmonic_rounds
from autoprune.planning.planner import Planner, make_plan
from autoprune.planning.space import Candidate, Dimension, SearchSpace

__all__ = ["CalibrationData", "Candidate", "Dimension", "Planner", "SearchSpace", "harmonic_rounds", "make_plan"]
