"""A run folder as a search leaves it, made in a second."""

import keras

from autoprune.data import load_data
from autoprune.models import zoo
from autoprune.models.files import save_model
from autoprune.planning import make_plan
from autoprune.planning.plan_file import save_plan
from autoprune.reporting.run_folder import RunFolder
from autoprune.settings import DataSettings, ModelSettings, SearchSettings, TrainingSettings
from autoprune.surgery import apply_plan
from autoprune.training import train

SETTINGS = SearchSettings(
    model=ModelSettings("plain_cnn", width=0.25),
    data=DataSettings(reward_size=0.25, train_size=600),
    training=TrainingSettings(epochs=4, batch_size=40, fine_tune_epochs=3),
    seed=7,
)


def finished_search(path, build=lambda: zoo.build("plain_cnn", (8, 8, 1), 10, width=0.25)):
    """The folder: a dense model that was trained a little, and half of its channels removed by a plan."""
    folder = RunFolder.make(path)
    data = load_data(SETTINGS.data)
    keras.utils.set_random_seed(0)
    model = build()
    train(model, data, SETTINGS.training, epochs=4, learning_rate=3e-3, seed=0)
    save_model(model, folder.dense)
    plan = make_plan(model, 0.5, multiple_of=4)
    apply_plan(model, plan)
    save_model(model, folder.pruned)
    save_plan(plan, folder.plan)
    folder.save_settings(SETTINGS)
    return folder
