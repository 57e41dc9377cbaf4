"""Models of a class of their own, and what their configs and files say of them."""

import functools
import inspect
from collections.abc import Iterable
from typing import Any

import keras

from autoprune.models.keras_internals.graph import models_within, plain_class


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
    methods["get_config"] = lambda model: _drop_build_configs(plain.get_config(model))
    # A plain model has no variables beside those of its layers, and would refuse to read any.
    methods |= dict.fromkeys(("save_own_variables", "load_own_variables"), lambda model, store: None)
    methods["from_config"] = classmethod(lambda _, *args, **kwargs: plain.from_config(*args, **kwargs))
    # Keras finds the class of a saved model by these names.
    place = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    return type(plain.__name__, (kind,), {**methods, **place})


def _drop_build_configs(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a graph whose layers that are not Keras's own are built when the graph is, by their calls.

    Where a class makes the graph in its constructor, its layers are never built from what a file says of their shapes;
    some cannot be, because shapes come back from a file as lists.
    """
    for layer in config["layers"]:
        if (layer["module"] or "").partition(".")[0] != "keras":
            layer.pop("build_config", None)
    return config
