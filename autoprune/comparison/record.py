"""What a comparison has done so far, kept as it comes: a killed comparison goes on, and nothing is done twice."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.comparison.cells import Run
from autoprune.comparison.matching import LATENCY, Match
from autoprune.errors import JournalError
from autoprune.evaluation.journal import evaluation_to_json
from autoprune.records import Evaluation
from autoprune.records.plain import from_plain
from autoprune.training.finishing import Finished

FORMAT = "autoprune.comparison"
VERSION = 2

AS_IT_IS, FINE_TUNED, FROM_SCRATCH = "as it is", "fine-tuned", "from scratch"


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """A plan that was finished and tested, once.

    Attributes:
        key: hash of the plan, as `Evaluation.key`.
        recipe: `as it is`, `fine-tuned` or `from scratch`.
        seed: of the training; None where there was none.
        test_accuracy: on the test split.
        reward_accuracy: on the reward split, which chose the best epoch.
        latency: of the finished model, in seconds per batch.
        memory: bytes of device memory; None where the target cannot tell.
        flops: per batch.
        parameters: number of parameters that the finished model has.
        epochs: of the training that chose the weights; 0 where there was none, or where it diverged.
    """

    key: str
    recipe: str
    seed: int | None
    test_accuracy: float
    reward_accuracy: float
    latency: float
    memory: int | None
    flops: int
    parameters: int
    epochs: int

    @classmethod
    def of(cls, finished: Finished, recipe: str, seed: int | None) -> "PlanResult":
        """What is kept of a finished model."""
        cost = finished.cost
        return cls(
            key=finished.evaluation.key,
            recipe=recipe,
            seed=seed,
            test_accuracy=finished.test_accuracy,
            reward_accuracy=finished.reward_accuracy,
            latency=cost.latency,
            memory=cost.memory.total,
            flops=cost.flops,
            parameters=cost.parameters,
            epochs=finished.training.epochs,
        )

    @property
    def name(self) -> str:
        """Under which it is remembered."""
        return result_name(self.key, self.recipe, self.seed)

    def taken(self, kind: str) -> float:
        """Latency in seconds or memory in bytes, by the kind's name.

        Raises:
            ValueError: the memory is asked for, and the target cannot tell it.
        """
        if kind == LATENCY:
            return self.latency
        if self.memory is None:
            raise ValueError(f"it is not known what memory '{self.name}' takes")
        return self.memory


def result_name(key: str, recipe: str, seed: int | None) -> str:
    """The name of a plan finished by a recipe with a seed: searchers that found the same plan share the result."""
    return f"{key}/{recipe}" + ("" if seed is None else f"/{seed}")


class Record:
    """Everything that a comparison has done. Whoever changes something saves it: all of it is written anew.

    Args:
        about: settings, target and whatever else says what is compared; plain data.
        write: takes the whole record as plain data, and keeps it.
        stored: what was written before; None to begin with.

    Attributes:
        dense: the evaluation of the dense model, once it is known.
        anchors: for each budget the largest flat keep ratio within it.
        runs: by cell name.
        matches: for each searched cell by name the hand-set plans that stand against what was chosen of its finalists.
        curve: evaluations of the uniform plans for the curve.
        taught_by: hand-set rules whose costs every search knows from the beginning.
        tested: every finished plan, by name.
        seconds: wall time of all earlier processes together.
        conclusions: what follows from all of it, as plain data; None until the comparison has ended.

    Raises:
        JournalError: what was stored is of another format or version, or malformed.
    """

    def __init__(
        self,
        about: Mapping[str, Any],
        write: Callable[[Mapping[str, Any]], None],
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        self._about = about
        self._write = write
        self.conclusions: Mapping[str, Any] | None = None
        stored = stored or {"format": FORMAT, "version": VERSION}
        marks = (stored.get("format"), stored.get("version")) if isinstance(stored, Mapping) else (None, None)
        if marks != (FORMAT, VERSION):
            raise JournalError(
                f"Expected a comparison of version {VERSION}. Received: format={marks[0]!r}, version={marks[1]!r}. "
                "Move it away to start anew."
            )
        try:
            self.dense: Evaluation | None = None
            if stored.get("dense"):
                self.dense = from_plain(Evaluation, stored["dense"])
            self.anchors: dict[str, float] = dict(stored.get("anchors", {}))
            self.runs = {name: from_plain(Run, data) for name, data in stored.get("runs", {}).items()}
            self.matches = {
                name: tuple(from_plain(Match, match) for match in data)
                for name, data in stored.get("matches", {}).items()
            }
            self.curve = [from_plain(Evaluation, data) for data in stored.get("curve", [])]
            self.taught_by: list[str] = list(stored.get("taught_by", []))
            self.tested = {name: from_plain(PlanResult, data) for name, data in stored.get("tested", {}).items()}
            self.seconds: float = stored.get("seconds", 0.0)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise JournalError(
                f"The comparison is malformed: {type(error).__name__}: {error}. Move it away to start anew."
            ) from error

    @property
    def required_dense(self) -> Evaluation:
        """`dense`, once it is known.

        Raises:
            ValueError: it is not.
        """
        if self.dense is None:
            raise ValueError("the dense model has not been evaluated")
        return self.dense

    def save(self) -> None:
        """Write everything."""
        self._write(
            {
                "format": FORMAT,
                "version": VERSION,
                "ended": self.conclusions is not None,
                **self._about,
                "dense": None if self.dense is None else evaluation_to_json(self.dense),
                "anchors": self.anchors,
                "taught_by": self.taught_by,
                **(self.conclusions or {}),
                "runs": {name: run.to_json() for name, run in self.runs.items()},
                "matches": {name: [match.to_json() for match in matches] for name, matches in self.matches.items()},
                "curve": [evaluation_to_json(evaluation) for evaluation in self.curve],
                "tested": {name: dataclasses.asdict(done) for name, done in self.tested.items()},
                "seconds": self.seconds,
            }
        )

    def add_tested(self, tested: PlanResult) -> None:
        """Keep a finished plan."""
        self.tested[tested.name] = tested
        self.save()

    def find(self, key: str, recipe: str, seed: int | None) -> PlanResult | None:
        """A plan as it was finished by a recipe with a seed, if it was."""
        return self.tested.get(result_name(key, recipe, seed))

    def require(self, key: str, recipe: str, seed: int | None) -> PlanResult:
        """As `find`, of a plan that was finished.

        Raises:
            KeyError: it was not.
        """
        return self.tested[result_name(key, recipe, seed)]
