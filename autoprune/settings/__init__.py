"""Typed settings, and the one function that makes them from Hydra's config.

Each field's sentence is its documentation; the defaults a command starts from are in `conf/`. Nothing below the
commands sees a `DictConfig`.
"""

from autoprune.settings.commands import MeasureSettings, SearchSettings
from autoprune.settings.parts import (
    AgentSettings,
    BudgetSettings,
    Constraints,
    DataSettings,
    EvaluationSettings,
    ImportanceSettings,
    LimitsSettings,
    ModelSettings,
    RewardSettings,
    SearcherSettings,
    TargetSettings,
    TrainingSettings,
)
from autoprune.settings.reading import from_config

__all__ = [
    "AgentSettings",
    "BudgetSettings",
    "Constraints",
    "DataSettings",
    "EvaluationSettings",
    "ImportanceSettings",
    "LimitsSettings",
    "MeasureSettings",
    "ModelSettings",
    "RewardSettings",
    "SearchSettings",
    "SearcherSettings",
    "TargetSettings",
    "TrainingSettings",
    "from_config",
]
