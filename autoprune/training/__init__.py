"""Training and fine-tuning. `fit.py` is the door."""

from autoprune.training.fit import TrainingRecord, train

__all__ = ["TrainingRecord", "train"]
