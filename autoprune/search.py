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

from autoprune.data import load_data
from autoprune.pipeline.search import SearchResult, search_model
from autoprune.pipeline.session import load_or_train_dense, validate_choices
from autoprune.reporting.console import CONSOLE
from autoprune.reporting.outcome import result_rows
from autoprune.reporting.run_folder import RunFolder
from autoprune.reporting.tables import result_table
from autoprune.resuming import run_or_resume
from autoprune.settings import SearchSettings


def run(settings: SearchSettings, folder: RunFolder) -> SearchResult:
    """The whole command: data and base model, then `search_model`."""
    validate_choices(settings)
    data = load_data(settings.data, settings.model)
    return search_model(load_or_train_dense(settings, data, folder), data, settings, folder)


@hydra.main(version_base="1.3", config_path="pkg://autoprune.conf", config_name="search")
@cli.exit_on_error
def main(config: DictConfig) -> None:
    """The command."""
    if done := run_or_resume(config, SearchSettings, "search", run):
        show_result(done.result, done.folder)


def show_result(result: SearchResult, folder: RunFolder) -> None:
    """Print the table, and where the model and the report are."""
    CONSOLE.print(result_table(result_rows(result.finished)))
    kept = "the uniform plan" if result.kept.name == "uniform" else f"the plan of {result.kept.name}"
    same = [done.name for done in result.finished[1:] if done.evaluation.key == result.kept.evaluation.key]
    if len(same) > 1 and "uniform" in same:
        kept = f"the searched plan is the uniform plan, found by {' and '.join(same)}"
    CONSOLE.print(f"Model: {folder.pruned} ({kept})\nReport: {folder.report}", soft_wrap=True, highlight=False)
