"""A policy learnt elsewhere prunes a new model, as it is or after adapting.

The new model may have another depth, topology or input size, and the target another chip: the features that a policy
reads mean the same for all.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from autoprune.data import load_data
from autoprune.envs import ENV_ID
from autoprune.envs.episode import FEATURES
from autoprune.pipeline.result import SearchResult
from autoprune.pipeline.search import run_search
from autoprune.pipeline.session import load_or_train_dense, searcher_builder, validate_choices
from autoprune.reporting.run_folder import RunFolder
from autoprune.searchers.policy import load_policy, save_policy
from autoprune.settings import ReplaySettings, SearcherSettings

logger = logging.getLogger(__name__)


def run(settings: ReplaySettings, folder: RunFolder) -> SearchResult:
    """The whole command: policy, data and base model, then a search by the policy, and one from scratch if asked for.

    Raises:
        AutopruneError: policy, model, data, target or budget cannot be used; the message says which and why.
    """
    # Imported here: torch takes seconds.
    from autoprune.rl.agents import settings_of
    from autoprune.rl.transfer import PolicyTransfer

    given = None if folder.replayed.exists() else settings.policy
    policy = load_policy(given or folder.replayed, FEATURES, ENV_ID)
    searching = settings.search_settings()
    if settings.replay.evaluations or settings.replay.scratch:
        searching = replace(searching, agent=settings_of(policy, searching.agent))
    from_scratch = replace(searching, searcher=SearcherSettings("rl"))
    validate_choices(from_scratch)
    save_policy(policy, folder.replayed)
    logger.info("policy: %s", describe_policy(policy.record))
    data = load_data(settings.data, settings.model, settings.task)
    model = load_or_train_dense(searching, data, folder)
    builders = {"rl": searcher_builder(from_scratch)} if settings.replay.scratch else {}
    builders["replay"] = partial(PolicyTransfer, replayed=policy, seed=searching.seed, settings=searching.agent)
    if not folder.report.exists():  # A replay that had ended keeps what it learnt until there is more.
        save_policy(policy, folder.policy)
    return run_search(model, data, replace(searching, searcher=SearcherSettings("replay")), folder, builders)


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
