"""`python -m autoprune.search`: from a model and a budget to a smaller model, with the evidence.

`autoprune.prune(model, data, ...)` does the same from Python.
"""

import sys

from autoprune import cli

if __name__ == "__main__":
    # Options are checked before the imports below, which take seconds.
    sys.exit(cli.run_command("search"))

import hydra
from omegaconf import DictConfig

from autoprune.pipeline.search import run, show
from autoprune.resuming import run_or_resume
from autoprune.settings import SearchSettings


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="search")
@cli.exit_on_error
def main(config: DictConfig) -> float | None:
    """The command.

    Returns:
        for a sweeper that optimises, accuracy of the saved model on the reward split; None of a search that had ended.
    """
    if done := run_or_resume(config, SearchSettings, "search", run):
        show(done.result, done.folder)
        return done.result.kept.reward_accuracy
    return None
