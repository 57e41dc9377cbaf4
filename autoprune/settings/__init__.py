"""Typed settings, and the one function that makes them from Hydra's config.

Each field's sentence is its documentation; the defaults a command starts from are in `conf/`. Nothing below the
commands sees a `DictConfig`.
"""

from autoprune.settings.budget import BudgetSettings, RewardSettings
from autoprune.settings.commands import CompareSettings, MeasureSettings, SearchSettings
from autoprune.settings.exporting import ExportSettings
from autoprune.settings.finetuning import FinetuneSettings, RuntimeSettings
from autoprune.settings.parts import (
    AgentSettings,
    Constraints,
    DataSettings,
    EvaluationSettings,
    ImportanceSettings,
    LimitsSettings,
    ModelSettings,
    SearcherSettings,
    TrainingSettings,
)
from autoprune.settings.policies import LearnSettings, ReplaySettings
from autoprune.settings.reading import from_config
from autoprune.settings.target import TargetSettings

__all__ = [
    "AgentSettings",
    "BudgetSettings",
    "CompareSettings",
    "Constraints",
    "DataSettings",
    "EvaluationSettings",
    "ExportSettings",
    "FinetuneSettings",
    "ImportanceSettings",
    "LearnSettings",
    "LimitsSettings",
    "MeasureSettings",
    "ModelSettings",
    "ReplaySettings",
    "RewardSettings",
    "RuntimeSettings",
    "SearchSettings",
    "SearcherSettings",
    "TargetSettings",
    "TrainingSettings",
    "from_config",
]
