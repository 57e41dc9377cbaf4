"""`python -m autoprune.report`: the page of a run, from what its folder has saved, or one page of several runs."""

import sys

from autoprune import cli

if __name__ == "__main__":
    # Options are checked before the imports below, which take seconds.
    sys.exit(cli.run_command("report"))

import hydra
from omegaconf import DictConfig

from autoprune.pipeline.report import run
from autoprune.resuming import open_run
from autoprune.settings import ReportSettings


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="report")
@cli.exit_on_error
def main(config: DictConfig) -> None:
    """The command."""
    with open_run(config, ReportSettings, "report") as (settings, folder):
        run(settings, folder.path)
