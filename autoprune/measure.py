"""`python -m autoprune.measure`: what a model costs on one target, or on every TPU generation."""

import sys

from autoprune import cli

if __name__ == "__main__":
    # Options are checked before the imports below, which take seconds.
    sys.exit(cli.run_command("measure"))

import hydra
from omegaconf import DictConfig

from autoprune.pipeline.measure import run
from autoprune.resuming import open_run
from autoprune.settings import MeasureSettings


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="measure")
@cli.exit_on_error
def main(config: DictConfig) -> None:
    """The command."""
    with open_run(config, MeasureSettings, "measure") as (settings, folder):
        run(settings, folder.path)
