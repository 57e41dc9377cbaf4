"""What Keras keeps of a model besides its graph: its class and what that saves, compiled functions, the optimiser."""

import functools
import gc
import inspect
import itertools
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import keras
from keras.src.utils.tracking import DotNotTrackScope

from autoprune.models.keras_internals.graph import models_within, plain_class

_COMPILED = ("train_function", "test_function", "predict_function")


def graph_config(model: Any) -> dict[str, Any]:
    """The serialised model, described by its graph alone, nested models included: layers and how they are connected.

    Keras describes a model of a class of its own as that class likes, often by its constructor's arguments, and needs
    the class to read that.

    Raises:
        NotImplementedError: Keras has no config for one of its layers.
    """
    before = [(found, type(found)) for _, found in models_within(model)]
    try:
        save_by_graph([found for found, _ in before])
        return keras.saving.serialize_keras_object(model)
    finally:
        for found, kind in before:
            set_class(found, kind)


def saves_its_graph(model: Any) -> bool:
    """Whether the model's own config, and the file that it is saved to, describe its graph as it is now.

    They do not where only a constructor can read them that builds a graph itself.
    """
    kind: Any = type(model)
    plain: Any = plain_class(kind)
    own, known = inspect.getfullargspec(kind.__init__), inspect.getfullargspec(plain.__init__)
    if own.args != known.args and not (own.varargs and own.varkw):
        return False
    if kind.get_config is plain.get_config:
        return True
    try:
        return "layers" in model.get_config()
    except NotImplementedError:
        return False


def save_by_graph(models: Iterable[Any]) -> None:
    """Let models be described by their graphs from now on, wherever Keras makes a config or a file of them.

    Each gets another class, derived from the one that it has: its methods and attributes stay, and it is an instance
    of what it was. What is saved is a plain Functional or Sequential model, and so is what is loaded.
    """
    for model in models:
        kind: Any = type(model)
        if kind is not plain_class(kind):
            set_class(model, _class_saved_by_graph(kind))


def set_class(model: Any, kind: type) -> None:
    """Make a model an instance of another class, past whatever its own class does when something is assigned."""
    if type(model) is not kind:
        object.__setattr__(model, "__class__", kind)


@functools.cache
def _class_saved_by_graph(kind: type[Any]) -> type[Any]:
    """A class that Keras saves and clones as the plain class beneath `kind`, and that is like `kind` otherwise."""
    plain = plain_class(kind)
    names = ("get_build_config", "build_from_config", "get_compile_config", "compile_from_config")
    methods = {name: getattr(plain, name) for name in ("__init__", *names)}

    def get_config(model: Any) -> dict[str, Any]:
        # Where a class makes the graph in its constructor, layers that are not Keras's own are built when the graph is,
        # by their calls, and never from what a file says of their shapes; some cannot be, because shapes come back from
        # a file as lists.
        config = plain.get_config(model)
        for layer in config["layers"]:
            if (layer["module"] or "").partition(".")[0] != "keras":
                layer.pop("build_config", None)
        return config

    methods["get_config"] = get_config
    # A plain model has no variables beside those of its layers, and would refuse to read any.
    methods |= dict.fromkeys(("save_own_variables", "load_own_variables"), lambda model, store: None)
    methods["from_config"] = classmethod(lambda _, *args, **kwargs: plain.from_config(*args, **kwargs))
    # Keras finds the class of a saved model by these names.
    place = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    return type(plain.__name__, (kind,), {**methods, **place})


def renew_compiled_functions(model: Any) -> None:
    """Replace compiled train, test and predict functions, which hold the old variables alive and the old shapes.

    The new ones are traced when they are next called, also by a `fit` that is running: it calls what the model has.
    """
    for _, within in models_within(model):
        _renew(within)


def _renew(model: Any) -> None:
    for name in _COMPILED:
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
            getattr(model, f"make_{name}")()
    if hasattr(model, "_jax_state"):
        model._jax_state = None


def renew_other_models(model: Any) -> list[Any]:
    """Renew the compiled functions of every model over layers of this one, such as a feature extractor.

    Keras keeps no list of a layer's models: they are looked for among all objects that there are.

    Returns:
        These models, this one and those nested in it among them.
    """
    kinds, pending = {keras.Model}, [keras.Model]
    while pending:
        new = set(pending.pop().__subclasses__()) - kinds
        kinds |= new
        pending.extend(new)
    own = {id(layer) for layer in model._flatten_layers()}
    objects = gc.get_objects()
    # Of a few hundred thousand objects a handful are models: no line of Python runs for the others.
    others = [
        other
        for other in itertools.compress(objects, map(kinds.__contains__, map(type, objects)))
        if "_layers" in vars(other) and any(id(layer) in own for layer in other._flatten_layers())
    ]
    for other in others:
        _renew(other)
    return others


def collect_state(model: Any) -> None:
    """Bring variables up to date within a `fit` that is running: on JAX they are empty between its steps."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def forget_training(model: Any) -> None:
    """Undo `compile`: the saved file then holds no optimiser state and needs none of our losses to load."""
    renew_compiled_functions(model)
    for name in _COMPILED:
        setattr(model, name, None)
    model.compiled = False
    model.optimizer = None
    model._compile_config = None
    model._compile_loss = None
    model._compile_metrics = None
    model._loss_tracker = None


def sum_over_no_devices(optimizer: Any) -> None:
    """Let an optimiser that has one device take gradients as they are.

    TensorFlow never lets go of a graph in which gradients are summed over devices, be it one: a process that trains
    many networks would keep the graphs of all their steps.
    """
    if hasattr(optimizer, "_all_reduce_sum_gradients"):
        optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables


def optimizer_of(model: Any) -> Any:
    """The optimiser that the model was compiled with, or None."""
    return getattr(model, "optimizer", None)


def fresh_optimizer(model: Any, optimizer: Any, variables: list[Any] | None = None) -> Any:
    """An optimiser of the same settings, where the model's variables are; built for variables if any are given."""
    strategy = getattr(model, "distribute_strategy", None)
    with nullcontext() if strategy is None else strategy.scope():
        fresh = type(optimizer).from_config(optimizer.get_config())
        if variables is not None:
            fresh.build(variables)
    return fresh


def slot_lists(optimizer: Any) -> dict[str, list[Any]]:
    """The optimiser's per-variable state by attribute: lists in the order of its trainable variables (momenta, ...)."""
    count = len(optimizer._trainable_variables)
    return {
        name: value
        for name, value in vars(optimizer).items()
        if name not in ("_variables", "_trainable_variables")
        and isinstance(value, list)
        and len(value) == count
        and all(isinstance(slot, keras.Variable) for slot in value)
    }


def optimizer_lists(optimizer: Any) -> dict[str, list[Any]]:
    """All lists in which an optimiser has variables, by attribute: the model's, their slots, and all that it saves."""
    own = {name: vars(optimizer)[name] for name in ("_trainable_variables", "_variables")}
    return own | slot_lists(optimizer)


def set_optimizer_lists(optimizer: Any, lists: Mapping[str, list[Any]]) -> None:
    """Give an optimiser other lists, by attribute as `optimizer_lists` has them.

    TensorFlow watches the lists that it was given: one that has lost an element can never go into a checkpoint.
    """
    with DotNotTrackScope():
        for name, value in lists.items():
            setattr(optimizer, name, value)
    tracker = optimizer._tracker
    kind, _ = tracker.config["variables"]
    tracker.config["variables"] = (kind, optimizer._variables)
    tracker.stored_ids["variables"] = {id(variable) for variable in optimizer._variables}


def drop_slots(optimizer: Any, gone: Collection[int]) -> None:
    """Let an optimiser forget model variables, given by `id`, with the state that it has for them."""
    variables, slots = optimizer._trainable_variables, slot_lists(optimizer)
    stays = [id(variable) not in gone for variable in variables]
    if all(stays):
        return
    lists = {name: list(itertools.compress(found, stays)) for name, found in slots.items()}
    forgotten = {id(slot) for found in slots.values() for slot, stay in zip(found, stays, strict=True) if not stay}
    lists["_trainable_variables"] = list(itertools.compress(variables, stays))
    lists["_variables"] = [variable for variable in optimizer._variables if id(variable) not in forgotten]
    set_optimizer_lists(optimizer, lists)


def variables_of_optimizer(optimizer: Any) -> list[Any]:
    """The model variables that the optimiser was built for."""
    return list(optimizer._trainable_variables)


def renew_identities(optimizer: Any) -> None:
    """Let an optimiser know its variables again: the TensorFlow backend knows them by their storage."""
    variables = optimizer._trainable_variables
    optimizer._trainable_variables_indices = {optimizer._var_key(v): i for i, v in enumerate(variables)}
