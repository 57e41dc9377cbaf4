"""Typed settings, and the one function that makes them from Hydra's config.

A field's default is the option's default, and its sentence, with the unit in parentheses, is what `--help` and
`conf/README.md` say of it; the files of `conf/` say only what an entry changes. Nothing below the commands sees a
`DictConfig`.
"""

from autoprune.settings.budget import BudgetSettings
from autoprune.settings.commands import CompareSettings, MeasureSettings, SearchSettings
from autoprune.settings.constraints import Constraints
from autoprune.settings.data import DataSettings
from autoprune.settings.evaluation import EvaluationSettings
from autoprune.settings.exporting import ExportSettings
from autoprune.settings.finetuning import FinetuneSettings
from autoprune.settings.importance import ImportanceSettings
from autoprune.settings.model import ModelSettings
from autoprune.settings.policies import LearnSettings, ReplaySettings
from autoprune.settings.reading import from_config
from autoprune.settings.reporting import ReportSettings
from autoprune.settings.reward import RewardSettings
from autoprune.settings.runtime import RuntimeSettings
from autoprune.settings.search import AgentSettings, LimitsSettings, SearcherSettings
from autoprune.settings.target import TargetSettings
from autoprune.settings.task import TaskSettings
from autoprune.settings.tracking import TrackingSettings
from autoprune.settings.training import TrainingSettings
from autoprune.settings.workers import RaySettings

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
    "RaySettings",
    "ReplaySettings",
    "ReportSettings",
    "RewardSettings",
    "RuntimeSettings",
    "SearchSettings",
    "SearcherSettings",
    "TargetSettings",
    "TaskSettings",
    "TrackingSettings",
    "TrainingSettings",
    "from_config",
]
