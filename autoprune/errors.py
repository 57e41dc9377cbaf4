"""Every exception that autoprune raises on purpose.

A message says what was expected, what came, and what to do next. The commands print the message of an
`AutopruneError` without a traceback; anything else is a defect and keeps its traceback.
"""

import re
import zipfile
import zlib
from concurrent.futures import Future
from typing import Any

# Whatever `zipfile`, and what reads the parts, raises over an archive that is damaged or something else.
CORRUPT_ARCHIVE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    AttributeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_ESCAPE_CODES = re.compile("\x1b\\[[0-9;]*[A-Za-z]")


def words_of(error: BaseException, limit: int = 600) -> str:
    """What an error of another library says, to be quoted: its first characters, without escape codes."""
    return without_escape_codes(str(error)).strip()[:limit]


def without_escape_codes(text: str) -> str:
    """The text without the codes that make a terminal show parts of it bold: Keras puts them into its errors."""
    return _ESCAPE_CODES.sub("", text)


def future_of(error: BaseException) -> Future[Any]:
    """A future that has failed with this error: what is refused at once is answered as what fails later."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


class AutopruneError(Exception):
    """Root of the tree: catch it to catch everything autoprune raises on purpose."""


class SettingsError(AutopruneError):
    """An option is unknown, or its value cannot be used."""


class UnknownNameError(SettingsError):
    """A name is not in the table that was asked; the message suggests near ones."""


class FolderError(AutopruneError):
    """A run folder is in use by another process, or holds another run."""


class ModelError(AutopruneError):
    """A model is missing, cannot be read, or cannot be pruned."""


class ExportError(AutopruneError):
    """A model cannot be written in a format, or what was written gives other outputs."""


class DataError(AutopruneError):
    """A data set is missing, cannot be read, or does not fit the model."""


class PlanError(AutopruneError):
    """A plan is malformed, or belongs to another model."""


class PolicyError(AutopruneError):
    """A stored policy is malformed, or its features are not those of this version."""


class BudgetError(AutopruneError):
    """No plan can meet the budget."""


class SignalError(AutopruneError):
    """Every plan is paid the same: there is nothing to learn from, and nothing to choose by."""


class TargetError(AutopruneError):
    """A target is unknown or cannot be used on this machine."""


class CostError(AutopruneError):
    """The cost of one model could not be determined."""


class RouteError(CostError):
    """A model cannot be brought to the compiler by this route; another may lead there."""


class DoesNotFitError(CostError):
    """A model needs more device memory than the target has.

    Attributes:
        needed: bytes that the compiler asked for.
        available: bytes that the device has.
    """

    def __init__(self, message: str, needed: float, available: float) -> None:
        super().__init__(message)
        self.needed = needed
        self.available = available


class JournalError(AutopruneError):
    """A journal is corrupt, or belongs to another search."""


class ScoringError(AutopruneError):
    """A plan could not be scored: memory ran out, or its model ended every process that tried."""


class WorkerError(AutopruneError):
    """A process that scores plans could not get ready."""
