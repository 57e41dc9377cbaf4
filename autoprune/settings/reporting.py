"""Everything that `python -m autoprune.report` reads."""

from dataclasses import dataclass
from typing import Any

from autoprune.settings.checking import check


@dataclass(frozen=True)
class ReportSettings:
    """Of which runs there shall be a page.

    Attributes:
        run (folder): of a run, whose page is written anew from what is saved there; several, given as `run=A run=B` or
            `run=[A,B]`, are joined in one page.
    """

    run: Any = None

    def __post_init__(self) -> None:
        named = bool(self.runs) and all(isinstance(path, str) and path for path in self.runs)
        check(named, "run", "the folder of a run, or a list of them", self.run)

    @property
    def runs(self) -> list[str]:
        """The folders, each once."""
        return list(dict.fromkeys(self.run)) if isinstance(self.run, list) else [self.run]
