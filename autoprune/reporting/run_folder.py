"""The folder that a run leaves behind."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from autoprune.errors import SettingsError
from autoprune.settings import SearchSettings, from_config

S = TypeVar("S")  # Settings of a command.
# Of settings, what is a path.
PATHS = (("model", "path"), ("data", "path"), ("data", "dir"), ("policy",))


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Names of everything in a run folder.

    Attributes:
        path: the folder; it exists.
    """

    path: Path

    @classmethod
    def make(cls, path: str | Path) -> "RunFolder":
        """The folder, made when missing."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @property
    def dense(self) -> Path:
        """The model before pruning."""
        return self.path / "dense.keras"

    @property
    def pruned(self) -> Path:
        """The result."""
        return self.path / "pruned.keras"

    @property
    def plan(self) -> Path:
        """The plan of the result."""
        return self.path / "plan.json"

    @property
    def policy(self) -> Path:
        """What the agent learnt."""
        return self.path / "policy"

    @property
    def replayed(self) -> Path:
        """The policy that a replay began with."""
        return self.path / "replayed_policy"

    @property
    def journal(self) -> Path:
        """Every evaluation."""
        return self.path / "evaluations.sqlite"

    @property
    def measured(self) -> Path:
        """Costs measured on this host, for the target `cpu`."""
        return self.path / "measured.sqlite"

    @property
    def report(self) -> Path:
        """The report."""
        return self.path / "report.html"

    @property
    def metrics(self) -> Path:
        """The figures of the report."""
        return self.path / "metrics.json"

    @property
    def comparison(self) -> Path:
        """The figures of a comparison, also of one that is under way."""
        return self.path / "comparison.json"

    @property
    def comparison_report(self) -> Path:
        """The report of a comparison."""
        return self.path / "comparison.html"

    @property
    def tensorboard(self) -> Path:
        """Learning curves."""
        return self.path / "tensorboard"

    @property
    def settings(self) -> Path:
        """The settings the run was begun with."""
        return self.path / "settings.json"

    def save_settings(self, settings: Any) -> None:
        """Write the settings of a command, so that the run can be resumed, from any folder: paths become absolute."""
        data = dataclasses.asdict(settings)
        for *parts, name in PATHS:
            part = data
            for key in parts:
                part = part.get(key, {})
            if isinstance(part.get(name), str):
                part[name] = str(Path(part[name]).absolute())
        write_json(self.settings, data)

    def load_settings(self, schema: type[S] = SearchSettings, anew: Mapping[str, Any] | None = None) -> S:
        """The settings that the run was begun with.

        Args:
            schema: of the command.
            anew: options that take the place of the folder's.

        Raises:
            SettingsError: there are none, they cannot be read, or what is given anew does not go with them.
        """
        try:
            data = json.loads(self.settings.read_text())
        except (OSError, ValueError) as error:
            raise SettingsError(f"'{self.path}' is not a run folder that can be resumed: {error}") from error
        return from_config(OmegaConf.create({**data, **(anew or {})}), schema)


def write_json(path: Path, data: Any) -> None:
    """Write JSON to a file that appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=1) + "\n")
    partial.replace(path)
