"""Training and fine-tuning. `fit.py` is the door; `safe_convolutions.py` keeps TensorFlow's CPU kernels from harm."""

from autoprune.training.fit import TrainingRecord, train

__all__ = ["TrainingRecord", "train"]
