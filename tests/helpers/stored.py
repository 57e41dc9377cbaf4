"""Everything that autoprune reads from files, as small real ones: made, damaged, and read again.

What a file holds either comes back as it was, or is refused with an error of autoprune's own. Where a part of it may be
lost (rows of a journal, results of a cache), the rest is as it was.
"""

import collections
import dataclasses
import itertools
import json
import logging
import shutil
import warnings
from contextlib import closing, contextmanager
from dataclasses import dataclass

import keras
import numpy as np
from PIL import Image

from autoprune.comparison.cells import Run
from autoprune.comparison.record import PlanResult, Record
from autoprune.cost.cache import CostCache
from autoprune.data import load_data
from autoprune.data.image_folder import decode_image
from autoprune.envs import ENV_ID
from autoprune.envs.episode import FEATURES
from autoprune.errors import AutopruneError
from autoprune.evaluation import Journal
from autoprune.evaluation.journal import read_courses
from autoprune.models import zoo
from autoprune.models.files import load_model, save_model
from autoprune.pipeline.compare import read_record
from autoprune.pipeline.runs import read_origin, write_origin
from autoprune.planning import make_plan
from autoprune.planning.gather_scatter import GatherScatterSettings, load_bundles, save_bundles
from autoprune.planning.patterns import bundle_kernels, find_pattern
from autoprune.planning.plan_file import load_plan, plan_to_json, save_plan
from autoprune.records import plain
from autoprune.records.plain import write_json
from autoprune.reporting.run_folder import RunFolder
from autoprune.searchers.policy import Policy, load_policy, save_policy
from autoprune.settings import DataSettings, SearchSettings
from autoprune.training.checkpoints import Checkpoints, read
from helpers import toy

LOST = object()  # In the place of what a damaged file may lack.
IDENTITY = {"weights": "0123456789abcdef", "target": {"name": "tpu_v5e", "batch_size": 128}}


def small_model():
    keras.utils.set_random_seed(0)
    return zoo.build("plain_cnn", (8, 8, 1), 10, width=0.125)


SEARCHED = toy.search("random", 12)
EVALUATIONS = SEARCHED.history.evaluations


def raw(arrays):
    """Arrays as values that can be compared."""
    return [(array.dtype.str, array.shape, array.tobytes()) for array in map(np.asarray, arrays)]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        make: writes one into an empty folder, and returns its path.
        load: what a file holds, as a value that can be compared; what may be lost is a dictionary with `LOST` in it.
        checked: whether any change of its contents is noticed; of other files some have other contents.
        slow: how many times as long as others it takes to be read.
        is_json: whether it is JSON.
    """

    make: object
    load: object
    checked: bool = True
    slow: int = 1
    is_json: bool = False


def make_plan_file(folder):
    save_plan(make_plan(small_model(), 0.5), folder / "plan.json")
    return folder / "plan.json"


def make_policy(folder):
    generator = np.random.default_rng(0)
    widths = (len(FEATURES), 8, 1)
    layers = tuple(
        (generator.normal(size=(after, before)).astype("float32"), np.zeros(after, "float32"))
        for before, after in itertools.pairwise(widths)
    )
    policy = Policy(
        layers=layers,
        activation="relu",
        squash=True,
        features=FEATURES,
        meaning="keep ratio",
        environment=ENV_ID,
        record={"agent": "ppo", "seed": 0},
    )
    save_policy(policy, folder)
    return folder


def load_policy_file(path):
    policy = load_policy(path.parent, FEATURES, ENV_ID)
    described = {name: getattr(policy, name) for name in ("activation", "squash", "features", "meaning", "environment")}
    return described, dict(policy.record), raw([array for layer in policy.layers for array in layer])


def make_checkpoint(folder):
    weights = small_model().get_weights()
    path = folder / "state.safetensors"
    Checkpoints(path, {"seed": 0}).save(weights, weights, {"epoch": 3, "order": [2, 0, 1]})
    return path


def load_checkpoint(path):
    head, tensors = read(path)
    return head, sorted(tensors), raw([tensors[name] for name in sorted(tensors)])


def make_bundles(folder):
    model = small_model()
    pattern = find_pattern(model, GatherScatterSettings(banks=8, rows=2))
    save_bundles(bundle_kernels(model, pattern), folder / "bundles.safetensors")
    return folder / "bundles.safetensors"


def load_bundle_file(path):
    bundles = load_bundles(path)
    shapes = {name: (one.shape, one.rows, one.per_group) for name, one in bundles.items()}
    return shapes, raw([array for one in bundles.values() for array in (one.values, one.columns, one.offsets)])


def make_journal(folder):
    path = folder / "evaluations.sqlite"
    with closing(Journal(path, IDENTITY)) as journal:
        for number, evaluation in enumerate(EVALUATIONS, start=1):
            journal.add(evaluation)
            journal.add_request("random", number, evaluation.key)
    return path


def make_journal_log(folder):
    """As a process leaves it that is killed: what SQLite keeps beside a file is not in the file yet."""
    (folder / "elsewhere").mkdir()
    path = folder / "elsewhere/evaluations.sqlite"
    with closing(Journal(path, IDENTITY)) as journal:
        for number, evaluation in enumerate(EVALUATIONS, start=1):
            journal.add(evaluation)
            journal.add_request("random", number, evaluation.key)
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", folder / f"evaluations.sqlite{suffix}")
    shutil.rmtree(folder / "elsewhere")
    return folder / "evaluations.sqlite-wal"


def load_journal(path):
    with closing(Journal(path.parent / "evaluations.sqlite", IDENTITY)) as journal:
        course = {evaluation.key: evaluation for evaluation in journal.course("random")}
        found = {evaluation.key: journal.find(evaluation.key) for evaluation in EVALUATIONS}
        assert set(course) <= {key for key, evaluation in found.items() if evaluation}
        assert list(read_courses(journal.path)) in ([], ["random"])
    return {key: repr(evaluation) if evaluation else LOST for key, evaluation in found.items()}


def make_cache(folder):
    with closing(CostCache(folder / "costs.sqlite")) as cache:
        for number in range(40):
            cache.put(str(number), {"latency": number / 7, "kernels": [[[1, 2], number / 9]] * 20})
    return folder / "costs.sqlite"


def load_cache(path):
    with closing(CostCache(path)) as cache:
        found = {str(number): cache.get(str(number)) for number in range(40)}
    return {key: LOST if result is None else json.dumps(result) for key, result in found.items()}


def make_comparison(folder):
    path = RunFolder(folder).comparison
    record = Record({"settings": {"searchers": ["random"]}}, lambda data: write_json(path, data))
    record.dense = EVALUATIONS[0]
    record.curve = list(EVALUATIONS[1:4])
    record.runs["random-0"] = Run.of(SEARCHED, 2)
    for seed in range(3):
        record.add_tested(
            PlanResult(
                key=EVALUATIONS[0].key,
                recipe="fine-tuned",
                seed=seed,
                test_accuracy=0.9 + seed / 100,
                reward_accuracy=0.91,
                latency=1e-4,
                memory=10**6,
                flops=10**7,
                parameters=10**5,
                epochs=3,
            )
        )
    return path


def load_comparison(path):
    kept = []
    Record({}, kept.append, read_record(RunFolder(path.parent))).save()
    return json.dumps(kept)


def make_settings(folder):
    RunFolder(folder).save_settings(SearchSettings())
    return folder / "settings.json"


def make_origin(folder):
    write_origin(RunFolder(folder), "search", files={"my.keras": "0123456789abcdef"})
    return folder / "run.json"


def load_origin(path):
    origin = read_origin(RunFolder(path.parent), "search")
    return {name: origin.get(name) for name in ("format", "version", "command", "files")}


def make_model_file(folder):
    inputs = keras.Input((8, 8, 1))
    hidden = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(hidden))
    save_model(keras.Model(inputs, outputs), folder / "model.keras")
    return folder / "model.keras"


def load_model_file(path):
    model = load_model(path)
    return json.dumps(model.get_config(), default=str), raw(model.get_weights())


def make_npz(folder):
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (40, 8, 8, 1), np.uint8), np.arange(40) % 4
    np.savez(folder / "my.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return folder / "my.npz"


def load_npz(path):
    data = load_data(DataSettings("npz", path=str(path), reward_size=10))
    return raw([array for split in (data.train, data.reward, data.test) for array in (split.images[:], split.labels)])


def make_image(suffix):
    def make(folder):
        pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"x.{suffix}")
        return folder / f"x.{suffix}"

    return make


KINDS = {
    "plan": Kind(make_plan_file, lambda path: json.dumps(plan_to_json(load_plan(path))), is_json=True),
    "policy": Kind(lambda folder: make_policy(folder) / "policy.json", load_policy_file, is_json=True),
    "policy weights": Kind(lambda folder: make_policy(folder) / "actor.safetensors", load_policy_file),
    "checkpoint": Kind(make_checkpoint, load_checkpoint),
    "bundles": Kind(make_bundles, load_bundle_file),
    "comparison": Kind(make_comparison, load_comparison, is_json=True),
    "settings": Kind(
        make_settings,
        lambda path: dataclasses.asdict(RunFolder(path.parent).load_settings(SearchSettings)),
        slow=10,
        is_json=True,
    ),
    "run": Kind(make_origin, load_origin, is_json=True),
    "journal": Kind(make_journal, load_journal, slow=10),
    "log of a journal": Kind(make_journal_log, load_journal, slow=10),
    "cost cache": Kind(make_cache, load_cache, slow=10),
    "model": Kind(make_model_file, load_model_file, slow=20),
    "npz": Kind(make_npz, load_npz, slow=2),
    "png": Kind(make_image("png"), lambda path: raw([decode_image(path, "x")]), checked=False),
    "jpeg": Kind(make_image("jpg"), lambda path: raw([decode_image(path, "x")]), checked=False),
}


def damage(content, generator):
    """The bytes of a file after what disks, transfers and killed writers do."""
    content, how = bytearray(content), generator.integers(6)
    place = int(generator.integers(len(content)))
    length = int(generator.integers(1, max(2, min(4096, len(content) // 2))))
    if how == 0:
        content[place] ^= 1 << int(generator.integers(8))
    elif how == 1:
        content[place] = (content[place] + int(generator.integers(1, 256))) % 256
    elif how == 2:
        del content[place:]
    elif how == 3:
        content[place : place + length] = bytes(len(content[place : place + length]))
    elif how == 4:
        content[place : place + length] = generator.bytes(len(content[place : place + length]))
    else:
        source = int(generator.integers(len(content)))
        piece = content[source : source + length]
        content[place : place + len(piece)] = piece
    return bytes(content)


def alter(content, generator):
    """JSON of another shape with a checksum of its own: values are replaced, left out or put elsewhere."""
    data = json.loads(content)
    data.pop("checksum", None)
    for _ in range(int(generator.integers(1, 4))):
        holders, stack = [], [data]
        while stack:
            part = stack.pop()
            keys = list(part) if isinstance(part, dict) else range(len(part))
            holders += [(part, key) for key in keys]
            stack += [part[key] for key in keys if isinstance(part[key], dict | list)]
        if not holders:
            break
        holder, key = holders[int(generator.integers(len(holders)))]
        other, another = holders[int(generator.integers(len(holders)))]
        values = [None, [], {}, "", "\ud83d\ude00", -1, 10**30, 1e308, float("nan"), True, [[1]], other[another]]
        if isinstance(holder, dict) and generator.random() < 0.3:
            del holder[key]
        else:
            holder[key] = json.loads(json.dumps(values[int(generator.integers(len(values)))]))
    return json.dumps({**data, "checksum": plain._digest(data)}).encode()


@contextmanager
def in_silence():
    """What is lost is logged each time; here it is expected."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Other libraries warn of what they then refuse.
            yield
    finally:
        logging.disable(before)


def read_many(name, folder, times, change, seed=0):
    """Make a file in an empty folder, and read it many times, each time with other damage.

    Args:
        name: of `KINDS`.
        folder: an empty one.
        times: how many.
        change: `damage` or `alter`.
        seed: of the damage.

    Returns:
        how often it was `refused`, `as it was`, `a part` of that, or held `other contents`.

    Raises:
        AssertionError: what was read is not what was written, and that should have been noticed.
        Exception: what was raised is no error of autoprune's.
    """
    kind, generator = KINDS[name], np.random.default_rng(seed)
    path = kind.make(folder)
    made = {file: file.read_bytes() for file in folder.iterdir()}
    whole = kind.load(path)
    seen = collections.Counter()
    with in_silence():
        for number in range(times):
            for left in folder.iterdir():
                left.unlink()
            for file, content in made.items():
                file.write_bytes(content)
            path.write_bytes(change(made[path], generator))
            try:
                seen[_read(kind, path, whole, altered=change is alter)] += 1
            except Exception as error:
                error.add_note(f"{name}, number {number} of seed {seed}")
                raise
    return seen


def _read(kind, path, whole, *, altered):
    try:
        found = kind.load(path)
    except AutopruneError:
        return "refused"
    if found == whole:
        return "as it was"
    if isinstance(found, dict) and LOST in found.values():
        assert all(found[key] in (LOST, whole[key]) for key in whole), "a part of it is wrong"
        return "a part"
    assert altered or not kind.checked, "it was read as something else"
    return "other contents"
