"""`python -m autoprune.finetune`: fine-tunes the result of a search, or a model of a file, on cpu, gpu or TPU."""

import sys

from autoprune import cli

if __name__ == "__main__":
    # Options are checked before the imports below, which take seconds.
    sys.exit(cli.run_command("finetune"))

import functools

import hydra
from omegaconf import DictConfig

from autoprune.pipeline.finetune import complete_settings, run, show
from autoprune.resuming import run_or_resume
from autoprune.settings import FinetuneSettings


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="finetune")
@cli.exit_on_error
def main(config: DictConfig) -> None:
    """The command."""
    said = [override.lstrip("+~").split("=")[0] for override in cli.overrides()]
    complete = functools.partial(complete_settings, said=said)
    done = run_or_resume(config, FinetuneSettings, "finetune", run, complete=complete)
    if done is not None and done.result is not None:  # Neither finished already nor a dry run.
        show(done.result, done.folder)
