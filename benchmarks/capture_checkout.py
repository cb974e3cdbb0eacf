"""Capture what the importable Segue learns and answers, for ``compare_checkouts``.

Trains every model on small fixed data with a fixed seed and writes one JSON file: digests of arrays, metrics,
recommendations, similar items and users, streaming states, responses of the service. Runs as a script, in a process
whose ``PYTHONPATH`` holds the checkout: ``python -P capture_checkout.py FILE [--only MODELS]``.

``compare_checkouts.toml`` holds the variants, the requests and the names that changed; the interface of the package is
used in the first section of this module only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["SEED", "SETTINGS", "Capture", "capture", "main", "rename_fields"]

SETTINGS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("compare_checkouts.toml").read_text(encoding="utf-8"))
"""Variants, requests and renamed names."""

SEED = 7
"""Seed of every training."""

N_USERS, N_SIMILAR, K = 50, 5, 10
"""Users with recommendations; items and users with similar ones; length of lists."""

PACKAGES = ("numpy", "scipy", "polars", "torch", "numba", "onnxruntime", "transformers")

Capture = dict[str, Any]
"""What one checkout gives, as JSON holds it."""


# The package under test. Everything that depends on its interface is in this section.


def find_symbol(name: str) -> Any:
    """Import ``name`` from the first of its places in the settings that exists in this checkout.

    Raises:
        LookupError: none of them exists.
    """
    for place in SETTINGS["symbols"][name]:
        module, _, attribute = place.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except AttributeError:
            continue
        except ModuleNotFoundError as error:
            if not module.startswith(error.name or module):
                raise
    raise LookupError(f"symbol '{name}': none of {', '.join(SETTINGS['symbols'][name])} exists; add its new place")


def get_attribute(value: Any, name: str) -> Any:
    """Read the attribute of ``value`` that is called ``name``, by its new or its old name."""
    for known in SETTINGS["attributes"][name]:
        if hasattr(value, known):
            return getattr(value, known)
    raise LookupError(f"attribute '{name}': {type(value).__name__} has none of {SETTINGS['attributes'][name]}")


def get_column(table: Any, name: str) -> list[Any]:
    """Read a column of a Polars frame by its new or its old name; ids as text, whatever their type."""
    values = table[next(known for known in SETTINGS["attributes"][name] if known in table.columns)].to_list()
    return [str(one) for one in values] if name in ("item", "user") else list(values)


def translate(settings: Mapping[str, Any], *kinds: Any) -> list[dict[str, Any]]:
    """Turn settings in old names into values for each settings class of ``kinds``, in its own names.

    Raises:
        LookupError: a setting that none of the classes has under its old or its new name.
    """
    renames, absent = SETTINGS["renames"], ("None", "Optional")
    found: list[dict[str, Any]] = [{} for _ in kinds]
    for old, value in settings.items():
        new = renames["settings"].get(old, [])
        names = [*([new] if isinstance(new, str) else new), old]
        owners = [(i, name) for name in names for i, kind in enumerate(kinds) if name in kind.model_fields]
        if not owners:
            raise LookupError(f"setting '{old}': {' and '.join(k.__name__ for k in kinds)} have none of {names}")
        index, name = owners[0]
        replaced = renames["values"].get(old, {}).get(value, value) if isinstance(value, str) else value
        annotation = str(kinds[index].model_fields[name].annotation)
        if isinstance(value, str) and replaced != value and f"'{replaced}'" not in annotation:
            replaced = value
        found[index][name] = None if replaced == "none" and any(word in annotation for word in absent) else replaced
    return found


def load_data(name: str) -> Any:
    """Load a source: ``simulated``, ``movielens`` (a part of MovieLens 100K) or ``actions`` (generated here).

    Without archives (``SEGUE_ARCHIVES``), the simulated log takes the place of MovieLens.
    """
    from segue.core.config import parse
    from segue.data import load
    from segue.data.filters import Filters

    if name == "actions":
        events, tables = make_interaction_log()
        return load(events, **tables)
    if name == "movielens" and os.environ.get("SEGUE_ARCHIVES"):
        return load(SETTINGS["sources"][name], filters=parse(Filters, SETTINGS["movielens_filters"], "filters"))
    return load(SETTINGS["sources"]["simulated"])


def make_interaction_log() -> tuple[Any, dict[str, Any]]:
    """Generate an event table with actions, ratings and times, and tables of item and user features of every kind."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(SEED)
    n_users, n_items, n_events = 80, 60, 1600
    users, items = rng.integers(n_users, size=n_events), rng.integers(n_items, size=n_events) ** 2 // n_items
    events = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in users],
            "item_id": [f"i{item}" for item in items],
            "timestamp": 1_600_000_000 + rng.integers(10**6, size=n_events),
            "rating": rng.integers(1, 6, size=n_events).astype(np.float32),
            "action": [("view", "cart", "purchase")[kind] for kind in rng.choice(3, n_events, p=(0.6, 0.3, 0.1))],
        }
    )
    item_table = pl.DataFrame(
        {
            "item_id": [f"i{item}" for item in range(n_items)],
            "title": [f"Title {item}" for item in range(n_items)],
            "genres": [[("Comedy", "Drama", "War")[item % 3], ("Old", "New")[item % 2]] for item in range(n_items)],
            "brand": [f"brand {item % 7}" for item in range(n_items)],
            "price": rng.random(n_items),
            "embedding": rng.random((n_items, 4)).astype(np.float32),
        }
    )
    user_table = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(n_users)],
            "age": rng.integers(18, 80, size=n_users),
            "country": [("AT", "DE", "CH")[user % 3] for user in range(n_users)],
        }
    )
    return events, {"items": item_table, "users": user_table}


def split_data(data: Any, settings: Mapping[str, Any]) -> Any:
    """Split a dataset with settings in old names."""
    from segue.core.config import parse
    from segue.data.splits import SplitSettings, split

    return split(data, parse(SplitSettings, translate(settings, SplitSettings)[0], "split"))


def train_model(key: str, settings: Mapping[str, Any], split: Any) -> tuple[Any, float]:
    """Train the model ``key``; return it with its catalog, and the processor seconds of its training."""
    from segue.core.config import parse
    from segue.core.model import Solver
    from segue.core.registry import model_class
    from segue.core.run import Run
    from segue.training.train import Training, train

    kind = model_class(key)
    solver = issubclass(kind, Solver)
    kinds: tuple[Any, ...] = (kind.Config,) if solver else (kind.Config, Training)
    values = dict(settings)
    for name, value in SETTINGS["small"].items():
        try:
            for one, found in zip(kinds, translate({name: value, **values}, *kinds), strict=True):
                parse(one, found, key)
        except (LookupError, ValueError):  # a setting that this model or this variant of it does not have
            continue
        values = {name: value, **values}
    model_values, *rest = translate(values, *kinds)
    training_values = rest[0] if rest else {}
    config, training = parse(kind.Config, model_values, "model"), parse(Training, training_values, "training")
    metric = training.metric or get_attribute(kind, "validation_metric")
    validate = find_symbol("validator")(split.valid, metric=metric)
    started = time.process_time()
    model = train(key, config, training, split.train, Run(SEED), validate)
    seconds = time.process_time() - started
    features = split.train.user_features
    names = [] if features is None else [name for name in features.collect_schema().names() if name != "id"]
    return find_symbol("bundle")(key, model, split.train, {"user_features": names}), seconds


def recommend_all(trained: Any, split: Any) -> Any:
    """Recommend to test users, and to unknown users without and with a history."""
    import numpy as np

    from segue.core.recommend import recommend
    from segue.core.types import Events, Queries

    queries = split.test.queries
    rows = np.arange(min(N_USERS, len(queries)))
    unknown = Queries.anonymous(Events.of([[], list(range(1, 20))]))
    found = {"users": recommend(trained.model, queries.take(rows), K)}
    try:
        found["unknown"] = recommend(trained.model, unknown, K)
    except ValueError as error:  # a model that reads columns that these queries do not have
        return {"users": digest_lists(found["users"]), "unknown": type(error).__name__}
    return {name: digest_lists(one) for name, one in found.items()}


def digest_lists(lists: Any) -> dict[str, Any]:
    """Digest recommendations; the first list is added in full, for a reader."""
    arrays = {"items": lists.items, "scores": lists.scores, "lengths": lists.lengths}
    if lists.probabilities is not None:
        arrays["probabilities"] = lists.probabilities
    first = {"items": lists.items[0].tolist(), "scores": lists.scores[0].tolist()}
    return {"sha256": {name: digest(array) for name, array in arrays.items()}, "first": first}


def measure_metrics(trained: Any, split: Any) -> dict[str, Any]:
    """Evaluate on the test part: mean, interval and digest of the values per query of every metric."""
    found = find_symbol("evaluate")(trained.model, split.test)
    return {
        name: [float(one.mean), float(one.low), float(one.high), digest(found.values[name])]
        for name, one in sorted(get_attribute(found, "summary").items())
    }


def find_similar(trained: Any, split: Any) -> dict[str, Any]:
    """Find items similar to some items and users similar to some users, by the model's own measure.

    Where the model has none, the kind of error stands in their place.
    """
    log = split.train
    active = [user for user, length in zip(log.users.ids, log.histories.lengths, strict=True) if length]
    found: dict[str, Any] = {}
    for noun, ids in (("item", trained.items.ids.to_list()), ("user", active)):
        function = find_symbol("similar" if noun == "item" else "similar_users")
        try:
            tables = [function(trained, one, K, log=log) for one in ids[:: max(1, len(ids) // N_SIMILAR)][:N_SIMILAR]]
        except ValueError as error:
            found[noun] = type(error).__name__
            continue
        found[noun] = [[get_column(table, noun), get_column(table, "similarity")] for table in tables]
    return found


def find_similar_by_measure(trained: Any, data: Any, settings: Mapping[str, Any]) -> Any:
    """Find the items and users most similar to the second of each, by a measure of the log."""
    found, settings = {}, dict(settings)
    for noun in settings.pop("of", ["item", "user"]):
        ids = data.items.ids if noun == "item" else data.users.ids
        table = find_symbol("similar" if noun == "item" else "similar_users")(trained, ids[1], K, log=data, **settings)
        found[noun] = [get_column(table, noun), get_column(table, "similarity")]
    return found


def digest_states(trained: Any, split: Any) -> Any:
    """Digest streaming states after histories and after one more event, and what is recommended from them."""
    import numpy as np

    from segue.core.model import Streaming

    model, queries = trained.model, split.test.queries.take(np.arange(N_SIMILAR))
    if not isinstance(model, Streaming) or getattr(model, "is_cloze", getattr(model, "cloze", False)):
        return None
    states = [model.state(queries)]
    states.append(model.step(states[0], split.test.targets.take(np.arange(N_SIMILAR))))
    found: dict[str, Any] = {}
    for number, state in enumerate(states):
        for part in ("recurrent_state", "recent_events"):
            for name, array in sorted(get_attribute(state, part).items()):
                found[f"{number} {part} {name}"] = digest(array)
        lists = find_symbol("recommend_from_state")(model, state, K, times=queries.times)
        found[f"{number} recommendations"] = digest_lists(lists)["sha256"]
    return found


def digest_log(events: Any) -> dict[str, str]:
    """Digest the columns of an interaction log."""
    return {name: digest(array) for name, array in {"offsets": events.offsets, **events.columns()}.items()}


def digest_dataset(data: Any) -> dict[str, Any]:
    """Digest a dataset: its events, ids and features."""
    found: dict[str, Any] = {**digest_log(data.histories), "users": digest_text(data.users.ids.to_list())}
    found["items"] = digest_text(data.items.ids.to_list())
    for name in ("item_features", "user_features"):
        if (table := getattr(data, name)) is not None:
            found[name] = digest_text(table.collect().to_dict(as_series=False))
    return found


def digest_split(data: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Digest a split of a dataset: the training part, and queries and targets held out."""
    split = split_data(data, settings)
    found = {"train": digest_log(split.train.histories)}
    for name, held in (("valid", split.valid), ("test", split.test)):
        found[f"{name} history"] = digest_log(held.queries.history)
        found[f"{name} targets"] = digest_log(held.targets)
        found[f"{name} users"] = {"users": digest(held.queries.users), "known": digest(held.queries.known)}
    return found


@contextmanager
def open_service(folders: Sequence[Path]) -> Iterator[Any]:
    """Open a client of the service of these artifacts, of which the first is active."""
    from starlette.testclient import TestClient

    config = find_symbol("server_config")
    fields = config.model_fields
    name = next(known for known in ("artifacts", "folders") if known in fields)
    with TestClient(
        find_symbol("application")(config(**{name: tuple(folders)}, store="memory:")), "http://localhost"
    ) as client:
        yield client


# Capture: everything that one checkout gives, as one JSON file.


def digest(array: Any) -> str:
    """Describe an array by its type, shape and SHA-256."""
    import numpy as np

    array = np.ascontiguousarray(array)
    return f"{array.dtype}{list(array.shape)}:{hashlib.sha256(array.tobytes()).hexdigest()}"


def digest_text(value: Any) -> str:
    """Hash a value as JSON with SHA-256."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()


def attempt(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function``; return its error as a value, so that one failure does not end the comparison."""
    try:
        return function(*arguments)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        print(f"{name}: {text}", file=sys.stderr)
        return {"error": text}


def digest_arrays(trained: Any) -> dict[str, str]:
    """Digest the arrays of a trained model by their names."""
    return {name: digest(array) for name, array in trained.model.arrays().items()}


def capture_variant(
    name: str, split: Any, settings: Mapping[str, Any], models: dict[str, Any], repeat: int
) -> dict[str, Any]:
    """Capture one variant of a model; the trained model goes to ``models`` under its name.

    ``seconds`` are processor seconds, those of the fastest of ``repeat`` trainings.
    """
    key = name.partition(" ")[0]
    values = {setting: value for setting, value in settings.items() if setting != "_data"}
    trained, seconds = train_model(key, values, split)
    arrays = digest_arrays(trained)
    for _ in range(repeat - 1):
        again, further = train_model(key, values, split)
        seconds = min(seconds, further)
        if digest_arrays(again) != arrays:
            raise RuntimeError("two trainings in one process give different arrays; expected the same for one seed")
    models[name] = trained
    return {
        "arrays": arrays,
        "metrics": attempt(f"{name}: metrics", measure_metrics, trained, split),
        "recommendations": attempt(f"{name}: recommendations", recommend_all, trained, split),
        "similar": attempt(f"{name}: similar", find_similar, trained, split),
        "state": attempt(f"{name}: state", digest_states, trained, split),
        "seconds": seconds,
    }


def capture_service(models: Mapping[str, Any], histories: Any, folder: Path) -> list[Any]:
    """Send every request to the service of some models; return name, status and JSON of the responses."""
    settings, folders = SETTINGS["service"], []
    for name, about in settings["models"].items():
        folders.append(folder / name)
        trained = models[f"{about['key']} {about['variant']}"]
        find_symbol("publish")(name, trained, histories, folders[-1], engine=about["engine"])
    jobs = [(name, request) for name in settings["models"] for request in settings["requests"]]
    jobs += [("active", request) for request in settings["common"]]
    renames = SETTINGS["renames"]["requests"] if is_new_checkout() else {}
    found = []
    with open_service(folders) as client:
        for name, request in jobs:
            path = request["path"]
            if "body" in request:
                body = {**request["body"], **({} if name == "active" else {"model": name})}
                if path in ("/v1/recommend", "/v1/explain"):
                    body["deadline_ms"] = 60_000  # so that no request falls back because the machine is busy
                response = client.post(path, json=rename_fields(body, renames, {}))
            else:
                response = client.get(path)
            found.append([f"{name} {path}", response.status_code, response.json()])
    return found


def is_new_checkout() -> bool:
    """Tell whether the importable package is that of the new checkout."""
    return find_spec("segue.nn") is not None


def rename_fields(value: Any, names: Mapping[str, str], values: Mapping[str, str]) -> Any:
    """Replace old names of JSON fields, and old texts, by new ones at every depth."""
    if isinstance(value, dict):
        return {names.get(name, name): rename_fields(one, names, values) for name, one in value.items()}
    if isinstance(value, list):
        return [rename_fields(one, names, values) for one in value]
    return values.get(value, value) if isinstance(value, str) else value


def capture(only: Sequence[str] = (), repeat: int = 2) -> Capture:
    """Train, measure and request everything.

    Args:
        only: keys of the models to capture, without the service; none: everything.
        repeat: trainings of each model, of which the fastest counts.
    """
    import segue
    from segue.core.registry import model_keys

    warnings.simplefilter("ignore")
    sources = {name: load_data(name) for name in ("simulated", "movielens", "actions")}
    splits = {
        name: split_data(sources[settings["source"]], {k: v for k, v in settings.items() if k != "source"})
        for name, settings in SETTINGS["data"].items()
    }
    found: Capture = {
        "package": str(Path(str(segue.__file__)).resolve()),
        "is_new": is_new_checkout(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "data": {name: digest_dataset(data) for name, data in sources.items()},
        "splits": {},
        "models": {},
        "measures": {},
        "untested": sorted(set(model_keys()) - SETTINGS["variants"].keys()),
    }
    for name, settings in SETTINGS["splits"].items():
        found["splits"][name] = attempt(f"split {name}", digest_split, sources["simulated"], settings)
    models: dict[str, Any] = {}
    for key, variants in SETTINGS["variants"].items():
        for variant, settings in variants.items() if not only or key in only else ():
            name, split = f"{key} {variant}", splits[settings.get("_data", "implicit")]
            found["models"][name] = attempt(name, capture_variant, name, split, settings, models, repeat)
    if only:
        return found
    for settings in SETTINGS["measures"]:
        name, log = json.dumps(settings), splits["rich"].train
        found["measures"][name] = attempt(name, find_similar_by_measure, models.get("ease rich"), log, settings)
    with tempfile.TemporaryDirectory(prefix="segue-compare-") as folder:
        histories = sources["simulated"].histories
        found["service"] = attempt("service", capture_service, models, histories, Path(folder))
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Write the capture to a file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="where the capture goes")
    parser.add_argument("--only", default="", help="keys of some models, separated by commas; without the service")
    parser.add_argument("--repeat", type=int, default=2, help="trainings of each model; default %(default)s")
    options = parser.parse_args(words)
    found = capture([key for key in options.only.split(",") if key], options.repeat)
    options.file.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
