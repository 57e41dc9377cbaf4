"""Who is told of a run's figures: TensorBoard's files, and experiment trackers that the settings ask for."""

from autoprune.reporting.tracking.tracker import Curve, Outcome, Tracker
from autoprune.reporting.tracking.trackers import Trackers

__all__ = ["Curve", "Outcome", "Tracker", "Trackers"]
