"""Costs predicted from the costs of other plans: `surrogate.py` predicts, `regression.py` fits."""

from autoprune.cost.surrogate.surrogate import Guess, GuessError, Surrogate

__all__ = ["Guess", "GuessError", "Surrogate"]
