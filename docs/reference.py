"""``python docs/reference.py``: the pages of ``docs/reference/``, made from the code.

Nothing in them is written by hand, and they are not committed: they can't be out of date. Their words are the
docstrings of the settings, functions and commands they speak of.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from wording import function, prose, settings, table, words

from segue.core.config import Settings
from segue.core.model import Model, Solver
from segue.core.registry import builtin_models, functions, keys, model_class

__all__ = ["groups", "main", "pages"]

FOLDER = Path(__file__).parent
MADE = "<!-- made by docs/reference.py -->\n\n"


def pages() -> dict[str, str]:
    """Markdown by the page's path under ``docs``."""
    made = {
        "index": _index(),
        "models": _models(),
        "training": _training(),
        "data": _data(),
        "simulator": _simulator(),
        "evaluation": _evaluation(),
        "commands": "\n\n".join(["# Commands", *_commands()]),
        "service": _service(),
        "python": _python(),
        "values": _values(),
        "contract": _contract(),
    }
    return {f"reference/{name}.md": MADE + text + "\n" for name, text in made.items()}


def groups() -> dict[str, type[Settings]]:
    """Every group of settings by the name it goes by: ``training``, ``models.xlstm``, ..."""
    from segue.data.filters import Filters
    from segue.data.simulator import SimulatorSettings
    from segue.data.splits import SplitSettings
    from segue.experiment.settings import Evaluation, Session, Task
    from segue.training.train import Training

    shared: dict[str, type[Settings]] = {
        "task": Task,
        "run": Session,
        "filters": Filters,
        "split": SplitSettings,
        "training": Training,
        "evaluation": Evaluation,
        "simulated": SimulatorSettings,
    }
    return shared | {f"models.{key}": model_class(key).Config for key in builtin_models()}


def _index() -> str:
    rows = [
        ("[Commands](commands.md)", "every verb of `segue` with its options"),
        ("[Models](models.md)", "every model with its settings: group `model`"),
        ("[Training](training.md)", "groups `training`, `run` and `task`; losses and samplers"),
        ("[Data](data.md)", "logs by name; groups `filters` and `split`; kinds of split"),
        ("[The simulated world](simulator.md)", "its law, and what can be set in `simulated?key=value`"),
        ("[Evaluation](evaluation.md)", "group `evaluation`; metrics"),
        ("[The service](service.md)", "settings of `segue serve`, what goes over the wire, metrics"),
        ("[Python](python.md)", "the functions of `import segue`"),
        ("[Values](values.md)", "the types that models and metrics speak in"),
        ("[The contract](contract.md)", "what every model keeps"),
    ]
    text = (
        "Everything here is read from the code when the pages are built. `--set GROUP.KEY=VALUE` sets any of the "
        "settings; the bare key is enough where only one group has it."
    )
    return f"# Reference\n\n{text}\n\n{table(('page', 'what is in it'), rows)}"


def _models() -> str:
    parts = ["# Models", "A model's key is the name of its file; these are the files that come with Segue."]
    for key in builtin_models():
        kind = model_class(key)
        parts += [f"## `{key}`", prose(sys.modules[kind.__module__].__doc__ or ""), prose(kind.__doc__ or "")]
        parts += [_abilities(kind), settings(kind.Config)]
    return "\n\n".join(parts)


def _abilities(kind: type[Model]) -> str:
    trained = (
        "Solves for itself: the group `training` is ignored." if issubclass(kind, Solver) else "Trained by the loop."
    )
    scores = {"logit": "Scores are logits: they come with probabilities.", "score": "Scores are only good for order."}
    told = [trained, scores[kind.scale]]
    if hasattr(kind, "similar") or hasattr(kind, "vectors"):
        told.append("Answers `segue similar`.")
    return " ".join(told)


def _training() -> str:
    from segue.nn.losses import losses, negative_samplers

    shown = groups()
    parts = ["# Training", "## Group `training`", prose(shown["training"].__doc__ or ""), settings(shown["training"])]
    for name in ("run", "task"):
        parts += [f"## Group `{name}`", prose(shown[name].__doc__ or ""), settings(shown[name])]
    parts.append(
        "`task` is what the command line's own options fill: MODEL, `--data`, `--columns`, `--target`, `--limit`."
    )
    parts += ["## Losses", _functions(losses), "## Samplers of negatives", _functions(negative_samplers)]
    return "\n\n".join(parts)


def _functions(module: Any) -> str:
    rows = (
        (f"`{name}`", words((inspect.getdoc(what) or "").split("\n\nArgs:")[0]))
        for name, what in functions(module).items()
    )
    return table(("name", "what it is"), rows)


def _data() -> str:
    from segue.data import split_strategies

    sources = []
    for name in keys("segue.data.sources"):
        module = importlib.import_module(f"segue.data.sources.{name}")
        takes = "; ".join(f"`?{key}={'|'.join(values)}`" for key, values in getattr(module, "SETTINGS", {}).items())
        sources.append((f"`{name.replace('_', '-')}`", module.ABOUT, takes))
    shown = groups()
    parts = ["# Data", "## Logs by name", table(("name", "what it is", "settings"), sources)]
    for name in ("filters", "split"):
        parts += [f"## Group `{name}`", prose(shown[name].__doc__ or ""), settings(shown[name])]
    return "\n\n".join([*parts, "### Kinds of split", _functions(split_strategies)])


def _simulator() -> str:
    from segue.data import simulator

    first, _, rest = prose(simulator.__doc__ or "").partition("\n\n")
    parts = ["# The simulated world", first, "## Settings", settings(groups()["simulated"]), "## How it works", rest]
    return "\n\n".join(parts)


def _evaluation() -> str:
    from segue.evaluation import metrics
    from segue.similarity import (
        distribution_similarity,
        row_similarity,
        sequence_similarity,
        vector_similarity,
        weighting,
    )

    group = groups()["evaluation"]
    parts = ["# Evaluation", "## Group `evaluation`", prose(group.__doc__ or ""), settings(group)]
    parts += ["## Metrics", prose(metrics.__doc__ or ""), _functions(metrics)]
    parts.append("## Measures of likeness")
    for name, module in (
        ("Of rows of a table", row_similarity),
        ("Of distributions", distribution_similarity),
        ("Of histories", sequence_similarity),
        ("Of learned vectors", vector_similarity),
        ("Weighting of events", weighting),
    ):
        parts += [f"### {name}", prose((module.__doc__ or "").partition("Shapes:")[0]), _functions(module)]
    return "\n\n".join(parts)


def _service() -> str:
    from segue.serving import schemas
    from segue.serving.experiments.assignment import Experiment, Variant
    from segue.serving.monitoring.metric_definitions import INSTRUMENTS
    from segue.serving.settings import Serving

    parts = ["# The service", "## Settings", "`segue serve --set KEY=VALUE` sets any of these.", settings(Serving)]
    parts += ["## Experiments", prose(Experiment.__doc__ or ""), settings(Experiment)]
    parts += [
        "Each variant:",
        settings(Variant),
        "## What goes over the wire",
        "`/docs` of a running service tells more.",
    ]
    for name in ("Question", "Rules", "Condition", "Boost", "Pin", "Event", "Answer", "Explanation", "Fault"):
        kind = getattr(schemas, name)
        parts += [f"### `{name}`", prose(kind.__doc__ or ""), settings(kind)]
    rows = ((f"`{one.name}`", one.kind, ", ".join(one.labels), words(one.text)) for one in INSTRUMENTS)
    return "\n\n".join([*parts, "## Metrics", table(("name", "kind", "labels", "what it is"), rows)])


def _commands() -> Iterator[str]:
    from segue.cli.app import app

    def told(command: Any, path: str) -> Iterator[str]:
        inner = getattr(command, "commands", {})
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        options = [param for param in command.params if param.param_type_name == "option"]
        rest = [*map(_named, arguments), *(["[OPTIONS]"] if options else []), *(["VERB ..."] if inner else [])]
        yield f"## `{path}`\n\n{prose(command.help or '')}\n\n```text\n{' '.join([path, *rest])}\n```"
        rows = [(f"`{_named(param)}`", words(param.help or "")) for param in arguments]
        rows += [(_option(param), words(param.help or "") + _default(param)) for param in options]
        if rows:
            yield table(("argument or option", "what it is"), rows)
        for name, verb in inner.items():
            yield from told(verb, f"{path} {name}")

    yield from told(typer.main.get_command(app), "segue")


def _named(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _option(param: Any) -> str:
    return f"`{', '.join(param.opts)}{'' if param.is_flag else ' ' + _named(param)}`"


def _default(param: Any) -> str:
    return "" if param.is_flag or param.default is None else f" Default: `{param.default}`."


def _python() -> str:
    from segue import api

    first = ["load", "split", "train", "evaluate", "recommend"]
    names = [*first, *(name for name in api.__all__ if name not in first)]
    text = "`import segue` costs nothing: each of these is read when it is first used."
    return "\n\n".join(["# Python", text, *(function(f"segue.{name}", getattr(api, name)) for name in names)])


def _values() -> str:
    from values import described

    return described()


def _contract() -> str:
    from segue.testing import CHECKS, contract

    text = "What `segue.testing.contract(KEY)` checks, on a log with times, values, an empty history and unseen items."
    names = (f"- {name.replace('_', ' ')}" for name in CHECKS)
    return "\n\n".join(["# The contract", text, "\n".join(names), function("segue.testing.contract", contract)])


def main() -> None:
    """Write the pages that changed, and remove those that are no more."""
    wanted = {FOLDER / path: text for path, text in pages().items()}
    (FOLDER / "reference").mkdir(exist_ok=True)
    for path in (FOLDER / "reference").glob("*.md"):
        if path not in wanted:
            path.unlink()
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
