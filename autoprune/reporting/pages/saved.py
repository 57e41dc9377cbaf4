"""What a run folder has saved, read for its page; what it lacks is noted, with the reason, and the rest is shown."""

import importlib.metadata
import json
import platform
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from autoprune.errors import AutopruneError
from autoprune.records.plain import read_json
from autoprune.reporting.pages.page import Part, Section, Table, Text

# Of libraries that a result may depend on, as they are called where they are installed.
_LIBRARIES = ("autoprune", "keras", "tensorflow", "jax", "jaxlib", "libtpu", "torch", "numpy")
# What reading something that is not what it should be raises.
_UNREADABLE = (AutopruneError, ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)


class Saved:
    """The files of a run folder.

    Args:
        path: the folder.

    Attributes:
        path: the folder of the run.
        missing: what a page lacks, a sentence each.
        command: what made the folder, such as `search`; empty if that is not known.
        settings: the settings of the run as plain data; empty if they cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.missing: list[str] = []
        origin = self.load("run.json", "what the folder is a run of") or {}
        self.command = str(origin.get("command", ""))
        given = origin.get("settings")
        self.settings: Mapping[str, Any] = given or self.load("settings.json", "the settings") or {}

    def load(self, name: str, what: str, *, kind: type = dict) -> Any:
        """What a JSON file holds; None if there is none or it cannot be read, which is noted.

        Args:
            name: the file's name in the run folder.
            what: the page lacks without it.
            kind: what it should hold, for messages.
        """
        try:
            data = read_json(self.path / name)
        except FileNotFoundError:
            self.missing.append(f"There is no {name}: the page lacks {what}.")
        except (OSError, ValueError) as error:
            self.missing.append(f"{name} cannot be read, so the page lacks {what}: {error}")
        else:
            if isinstance(data, kind):
                return data
            self.missing.append(f"{name} holds something else, so the page lacks {what}.")
        return None

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Within the block, what cannot be made of what is saved is noted, and left out."""
        try:
            yield
        except _UNREADABLE as error:
            reason = str(error) if isinstance(error, AutopruneError) else f"{type(error).__name__}: {error}"
            self.missing.append(f"The page lacks {what}: what is saved does not give it ({reason}).")

    def sections(self, makers: Sequence[tuple[str, str, Callable[[], Sequence[Part]]]]) -> list[Section]:
        """Those sections that can be made, and that have something to show.

        Args:
            makers: key and title of each, and what makes its parts.
        """
        found = []
        for key, title, make in makers:
            with self.attempt(title[0].lower() + title[1:]):
                if parts := make():
                    found.append(Section(key=key, title=title, parts=parts))
        return found

    def origin_section(
        self, figures: Sequence[tuple[str, str]] = (), versions: Mapping[str, Any] | None = None
    ) -> Section:
        """How the run was made: the command that repeats it, versions, settings, and what is missing here.

        Args:
            figures: name and value of what else belongs here, such as seeds.
            versions: of the libraries; None leaves them out.
        """
        parts: list[Part] = []
        if command := self.repeat():
            parts += [Text(words=["This repeats it:"]), Text(words=[command], look="command")]
        elif self.command == "autoprune.prune()":
            words = "It was begun from Python, by autoprune.prune(model, data, settings=...) with the settings below."
            parts.append(Text(words=[words]))
        parts += [Text(words=self.missing, look="missing")] if self.missing else []
        if figures or versions:
            told = [*figures, *((name, str(version)) for name, version in (versions or {}).items())]
            parts.append(Table(columns=("", ""), rows=told))
        if self.settings:
            rows = [
                (name, json.dumps(value) if not isinstance(value, str) else value)
                for name, value in flat(self.settings)
            ]
            parts.append(Table(columns=("setting", "value"), rows=rows, folded="All settings"))
        return Section(key="origin", title="How it was made", parts=parts)

    def repeat(self) -> str:
        """The command that the run was begun with; empty for one from Python, or if that is not known."""
        try:
            given = OmegaConf.to_container(OmegaConf.load(self.path / ".hydra" / "overrides.yaml"))
        except (OSError, *_UNREADABLE):
            return ""
        if not isinstance(given, list) or not self.command.isidentifier():
            return ""
        # A path stands there in Hydra's quotes, which the command line need not have.
        typed = [re.sub(r"^([\w.]+=)'([^'\\]*)'$", r"\1\2", str(option)) for option in given]
        return shlex.join(["python", "-m", f"autoprune.{self.command}", *typed])


def library_versions() -> dict[str, str]:
    """Versions of Python and of what a result may depend on, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names and values."""
    rows: list[tuple[str, Any]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        rows += flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
    return rows
