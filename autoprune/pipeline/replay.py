"""A policy learnt elsewhere prunes a new model, as it is or after adapting.

The new model may have another depth, topology or input size, and the target another chip: the features that a policy
reads mean the same for all.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoprune.data import Dataset, load_data
from autoprune.envs import ENV_ID
from autoprune.envs.episode import FEATURES
from autoprune.pipeline.result import SearchResult
from autoprune.pipeline.search import run_search
from autoprune.pipeline.session import load_or_train_dense, searcher_builder, validate_choices
from autoprune.reporting.run_folder import RunFolder
from autoprune.searchers import BudgetedEvaluator, Problem
from autoprune.searchers.policy import Policy, load_policy, save_policy
from autoprune.searchers.searcher import Log
from autoprune.settings import ReplaySettings, SearcherSettings, SearchSettings

logger = logging.getLogger(__name__)


def run(settings: ReplaySettings, folder: RunFolder) -> SearchResult:
    """The whole command: policy, data and base model, then `replay_model`.

    Raises:
        AutopruneError: policy, model, data, target or budget cannot be used; the message says which and why.
    """
    # Imported here: torch takes seconds.
    from autoprune.rl.agents import settings_of

    given = None if folder.replayed.exists() else settings.policy
    policy = load_policy(given or folder.replayed, FEATURES, ENV_ID)
    searching = settings.search_settings()
    if settings.replay.evaluations or settings.replay.scratch:
        searching = replace(searching, agent=settings_of(policy, searching.agent))
    validate_choices(replace(searching, searcher=SearcherSettings("rl")))
    save_policy(policy, folder.replayed)
    logger.info("policy: %s", describe_policy(policy.record))
    data = load_data(settings.data, settings.model, settings.task)
    model = load_or_train_dense(searching, data, folder)
    return replay_model(policy, model, data, searching, folder, scratch=settings.replay.scratch)


def replay_model(
    policy: Policy, model: Any, data: Dataset, settings: SearchSettings, folder: RunFolder, *, scratch: bool = False
) -> SearchResult:
    """Replay a policy on a model, apply the plan in place, fine-tune, and write the run folder.

    Args:
        policy: a loaded one.
        model: a built classifier; it is changed.
        data: its data.
        settings: of a search; its evaluations but one go to adapting the policy.
        folder: the run folder.
        scratch: also search from scratch with as many evaluations.

    Raises:
        AutopruneError: as `autoprune.pipeline.search.search_model`.
    """
    # Imported here: torch takes seconds.
    from autoprune.rl.transfer import PolicyTransfer

    settings = replace(settings, searcher=SearcherSettings("replay"))

    def build_transfer(problem: Problem, evaluator: BudgetedEvaluator, *, log: Log | None = None) -> PolicyTransfer:
        return PolicyTransfer(problem, evaluator, policy, seed=settings.seed, settings=settings.agent, log=log)

    builders = {"rl": searcher_builder(replace(settings, searcher=SearcherSettings("rl")))} if scratch else {}
    if not folder.report.exists():  # A replay that had ended keeps what it learnt until there is more.
        save_policy(policy, folder.policy)
    return run_search(model, data, settings, folder, {**builders, "replay": build_transfer})


def describe_policy(record: Mapping[str, Any]) -> str:
    """Where a policy comes from, in a line; what its record does not say is left out."""
    models, target = record.get("models"), record.get("target")
    parts = [
        f"agent {record['agent']}" if "agent" in record else "",
        f"learnt on {', '.join(map(str, models))}" if isinstance(models, list) else "",
        f"with {record['data']}" if "data" in record else "",
        f"for {target['name']} at batch {target['batch_size']}"
        if isinstance(target, Mapping) and {"name", "batch_size"} <= target.keys()
        else "",
        f"in {record['evaluations']} evaluations of each problem" if "evaluations" in record else "",
    ]
    return ", ".join(part for part in parts if part) or "nothing is known of its training"
