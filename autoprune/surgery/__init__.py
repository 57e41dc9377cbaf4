"""Plan -> changed model, in place: the same model and layer objects, new and smaller storage behind their variables.

`surgeon.py` orders the steps, `slicing.py` says which positions of which axes stay, `shapes.py` brings the symbolic
graph and what layers derived from their widths up to date, `optimizer.py` the optimiser's state, `snapshot.py`
remembers everything for a bit-exact return. `reconstruction.py` also fits the layers behind the removed channels anew.
"""

from autoprune.surgery.applying import apply_plan
from autoprune.surgery.reconstruction import apply_with_reconstruction
from autoprune.surgery.snapshot import Snapshot
from autoprune.surgery.surgeon import Surgeon

__all__ = ["Snapshot", "Surgeon", "apply_plan", "apply_with_reconstruction"]
