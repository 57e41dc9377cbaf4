"""`python -m autoprune.replay`: a policy learnt elsewhere prunes a new model, as it is or after adapting."""

import sys

from autoprune import cli

if __name__ == "__main__":
    # Options are checked before the imports below, which take seconds.
    sys.exit(cli.run_command("replay"))

import hydra
from omegaconf import DictConfig

from autoprune.pipeline.replay import run
from autoprune.pipeline.search import show
from autoprune.resuming import run_or_resume
from autoprune.settings import ReplaySettings


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="replay")
@cli.exit_on_error
def main(config: DictConfig) -> None:
    """The command."""
    if done := run_or_resume(config, ReplaySettings, "replay", run):
        show(done.result, done.folder)
