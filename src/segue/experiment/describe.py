"""Describe models, losses and other components from their code.

A component's description is the docstring of its function, class or module; its settings are the fields of its
settings class, each with its type, range, default and docstring.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from segue.core.config import suggest
from segue.core.messages import warn
from segue.core.model import Model, Solver
from segue.core.registry import exported_functions, keys, load_module, model_class, model_keys

__all__ = [
    "COMPONENTS",
    "ModelDescription",
    "SettingInfo",
    "describe_component",
    "describe_model",
    "describe_models",
    "describe_settings",
    "list_components",
    "training_groups",
]

FAMILIES = "segue.models."
TYPE_NAMES = {Any: "anything", int: "integer", float: "number", str: "text", bool: "true or false", NoneType: "none"}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
SHAPES = re.compile(r"^Shapes:.*?(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)
NAMES = r"(?:[A-Z][\w'-]+(?:, | and | & | et al\. | ))+"
PAPER = re.compile(rf"(?P<paper>{NAMES}(?:19|20)\d\d\b(?:, (?:arXiv:|doi:|NIPS )[^\s;()]*[^\s;().,])?)")
"""Authors and year of the first paper that a docstring cites, with its identifier."""
MARKUP = re.compile(r":[a-z]+:`~?([^`]+)`|``([^`]+)``")


@dataclass(frozen=True)
class SettingInfo:
    """One setting: what it accepts and what it does."""

    name: str
    type: str
    """Type and range, such as ``integer >= 1``."""
    default: str
    description: str


@dataclass(frozen=True)
class ModelDescription:
    """Everything to know about a model before training it."""

    key: str
    family: str
    """Folder of the model, such as ``sequential``; ``plugin`` for a model of another package."""
    learns_from: str
    """``implicit``, ``explicit``, ``implicit or explicit`` feedback, or ``sequences``."""
    summary: str
    paper: str
    """Reference; empty if there is none."""
    description: str
    """The docstring of the model's module, without the explanation of shapes."""
    settings: tuple[SettingInfo, ...]
    uses_training_settings: bool
    """Whether the training loop fits it; a solver ignores the group ``training``."""


def describe_model(key: str) -> ModelDescription:
    """Describe the model ``key``.

    Raises:
        ValueError: an unknown key, or a package that the model needs is missing.
    """
    kind = model_class(key)
    text = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "")
    summary = " ".join(text.split("\n\n")[0].split())
    reference = PAPER.search(" ".join(text.split()))
    if reference and f"({reference['paper']}" in summary:
        summary = summary.partition(f"({reference['paper']}")[0].rstrip()
    is_builtin = kind.__module__.startswith(FAMILIES)
    family = kind.__module__.removeprefix(FAMILIES).partition(".")[0] if is_builtin else "plugin"
    return ModelDescription(
        key,
        family,
        _learns_from(kind, family),
        _strip_markup(summary.rstrip(".")),
        reference["paper"].removeprefix("After ") if reference else "",
        _strip_markup(SHAPES.sub("", text).strip()),
        tuple(describe_settings(kind.Config)),
        not issubclass(kind, Solver),
    )


def _learns_from(kind: type[Model], family: str) -> str:
    """Name the kind of feedback that a model learns from."""
    if family == "sequential":
        return "sequences"
    if kind.requires_ratings:
        return "explicit"
    feedback = kind.Config.model_fields.get("feedback")
    return " or ".join(get_args(feedback.annotation)) if feedback is not None else "implicit"


def describe_settings(kind: type[BaseModel]) -> list[SettingInfo]:
    """Describe every field of a group of settings, in order of declaration."""
    return [
        SettingInfo(
            name,
            _describe_type(field.annotation, field.metadata),
            _describe_default(field),
            _strip_markup(" ".join((field.description or "").split())),
        )
        for name, field in kind.model_fields.items()
    ]


def training_groups(key: str) -> dict[str, type[BaseModel]]:
    """Return the groups of settings that ``segue train KEY`` accepts.

    Groups that the model ignores are left out.
    """
    from segue.experiment.settings import setting_groups

    groups: dict[str, type[BaseModel]] = dict(setting_groups(key))
    if issubclass(model_class(key), Solver):
        del groups["training"]
    return groups


def _loss_functions() -> Mapping[str, Callable[..., Any]]:
    from segue.nn.losses import losses

    return exported_functions(losses)


def _sampler_functions() -> Mapping[str, Callable[..., Any]]:
    from segue.nn.losses import negative_samplers

    return exported_functions(negative_samplers)


def _split_functions() -> Mapping[str, Callable[..., Any]]:
    from segue.data import split_strategies

    return exported_functions(split_strategies)


def _metric_functions() -> Mapping[str, Callable[..., Any]]:
    from segue.evaluation import metrics, rating_metrics
    from segue.evaluation.beyond_accuracy.list_metrics import known_list_metrics

    return metrics.known_metrics() | known_list_metrics() | exported_functions(rating_metrics)


def _source_modules() -> Mapping[str, ModuleType]:
    from segue.data.load import PACKAGE, PLUGINS

    found = keys(PACKAGE, PLUGINS)
    return {name.replace("_", "-"): load_module(PACKAGE, name, "source", PLUGINS) for name in found}


def _encoder_modules() -> Mapping[str, ModuleType]:
    from segue.features.text.encoder import encoder_keys, encoder_module

    return {key: encoder_module(key) for key in encoder_keys()}


COMPONENTS: Mapping[str, Callable[[], Mapping[str, Any]]] = {
    "losses": _loss_functions,
    "samplers": _sampler_functions,
    "splits": _split_functions,
    "metrics": _metric_functions,
    "sources": _source_modules,
    "encoders": _encoder_modules,
}
"""Functions that list the components of each kind by name."""


def list_components(kind: str) -> dict[str, str]:
    """Describe every component of a kind, such as ``losses``, in one sentence."""
    return {name: _first_sentence(_text(component)) for name, component in COMPONENTS[kind]().items()}


def describe_component(kind: str, name: str) -> tuple[str, list[SettingInfo]]:
    """Return the full description and the settings of one component.

    Raises:
        ValueError: an unknown name.
    """
    known = COMPONENTS[kind]()
    if kind == "metrics":
        name = _metric_function(name, known)
    if name not in known:
        raise ValueError(f"{kind}: unknown '{name}'{suggest(name, known)}")
    component = known[name]
    if isinstance(component, ModuleType):
        settings = [
            SettingInfo(key, " or ".join(values), values[0], f"as in {name}?{key}={values[0]}")
            for key, values in getattr(component, "SETTINGS", {}).items()
        ]
        if kind == "encoders":
            settings = describe_settings(getattr(component, component.__all__[0]).Config)
        if name == "simulated":
            from segue.data.simulator import SimulatorSettings

            settings = describe_settings(SimulatorSettings)
        return _strip_markup(_text(component)), settings
    return _strip_markup(_text(component)), _function_settings(kind, name, component)


def _metric_function(name: str, known: Collection[str]) -> str:
    """Return the function of a metric's name: ``rbp`` of ``rbp:0.95@10``.

    Raises:
        ValueError: an argument or a cutoff that the metric cannot have.
    """
    from segue.evaluation.beyond_accuracy.list_metrics import metric_names

    key = re.split("[:@]", name)[0]
    if name in known or key not in known:
        return name
    metric_names([name])
    return key


def _function_settings(kind: str, name: str, function: Callable[..., Any]) -> list[SettingInfo]:
    """Return the settings that a loss, sampler or split reads."""
    if kind == "splits":
        from segue.data.split_settings import COMMON_SETTINGS, STRATEGY_SETTINGS, SplitSettings

        used = {*COMMON_SETTINGS, *STRATEGY_SETTINGS[name]} - {"strategy"}
        return [one for one in describe_settings(SplitSettings) if one.name in used]
    if kind in ("losses", "samplers"):
        from segue.training.train import Training

        used = {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
        return [one for one in describe_settings(Training) if one.name in used]
    return []


def _text(component: Any) -> str:
    """Return the documentation of a component.

    The documentation of a source begins with its line ``ABOUT``.
    """
    doc = inspect.getdoc(component) or ""
    return f"{component.ABOUT}.\n\n{doc}" if hasattr(component, "ABOUT") else doc


def _first_sentence(text: str) -> str:
    paragraph = _strip_markup(" ".join(text.split("\n\n")[0].split()))
    depth = 0
    for at, letter in enumerate(paragraph):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "." and depth == 0 and paragraph[at + 1 : at + 2] in ("", " "):
            return paragraph[:at]
    return paragraph


def _strip_markup(text: str) -> str:
    """Remove the reStructuredText marks of inline code and references."""
    return MARKUP.sub(lambda match: match[1] or match[2], text)


def _describe_default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required" if field.default_factory is None else "empty"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{part}"' if isinstance(part, str) else str(part) for part in value) + "]"
    return "empty" if value == "" else str(value)


def _describe_type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe_type(inner[0], inner[1:])
    if origin is Literal:
        text = ", ".join(map(str, inner))
    elif origin in (Union, UnionType):
        text = " or ".join(_describe_type(part) for part in inner)
    elif origin in (tuple, list):
        text = f"list of {_describe_type(inner[0])}"
    elif origin in (dict, Mapping):
        text = f"mapping of text to {_describe_type(inner[1])}"
    else:
        text = TYPE_NAMES.get(annotation) or str(getattr(annotation, "__name__", annotation))
    bounds = [bound for entry in metadata for bound in _describe_bounds(entry)]
    return f"{text} {', '.join(bounds)}" if bounds else text


def _describe_bounds(entry: Any) -> list[str]:
    if isinstance(entry, FieldInfo):
        return [bound for inner in entry.metadata for bound in _describe_bounds(inner)]
    return [f"{sign} {getattr(entry, name):g}" for name, sign in BOUNDS.items() if hasattr(entry, name)]


def describe_models() -> list[ModelDescription]:
    """Describe every model, in order of family and key.

    A model that cannot be imported is left out with a warning.
    """
    found = []
    for key in model_keys():
        try:
            found.append(describe_model(key))
        except Exception as error:  # a plugin may raise anything
            warn(f"model {key} cannot be imported: {type(error).__name__}: {error}")
    return sorted(found, key=lambda info: (info.family, info.key))
