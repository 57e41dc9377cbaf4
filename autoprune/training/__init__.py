"""Training and fine-tuning. `fit.py` is the door."""

from autoprune.training.course import TrainingError, TrainingRecord
from autoprune.training.fit import train

__all__ = ["TrainingError", "TrainingRecord", "train"]
