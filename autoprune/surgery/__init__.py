"""Plan -> changed model, in place: the same model and layer objects, new and smaller storage behind their variables.

`surgeon.py` orders the steps, and remembers everything for a bit-exact return. `cutting.py` says which positions of
which axes stay and cuts variables, attributes and the optimiser's state, and takes branches out of the graph. The
symbolic graph, whose shapes are Keras's own, is brought up to date by `keras_internals`. `reconstruction.py` also fits
the layers behind the removed channels anew.
"""

from autoprune.surgery.applying import apply_plan
from autoprune.surgery.reconstruction import apply_with_reconstruction
from autoprune.surgery.surgeon import Snapshot, Surgeon

__all__ = ["Snapshot", "Surgeon", "apply_plan", "apply_with_reconstruction"]
