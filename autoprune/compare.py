"""`python -m autoprune.compare`: do searches find better plans than keep ratios set by hand, and which of them does?"""

import sys

from autoprune import cli

if __name__ == "__main__":
    # Options are checked before the imports below, which take seconds.
    sys.exit(cli.run_command("compare"))

import hydra
from omegaconf import DictConfig

from autoprune.pipeline.compare import is_finished, run, show
from autoprune.resuming import run_or_resume
from autoprune.settings import CompareSettings


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="compare")
@cli.exit_on_error
def main(config: DictConfig) -> None:
    """The command."""
    if done := run_or_resume(config, CompareSettings, "compare", run, finished=is_finished):
        show(done.settings, done.result, done.folder)
