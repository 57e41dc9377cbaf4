"""The folder that a run leaves behind: one run to a folder, and one process to a run."""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import platform
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from omegaconf import OmegaConf

from autoprune.errors import FolderError, SettingsError
from autoprune.settings import SearchSettings, from_config

try:
    import fcntl
except ImportError:  # On Windows nothing is locked.
    fcntl = None

logger = logging.getLogger(__name__)

S = TypeVar("S")  # Settings of a command.
# Of settings, what is a path, or several.
PATHS = (
    *(("model", "path"), ("data", "path"), ("data", "dir")),
    *(("policy",), ("run",), ("plan",), ("teacher",)),
)
# Of a run that another one takes up, what is read; of a policy's folder, what it consists of.
_READ = ("pruned.keras", "finetuned.keras", "actor.safetensors", "policy.json")
_SHOWN = 8  # Settings that a refusal names.


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

    @classmethod
    def make_new(cls, path: str | Path) -> "RunFolder":
        """A folder that nobody had before: where there is one of that name already, `-2` is added to it, or `-3`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
        for candidate in itertools.chain([path], numbered):
            with suppress(FileExistsError):
                candidate.mkdir()
                break
        return cls(candidate)

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

    @property
    def origin(self) -> Path:
        """What made the folder, and from which files."""
        return self.path / "run.json"

    @property
    def lock(self) -> Path:
        """Locked by the process that works in the folder, and says which that is."""
        return self.path / ".lock"

    @contextmanager
    def hold(self) -> Iterator[None]:
        """The folder is this process's within the block. The lock ends with the process, however that ends.

        Where there are no such locks, nobody is kept out.

        Raises:
            FolderError: it is another's, or another block's of this process.
        """
        with open(self.lock, "a+") as file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FolderError(
                    f"'{self.path}' is in use: {_holder(file)} works there. Wait until it has ended, or take another "
                    "folder; without one that is named, a run makes its own."
                ) from error
            except OSError as error:
                logger.warning("'%s' cannot be locked (%s): start nothing else there", self.path, error)
            file.truncate(0)
            json.dump({"process": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T")}, file)
            file.flush()
            yield

    def save_settings(self, settings: Any) -> None:
        """Write the settings of a command, so that the run can be resumed, from any folder: paths become absolute."""
        write_json(self.settings, absolute_settings(settings))

    def load_settings(self, schema: type[S] = SearchSettings, anew: Mapping[str, Any] | None = None) -> S:
        """The settings that the run was begun with.

        Args:
            schema: class of the command's settings.
            anew: options that take the place of the folder's.

        Raises:
            SettingsError: there are none, they cannot be read, or what is given anew does not go with them.
        """
        try:
            data = json.loads(self.settings.read_text())
        except (OSError, ValueError) as error:
            raise SettingsError(f"'{self.path}' is not a run folder that can be resumed: {error}") from error
        config = OmegaConf.create(data)
        for name, value in (anew or {}).items():
            OmegaConf.update(config, name, value, merge=False)
        return from_config(config, schema)


def absolute_settings(settings: Any) -> dict[str, Any]:
    """The settings of a command as plain data, with absolute paths."""
    data = json.loads(json.dumps(dataclasses.asdict(settings)))
    for *parts, name in PATHS:
        part = data
        for key in parts:
            part = part.get(key) or {}
        paths = part.get(name)
        if isinstance(paths, list):
            part[name] = [str(Path(path).absolute()) for path in paths]
        elif isinstance(paths, str):
            part[name] = str(Path(paths).absolute())
    return data


def read_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of the files that settings name, as far as they exist.

    Archives (`.keras`, `.npz`) have a checksum of each of their parts, which is read instead of the parts. Folders of
    images are not looked into.

    Args:
        settings: with absolute paths, as plain data.
    """
    found = {}
    for *parts, name in (*PATHS, ("model", "weights")):
        part = settings
        for key in parts:
            part = part.get(key) or {}
        named = part.get(name) or []
        for path in map(Path, [named] if isinstance(named, str) else named):
            within = [path / one for one in _READ] + [path / "policy" / one for one in _READ]
            files = [path] if path.is_file() else [file for file in within if file.is_file()]
            found |= {str(file): _file_fingerprint(file) for file in files}
    return found


def _file_fingerprint(path: Path) -> str:
    """Hash of a file's content. 16 hexadecimal digits."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # Keras notes the date in one part: a model that is saved again is still the same.
            parts = [(one.filename, one.CRC) for one in archive.infolist() if one.filename != "metadata.json"]
        return hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()[:16]
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between nested plain data, by its dotted name: as it is there, and as it is here."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**there, **here}:
        one, other = there.get(name), here.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= {f"{name}.{key}": pair for key, pair in differences(one, other).items()}
        elif one != other:
            found[name] = (one, other)
    return found


def describe_differences(found: Mapping[str, tuple[Any, Any]]) -> str:
    """The differences in a line; of many the first."""
    told = [f"{name} is {json.dumps(there)} there, {json.dumps(here)} here" for name, (there, here) in found.items()]
    more = [f"and {len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    return "; ".join([*told[:_SHOWN], *more])


def _holder(file: IO[str]) -> str:
    """Who has locked the folder, by what is written in its lock."""
    try:
        file.seek(0)
        holder = json.load(file)
        return f"process {holder['process']} on {holder['host']}, since {holder['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def write_json(path: Path, data: Any) -> None:
    """Write JSON to a file that appears whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all: a run that has its report is taken to be finished."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
