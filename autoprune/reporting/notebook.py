"""Progress in a notebook: a line in the cell's output that is written anew, without widgets."""

import io
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress

_EVERY = 0.5  # Seconds between two versions of the line: each is a message from the kernel.


class NotebookProgress(Progress):
    """As its base class, in a notebook.

    Rich itself would need `ipywidgets`, of which a notebook that is read later, or was run by a program, shows nothing.
    """

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **{**options, "auto_refresh": False, "disable": False})
        self._output: Any = None
        self._shown = -_EVERY

    def start(self) -> None:
        """Show nothing yet: there is no task."""

    def stop(self) -> None:
        """Show how it ended; nothing of what never began."""
        if not self.live.transient:
            self.refresh()

    def update(self, *arguments: Any, **fields: Any) -> None:
        """Set fields of a task, and show them now and then."""
        super().update(*arguments, **fields)
        if self.finished or time.monotonic() - self._shown >= _EVERY:
            self.refresh()

    def refresh(self) -> None:
        """Show the tasks as they are."""
        # Imported here: only a notebook has it.
        from IPython.display import display

        text = io.StringIO()
        Console(file=text, width=self.console.width, force_jupyter=False, color_system=None).print(
            self.get_renderable()
        )
        line = {"text/plain": text.getvalue().rstrip()}
        if self._output is None:
            self._output = display(line, raw=True, display_id=True)
        else:
            self._output.update(line, raw=True)
        self._shown = time.monotonic()
