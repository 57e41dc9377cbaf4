"""The folder that a run leaves behind: one run to a folder, and one process to a run."""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import platform
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from autoprune.errors import CORRUPT_ARCHIVE, FolderError, SettingsError
from autoprune.records.plain import read_json, write_json
from autoprune.reporting.tracking import Trackers
from autoprune.settings import from_config

if sys.platform != "win32":  # There nothing is locked.
    import fcntl

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


class RunFolder:
    """Names of everything in a run folder.

    Attributes:
        path: the folder; it exists.
        dense: the model before pruning.
        pruned: the result.
        plan: the plan of the result.
        policy: what the agent learnt.
        replayed: the policy that a replay began with.
        journal: every evaluation.
        measured: costs measured on this host, for the target `cpu`.
        report: the page.
        metrics: the figures of the page.
        network: layers, groups, branches and importance of the dense model.
        exports: what was exported of the result, and when.
        comparison: the figures of a comparison, also of one that is under way.
        comparison_report: the page of a comparison.
        finetuned: the result of a fine-tuning.
        curves: loss and accuracy of every epoch of a fine-tuning.
        training_step: what a training step takes, of a fine-tuning without steps.
        tensorboard: learning curves.
        tracked: the runs of other trackers, and what they were told.
        settings: the settings the run was begun with.
        origin: what made the folder, and from which files.
        lock: locked by the process that works in the folder, and says which that is.
        trackers: who are told of the run's figures.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dense = path / "dense.keras"
        self.pruned = path / "pruned.keras"
        self.plan = path / "plan.json"
        self.policy = path / "policy"
        self.replayed = path / "replayed_policy"
        self.journal = path / "evaluations.sqlite"
        self.measured = path / "measured.sqlite"
        self.report = path / "report.html"
        self.metrics = path / "metrics.json"
        self.network = path / "network.json"
        self.exports = path / "exports.json"
        self.comparison = path / "comparison.json"
        self.comparison_report = path / "comparison.html"
        self.finetuned = path / "finetuned.keras"
        self.curves = path / "curves.json"
        self.training_step = path / "training_step.json"
        self.tensorboard = path / "tensorboard"
        self.tracked = path / "trackers.json"
        self.settings = path / "settings.json"
        self.origin = path / "run.json"
        self.lock = path / ".lock"
        self.trackers = Trackers(self.tensorboard, self.tracked)

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

    @contextmanager
    def hold(self) -> Iterator[None]:
        """The folder is this process's within the block. The lock ends with the process, however that ends.

        Where there are no such locks, nobody is kept out.

        Raises:
            FolderError: it is another's, or another block's of this process.
        """
        with open(self.lock, "a+") as file:
            try:
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                try:
                    file.seek(0)
                    by = json.load(file)
                    holder = f"process {by['process']} on {by['host']}, since {by['since']},"
                except (OSError, ValueError, KeyError, TypeError):
                    holder = "another process"
                raise FolderError(
                    f"'{self.path}' is in use: {holder} works there. Wait until it has ended, or take another "
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

    def load_settings(self, schema: type[S], anew: Mapping[str, Any] | None = None) -> S:
        """The settings that the run was begun with.

        Args:
            schema: class of the command's settings.
            anew: options that take the place of the folder's.

        Raises:
            SettingsError: there are none, they cannot be read, or what is given anew does not go with them.
        """
        config = OmegaConf.create(read_settings(self.path))
        for name, value in (anew or {}).items():
            OmegaConf.update(config, name, value, merge=False)
        return from_config(config, schema)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings that the run of a folder was begun with, as plain data.

    Raises:
        SettingsError: there are none, or they cannot be read.
    """
    try:
        data = read_json(folder / "settings.json")
    except (OSError, ValueError) as error:
        raise SettingsError(f"'{folder}' is no run folder whose settings can be read: {error}") from error
    if not isinstance(data, dict):
        raise SettingsError(f"'{folder}' is no run folder whose settings can be read: they are {str(data)[:60]!r}")
    return data


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
    """Fingerprints, of 16 hexadecimal digits, of the files that settings name, as far as they exist.

    Archives (`.keras`, `.npz`) have a checksum of each of their parts, which is read instead of the parts. Folders of
    images are not looked into.

    Args:
        settings: with absolute paths, as plain data.
    """
    found: dict[str, str] = {}
    for *parts, name in (*PATHS, ("model", "weights")):
        part = settings
        for key in parts:
            part = part.get(key) or {}
        named = part.get(name) or []
        for path in map(Path, [named] if isinstance(named, str) else named):
            within = [path / one for one in _READ] + [path / "policy" / one for one in _READ]
            for file in [path] if path.is_file() else within:
                if not file.is_file():
                    continue
                try:
                    with zipfile.ZipFile(file) as archive:
                        sums = {one.filename: one.CRC for one in archive.infolist()}
                    sums.pop("metadata.json", None)  # Has the date: a model that is saved again is still the same.
                    content = json.dumps(sorted(sums.items()))
                    found[str(file)] = hashlib.sha256(content.encode()).hexdigest()[:16]
                except CORRUPT_ARCHIVE:
                    with open(file, "rb") as opened:
                        found[str(file)] = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
    return found


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
