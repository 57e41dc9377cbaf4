"""What a model is for: classes, masks, labels or numbers; losses and quality follow from it.

`make_task` reads settings, a `Judge` is a task as one model carries it out.
"""

from autoprune.tasks.judge import Judge, add_teacher
from autoprune.tasks.task import CLASSIFICATION, Task, make_task

__all__ = ["CLASSIFICATION", "Judge", "Task", "add_teacher", "make_task"]
