"""`python -m autoprune.export`: a result in the formats that other programs read, each checked against the model."""

import sys

from autoprune import cli

if __name__ == "__main__":
    # Options are checked before the imports below, which take seconds.
    sys.exit(cli.run_command("export"))

import hydra
from omegaconf import DictConfig

from autoprune.pipeline.export import run
from autoprune.resuming import open_run
from autoprune.settings import ExportSettings


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="export")
@cli.exit_on_error
def main(config: DictConfig) -> None:
    """The command."""
    with open_run(config, ExportSettings, "export") as (settings, folder):
        run(settings, folder.path)
