"""`python -m autoprune.learn`: one policy from several networks and budgets, for `python -m autoprune.replay`."""

import sys

from autoprune import cli

if __name__ == "__main__":
    # Options are checked before the imports below, which take seconds.
    sys.exit(cli.run_command("learn"))

import hydra
from omegaconf import DictConfig

from autoprune.pipeline.learn import run, show
from autoprune.resuming import run_or_resume
from autoprune.settings import LearnSettings


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="learn")
@cli.exit_on_error
def main(config: DictConfig) -> None:
    """The command."""
    if done := run_or_resume(config, LearnSettings, "learn", run):
        show(done.settings, done.result, done.folder)
