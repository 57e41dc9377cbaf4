"""A result in the formats that other programs read, each checked against the model."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from autoprune.errors import ExportError, ModelError
from autoprune.models.exporting import Exported, export_model, random_examples
from autoprune.models.exporting.formats import FORMATS, check_libraries
from autoprune.models.files import load_model
from autoprune.pipeline.report import rebuild_page
from autoprune.records.plain import read_json, write_json
from autoprune.reporting.console import CONSOLE
from autoprune.reporting.run_folder import RunFolder, read_settings
from autoprune.reporting.tables import byte_count
from autoprune.settings import ExportSettings, ModelSettings, from_config

FORMAT = "autoprune.exports"
VERSION = 1

logger = logging.getLogger(__name__)

# What a run folder may hold, the last stage first.
_RESULTS = ("finetuned.keras", "pruned.keras")


def run(settings: ExportSettings, folder: Path) -> dict[str, Exported | ExportError]:
    """Load the model, write it in every format that was asked for, and show the table.

    Returns:
        For each format what was written, or why nothing was.

    Raises:
        ExportError: a format failed; the others are written.
        ModelError: there is no such model.
        SettingsError: a library that a format needs is missing.
    """
    for name in settings.formats:
        check_libraries(FORMATS.get(name))
    path, loading = Path(settings.model.path or ""), settings.model
    if settings.run is not None:
        path = result_of(Path(settings.run))
        if settings.model == ModelSettings("file") and Path(settings.run, "settings.json").is_file():
            # As the run loaded its own.
            loading = from_config(OmegaConf.create(read_settings(Path(settings.run)).get("model", {})), ModelSettings)
    model = load_model(path, loading)
    examples = random_examples(model, settings.input_shape)
    rows: dict[str, Exported | ExportError] = {}
    for name in dict.fromkeys(settings.formats):
        try:
            rows |= export_model(model, folder, [name], examples=examples, tolerance=settings.tolerance)
        except ExportError as error:
            rows[name] = error
    caption = "Difference: the largest between an output and the Keras model's, as a share of the largest output."
    table = Table(title=str(path), caption=caption, caption_justify="left")
    table.add_column("format")
    table.add_column("file", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("difference", justify="right")
    formats: list[dict[str, Any]] = []
    for name, row in rows.items():
        if isinstance(row, ExportError):
            formats.append({"format": name, "error": str(row)})
            table.add_row(name, f"failed: {row}", "-", "-")
        else:
            formats.append({**dataclasses.asdict(row), "path": row.path.name})
            share = row.difference / row.largest if row.largest else 0.0
            table.add_row(name, str(row.path), byte_count(row.bytes), f"{share:.1e}")
    write_json(folder / "export.json", {"model": str(path), "formats": formats})
    if settings.run is not None:
        note_export(RunFolder(Path(settings.run)), folder, formats)
    CONSOLE.print(table)
    failed = [row for row in rows.values() if isinstance(row, ExportError)]
    if failed:
        raise failed[0]
    return rows


def note_export(run: RunFolder, folder: Path, formats: Sequence[Mapping[str, Any]]) -> None:
    """Add an export to those that a run's folder knows of, and to its page if it has one.

    Args:
        run: whose result was exported.
        folder: where the files are.
        formats: what was written, as in `export.json`.
    """
    known: list[Any] = []
    if run.exports.exists():
        with suppress(OSError, ValueError):  # What is damaged is begun anew: it only lists what is elsewhere.
            known = read_json(run.exports)["exports"]
    entry = {"when": time.strftime("%Y-%m-%d %H:%M"), "folder": str(folder.absolute()), "formats": list(formats)}
    try:
        write_json(run.exports, {"format": FORMAT, "version": VERSION, "exports": [*known, entry]})
        rebuild_page(run.path)
    except OSError as error:  # The files are written, and that is what was asked for.
        logger.warning("the export is not noted in '%s': %s", run.path, error)


def result_of(folder: Path) -> Path:
    """The model that a run ended with.

    Raises:
        ModelError: it has none.
    """
    for name in _RESULTS:
        if (folder / name).is_file():
            return folder / name
    about = "has none of them: was the run interrupted?" if folder.is_dir() else "is no folder."
    raise ModelError(f"A run folder holds {' or '.join(_RESULTS)}. '{folder}' {about}")
