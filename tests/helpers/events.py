"""What TensorBoard reads of a folder."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autoprune.reporting.tracking import Trackers


def trackers_in(folder):
    """Trackers of which TensorBoard's files are in a folder, and no others."""
    return Trackers(folder, folder / "trackers.json")


def curves_in(folder):
    """For each tag the steps and values in the files of a folder, repeats included."""
    events = EventAccumulator(str(folder), purge_orphaned_data=False)
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
