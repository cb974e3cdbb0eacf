"""Every setting of every model changes the trained model or its predictions, or is known to change speed only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any, Literal, get_args, get_origin

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from segue.core.model import Predictor
from segue.core.registry import builtin_models, model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset, with_knowledge
from segue.testing.language_models import save_tiny_language_model
from segue.training.settings import Training
from segue.training.train import train
from tests.folders import new_folder

Settings = dict[str, Any]
Case = tuple[Settings, Any]
"""Further settings that are needed, and a value."""

N_USERS, N_ITEMS = 18, 12
CITIES = [f"{country}{number % 7}" for number, country in enumerate("ABC" * 6)]
TRAINING = Training(epochs=2, batch_size=8, learning_rate=0.05)

BASE: Settings = {
    "embedding_dim": 8,
    "hidden_dim": 6,
    "attention_dim": 4,
    "num_layers": 1,
    "num_blocks": 1,
    "num_heads": 2,
    "max_length": 4,
    "dropout": 0.0,
    "slstm_at": (0,),
    "k": 6,
    "shrink": 1.0,
    "iterations": 3,
    "num_samples": 2,
    "segment_length": 2,
    "memory_length": 2,
    "batch_size": 16,
    "num_negatives": 2,
    "kl_annealing_epochs": 1.0,
    "hidden": (6,),
    "bottom": (4,),
    "gate_hidden": 4,
    "attention_hidden": (4,),
    "num_filters": 3,
}
"""Small settings, for the models that have them."""

OWN_BASE: dict[str, Settings] = {
    "xlstm": {"num_blocks": 2, "slstm_at": (1,)},
    "user_knn": {"max_length": 50},
    "item_knn": {"iterations": 10},
    "svd": {"l2": 1.0},
    "slim": {"l1": 0.1, "l2": 0.1, "iterations": 100},
    "neumf": {"num_layers": 2},
    "maml": {"num_negatives": 4},
    "bayesian_pmf": {"iterations": 8},
    "factorization_machine": {"iterations": 8},
    "llm": {"candidates": 6, "history_length": 3},
    "gradient_boosting": {
        "iterations": 6,
        "min_examples": 2,
        "min_category_examples": 1,
        "validate_every": 3,
        "target_statistics": (("item",),),
    },
    "finalnet": {"num_blocks": 2},
}
OWN_BASE["ranker"] = {"num_candidates": 8, "settings": {"gradient_boosting": OWN_BASE["gradient_boosting"]}}
OWN_BASE["user_knn"] |= OWN_BASE["item_knn"]

EXPLICIT = {"feedback": "explicit"}
POINT = {"learner": "als", "num_samples": 40}
CASES: dict[str, list[Case]] = {
    "embedding_dim": [({}, 4)],
    "max_length": [({}, 3)],
    "horizon": [({"objective": "all_action"}, 1)],
    "mask_prob": [({"objective": "cloze", "mask_last_prob": 0.0}, 0.8)],
    "mask_last_prob": [({"objective": "cloze"}, 1.0)],
    "inputs": [({}, ("value",))],
    "session_gap": [({"inputs": ("session_position",)}, 1.0)],
    "feature_dropout": [({"inputs": ("value",)}, 0.9)],
    "num_heads": [({}, 1)],
    "cg_steps": [({"solver": "conjugate_gradient"}, 1)],
    "gate_soft_cap": [({}, 0.1)],
    "hidden": [({}, (8,)), ({}, (6, 6))],
    "max_history": [({}, 2)],
    "lazy_rows": [({}, 1)],
}
"""By setting, where an arbitrary other value has no effect by itself."""

OWN_CASES: dict[tuple[str, str], list[Case]] = {
    ("xlstm", "num_blocks"): [({}, 3)],
    ("xlstm", "slstm_at"): [({}, (0,)), ({}, ())],
    ("xlstm", "qkv_proj_blocksize"): [({}, 2)],
    ("xlstm", "conv1d_kernel_size"): [({"slstm_at": at}, 2) for at in ((), (0, 1))],
    ("xlstm", "num_heads"): [({"slstm_at": at}, 1) for at in ((), (0, 1))],
    ("xlstm", "dropout"): [({"slstm_at": at}, 0.4) for at in ((), (0, 1))],
    ("xlstm", "ffn_proj_factor"): [({}, 9.0)],  # the width is rounded up to a multiple of 64
    ("hstu", "query_time"): [({"time_bias": True}, True)],
    ("nextitnet", "dilations"): [({}, (2,))],
    ("nextitnet", "kernel_size"): [({}, 2)],
    ("transformer_xl", "memory_length"): [({}, 0)],
    ("huggingface", "architecture"): [({}, "gpt2")],
    ("huggingface", "objective"): [({}, "all_action"), ({"architecture": "bert"}, "cloze")],
    ("huggingface", "mask_prob"): [({"architecture": "bert", "objective": "cloze", "mask_last_prob": 0.0}, 0.8)],
    ("huggingface", "mask_last_prob"): [({"architecture": "bert", "objective": "cloze"}, 1.0)],
    ("huggingface", "options"): [({}, {"hidden_act": "gelu"})],
    ("als", "l2_features"): [({"item_features": True}, 1.0)],
    ("bpr", "batch_size"): [({}, 8)],
    ("bpr", "optimizer"): [({"batch_size": 512}, "sgd")],
    ("multi_vae", "variant"): [({"kl_annealing_epochs": 20.0}, "dae")],
    ("factorization_machine", "learner"): [({"num_samples": 40}, "als")],
    ("bayesian_pmf", "noise_precision"): [({}, 5.0)],
    ("bayesian_pmf", "burn_in"): [({}, 0.6)],
    ("bayesian_pmf", "clip_predictions"): [({"noise_precision": 500.0}, True)],
    ("factorization_machine", "burn_in"): [({}, 0.6)],
    ("factorization_machine", "inputs"): [({}, ("implicit_user",)), ({}, ("date",))],
    ("factorization_machine", "days_per_bin"): [({"inputs": ("date",)}, 30)],
    ("factorization_machine", "l2"): [(POINT, 1.0)],
    ("factorization_machine", "l2_bias"): [(POINT, 1.0)],
    ("factorization_machine", "clip_predictions"): [({**POINT, "l2": 0.01, "l2_bias": 0.01}, True)],
    ("ials", "block_size"): [({"solver": "subspace", "embedding_dim": 8}, 2)],
    ("ials", "frequency_scaling"): [({}, 0.0)],
    ("ials", "value_weight"): [({}, 1.0)],
    ("nmf", "clip_predictions"): [({**EXPLICIT, "l2": 0.0, "iterations": 30}, True)],
    ("pmf", "batch_size"): [({}, 8)],
    ("pmf", "clip_predictions"): [({"iterations": 60, "l2": 0.001, "learning_rate": 0.02}, True)],
    ("svd", "embedding_dim"): [({}, 2)],
    ("svd", "l2_bias"): [(EXPLICIT, 1.0)],
    ("svd", "fit_observed_only"): [(EXPLICIT, True)],
    ("svd", "clip_predictions"): [({**EXPLICIT, "l2": 0.0, "l2_bias": 0.0}, True)],
    ("svdpp", "clip_predictions"): [({"iterations": 60, "l2": 0.0, "learning_rate": 0.05}, True)],
    ("svdpp", "learning_rate_decay"): [({}, 0.5)],
    ("als", "clip_predictions"): [({"l2": 0.001, "l2_bias": 0.001}, True)],
    ("slim", "iterations"): [({}, 1)],
    ("slim", "tolerance"): [({}, 0.3)],
    ("item_knn", "half_life"): [({}, 1.0)],
    ("user_knn", "max_length"): [({"similarity": "longest_common_subsequence"}, 2)],
    ("multi_vae", "hidden_dim"): [({}, None), ({}, 5)],
    ("multi_vae", "kl_weight"): [({"kl_annealing_epochs": 0.0}, 5.0)],
    ("multi_vae", "kl_annealing_epochs"): [({"kl_weight": 5.0}, 0.0)],
    ("neumf", "pretrain_epochs"): [({}, 1.0)],
    ("neumf", "num_negatives"): [({}, 1)],
    ("lightgcn", "l2"): [({}, 1.0)],
    ("lightkg", "contrast_temperature"): [({"contrast": 0.5}, 0.2)],
    ("item2vec", "subsample"): [({}, 0.01)],
    ("fusion", "backbone"): [({}, "gru4rec")],
    ("fusion", "backbone_settings"): [({}, {"num_blocks": 1})],
    ("fusion", "vector_dim"): [({}, 2), ({}, 0)],
    ("transfer", "backbone"): [({}, "gru4rec")],
    ("transfer", "backbone_settings"): [({}, {"num_blocks": 1})],
    ("transfer", "vector_dim"): [({}, 2), ({}, 0)],
    ("transfer", "features"): [({}, ("color",))],
    ("transfer", "id_dropout"): [({"id_embeddings": True}, 0.9)],
    ("two_tower", "vector_dim"): [({}, 2), ({}, 0)],
    ("two_tower", "frequency_rate"): [({"frequencies": "streaming"}, 0.5)],
    ("recent_popular", "half_life"): [({}, 0.1)],
    ("frequent", "half_life"): [({}, 1.0)],
    ("content", "features"): [({}, ("color",))],
    ("content", "weights"): [({"half_life": None}, "equal")],
    ("content", "embedding_dim"): [({}, 2)],
    ("profile_model", "prefixes"): [({}, {"city": 1})],
    ("profile_clusters", "prefixes"): [({}, {"city": 1})],
    ("hierarchical_backoff", "prefixes"): [({}, {"city": 1})],
    ("hierarchical_backoff", "concentration"): [({}, 3.3)],
    ("exploration", "share"): [({"policy": "random_share"}, 0.9)],
    ("exploration", "base"): [({}, "item_knn")],
    ("exploration", "base_settings"): [({}, {"smoothing": 5.0})],
    ("hybrid", "members"): [({}, ("popular", "item_knn"))],
    ("hybrid", "settings"): [({}, {"ease": {"l2": 1.0}})],
    ("hybrid", "weights"): [({}, (3.0, 1.0)), ({"method": "rrf"}, (3.0, 1.0))],
    ("hybrid", "switch_by"): [({"method": "switching"}, "item")],
    ("hybrid", "switch_at"): [({"method": "switching"}, 7)],
    ("logistic_regression", "inputs"): [({}, ()), ({}, ("history",)), ({}, ("item_features", "popularity"))],
    ("logistic_regression", "threshold"): [({}, 1.5)],
    ("logistic_regression", "iterations"): [({}, 1)],
    ("maml", "inputs"): [({}, ("item_features",)), ({}, ())],
    ("maml", "feature_dropout"): [({}, 0.9)],
    ("maml", "num_layers"): [({}, 2)],
    ("maml", "support_size"): [({}, 2)],
    ("maml", "support_dropout"): [({}, 0.9)],
    ("maml", "query_size"): [({}, 1)],
    ("maml", "num_negatives"): [({}, 1)],
    ("maml", "clip_predictions"): [({**EXPLICIT, "inner_learning_rate": 2.0}, True)],
    ("ranker", "retriever"): [({}, "item_knn")],
    ("ranker", "ranker"): [({"settings": {}}, "logistic_regression")],
    ("ranker", "settings"): [({}, {"ease": {"l2": 1.0}})],
    ("ranker", "inputs"): [({}, ("history",)), ({"retrieve_seen": True}, ("history", "retrieval"))],
    ("ranker", "max_queries"): [({}, 6)],
    ("ranker", "retrieval_weight"): [({}, 0.7)],
    ("llm", "language_model"): [({}, "")],
    ("llm", "base"): [({}, "popular")],
    ("llm", "base_settings"): [({}, {"l2": 1.0})],
    ("llm", "prompt"): [({}, "{history} chosen")],
    ("llm", "separator"): [({}, " and ")],
    ("llm", "title_column"): [({}, "name")],
    ("llm", "candidates"): [({}, 3)],
    ("llm", "history_length"): [({}, 1)],
    ("llm", "max_tokens"): [({}, 12)],
    ("llm", "permutations"): [({"method": "listwise"}, 3)],
    ("llm", "weight"): [({}, 0.2)],
    ("llm", "dtype"): [({"weight": 1.0}, "bfloat16")],
    ("fold_in", "prior"): [({}, "random")],
    ("fold_in", "bases"): [({}, ("item_knn",))],
    ("fold_in", "base_settings"): [({}, {"user_knn": {"k": 2}})],
}
OWN_CASES |= {
    (_key, "inputs"): [({}, ("item_features",)), ({}, ("user_features",)), ({}, ("history",))]
    for _key in (
        *("ctr_factorization_machine", "wide_deep", "deepfm", "dlrm", "dcn_v2", "finalmlp", "finalnet", "din"),
        *("text_cnn", "gradient_boosting"),
    )
}
OWN_CASES |= {
    ("dlrm", "bottom"): [({}, (3,)), ({}, (4, 4))],
    ("dcn_v2", "rank"): [({}, 2)],
    ("finalmlp", "hidden_2"): [({}, (8,))],
    ("finalmlp", "gate_fields"): [({}, (("user",), ("item",)))],
    ("finalnet", "num_blocks"): [({}, 1)],
    ("din", "attention_hidden"): [({}, (3,)), ({}, (4, 4))],
    ("text_cnn", "filter_widths"): [({}, (2,))],
    ("gradient_boosting", "num_leaves"): [({}, 3)],
    ("gradient_boosting", "category_smoothing"): [({}, 60.0)],
    ("gradient_boosting", "min_examples"): [({}, 20)],
    ("gradient_boosting", "min_category_examples"): [({}, 60)],
    ("gradient_boosting", "target_statistics"): [({}, (("user",),))],
    ("gradient_boosting", "max_split_categories"): [({}, 1)],
    ("gradient_boosting", "validate_every"): [({"row_fraction": 0.5}, 2)],
}
for _key in ("item_knn", "user_knn"):
    OWN_CASES |= {
        (_key, "k"): [({}, 2), (EXPLICIT, 2)],
        (_key, "similarity"): [({}, "jaccard"), (EXPLICIT, "pearson")],
        (_key, "shrink"): [({}, 20.0), (EXPLICIT, 20.0)],
        (_key, "weighting"): [({}, "bm25"), ({}, "tfidf")],
        (_key, "bm25_k1"): [({"weighting": "bm25"}, 0.1)],
        (_key, "bm25_b"): [({"weighting": "bm25"}, 0.0)],
        (_key, "normalization"): [(EXPLICIT, name) for name in ("none", "user", "item", "z_score")],
        (_key, "compare"): [(EXPLICIT, "values")],
        (_key, "min_k"): [(EXPLICIT, 4)],
        (_key, "iterations"): [(EXPLICIT, 1)],
        (_key, "l2_user"): [(EXPLICIT, 50.0)],
        (_key, "l2_item"): [(EXPLICIT, 50.0)],
        (_key, "clip_predictions"): [({**EXPLICIT, "l2_user": 0.0, "l2_item": 0.0, "k": 2, "shrink": 0.0}, True)],
    }

NEED_NEW_ITEMS = {("fusion", "new_item_bonus"), ("two_tower", "new_item_bonus")}
"""Settings for items without events, which this world lacks; their effect is tested in ``test_item_fusion.py``."""

SPEED_ONLY = {
    ("xlstm", "mlstm_form"): "parallel",
    ("xlstm", "chunk_size"): 2,
    ("llm", "threads"): 2,
    ("llm", "time_budget_ms"): 1.0,
}
"""Settings that change how a model is computed and not what, and a value."""

SPECIAL_HARDWARE = {("xlstm", name) for name in ("chunkwise_kernel", "sequence_kernel", "step_kernel")} | {
    ("llm", "device")
}
"""Settings whose other values need a GPU."""


NEED_A_SAVED_MODEL = {("transfer", name) for name in ("source", "source_hash", "encoder_lr_factor", "item_lr_factor")}
"""Settings that need a saved model; ``test_transfer.py`` tests them."""


NEED_VALIDATION = {("gradient_boosting", "metric"), ("gradient_boosting", "patience")}
"""Settings of early stopping; ``test_gradient_boosting.py`` tests them."""

NEED_CONTEXT = {(key, "context_dropout") for key in builtin_models()} | {
    ("ranker", name) for name in ("position", "propensities", "min_propensity")
}
"""Settings for logs with context, which this one lacks; ``test_context_dropout.py`` and ``test_position_bias.py`` test
them."""

UNTESTED = SPECIAL_HARDWARE | NEED_A_SAVED_MODEL | NEED_NEW_ITEMS | NEED_VALIDATION | NEED_CONTEXT


def world() -> Dataset:
    """Build a log with all columns and features."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, N_USERS)
    size = int(lengths.sum())
    times = 1_000_000_000 + np.cumsum(rng.integers(0, 6000, size))
    weights = 1.0 / np.arange(1, N_ITEMS + 1)
    items = rng.choice(N_ITEMS, size, p=weights / weights.sum())
    events = Events(
        np.concatenate([[0], np.cumsum(lengths)]), items, rng.integers(0, 2, size), rng.integers(1, 6, size), times
    )
    features = pl.DataFrame({"id": [f"i{code}" for code in range(N_ITEMS)], "color": ["red", "blue", "green"] * 4})
    features = features.with_columns(text=pl.Series(rng.normal(size=(N_ITEMS, 3)).tolist()))
    users = pl.DataFrame({"id": [f"u{code}" for code in range(N_USERS)], "gender": ["F", "M"] * 9, "city": CITIES})
    data = dataset(events, N_ITEMS)
    data = replace(data, actions=("view", "buy"), item_features=features.lazy(), user_features=users.lazy())
    return with_knowledge(data, (np.arange(N_ITEMS) % 3).tolist())


DATA = world()


def queries() -> Queries:
    """Return the histories of all users, and two of unknown users, with query times."""
    unknown = DATA.histories.take(np.array([0, 1]))
    history = Events(
        np.concatenate([DATA.histories.offsets, DATA.histories.offsets[-1] + unknown.offsets[1:]]),
        *(
            np.concatenate([getattr(DATA.histories, name), getattr(unknown, name)])
            for name in ("items", "actions", "values", "times")
        ),
    )
    users = np.append(np.arange(N_USERS), [0, 0]).astype(np.int32)
    known = np.arange(len(history)) < N_USERS
    return Queries(history, users, known, np.full(len(history), int(DATA.histories.times.max()) + 90_000))  # type: ignore[union-attr]


TITLES = ["red", "dark red", "blue", "blue sky over red sea", "green", "sky"] * 2
NAMES = ["sea", "green sea", "dark"] * 4


@cache
def language_model() -> str:
    """Return the folder of a language model that knows the titles."""
    texts = [*TITLES, *NAMES, "Titles: Yes No A B. C. D. E. F. chosen and"]
    folder = new_folder()
    return str(save_tiny_language_model(folder, texts, chat_template="{{ messages[0].content }} sea:"))


def data_of(key: str) -> Dataset:
    """Return the log, with titles or an item without events for models that read them."""
    if "knowledge" in model_class(key).required_features:
        return DATA.with_histories(DATA.histories.where(DATA.histories.items < N_ITEMS - 1))
    if key != "llm":
        return DATA
    titles = pl.DataFrame({"id": [f"i{code}" for code in range(N_ITEMS)], "title": TITLES, "name": NAMES})
    return replace(DATA, item_features=titles.lazy())


def settings_of(key: str, values: Settings) -> Any:
    fields = model_class(key).Config.model_fields
    if key == "llm":
        values = {"language_model": language_model(), **values}
    base = {name: value for name, value in {**BASE, **OWN_BASE.get(key, {})}.items() if name in fields}
    return model_class(key).Config(**{**base, **values})


OUTCOMES: dict[str, list[NDArray[Any]]] = {}


def outcome(key: str, values: Settings) -> list[NDArray[Any]]:
    """Return the arrays, scores and predictions of a model trained with these settings."""
    config = settings_of(key, values)
    name = f"{key} {config!r}"
    if name not in OUTCOMES:
        OUTCOMES[name] = compute_outcome(key, config)
    return OUTCOMES[name]


def compute_outcome(key: str, config: Any, training: Training = TRAINING) -> list[NDArray[Any]]:
    model = train(key, config, training, data_of(key), Run(0))
    stored = {name: array for name, array in model.arrays().items() if name != "fingerprints"}  # of the histories
    found = [np.array(array) for _, array in sorted(stored.items())] + [model.score(queries())]
    if isinstance(model, Predictor) and model.predicts_ratings:
        users, items = (grid.ravel().astype(np.int32) for grid in np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS))
        found.append(model.predict(users, items))
    return found


def differs(first: list[NDArray[Any]], second: list[NDArray[Any]]) -> bool:
    return len(first) != len(second) or any(
        a.shape != b.shape or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(first, second, strict=True)
    )


def other_values(key: str, name: str) -> list[Case]:
    """Return values to try: those listed above, or all other choices, or a slightly different number."""
    if (key, name) in OWN_CASES:
        return OWN_CASES[key, name]
    if name in CASES:
        return CASES[name]
    annotation, value = model_class(key).Config.model_fields[name].annotation, getattr(settings_of(key, {}), name)
    if get_origin(annotation) is Literal:
        return [({}, choice) for choice in get_args(annotation) if choice != value]
    if isinstance(value, bool):
        return [({}, not value)]
    assert isinstance(value, int | float), f"{key}.{name}: list a value to try"
    return [({}, value + 1 if isinstance(value, int) else 0.5 * value or 0.4)]


def kinds() -> dict[str, Any]:
    """Return the classes of the built-in models whose extras are installed."""
    found = {}
    for key in builtin_models():
        with suppress(ValueError):
            found[key] = model_class(key)
    return found


def cases() -> Iterator[tuple[str, str, Settings, Any]]:
    for key, kind in kinds().items():
        for name in kind.Config.model_fields:
            if (key, name) in SPEED_ONLY or (key, name) in UNTESTED:
                continue
            for needed, value in other_values(key, name):
                is_cloze = "cloze" in (needed.get("objective"), value)
                if not is_cloze or getattr(kind, "is_bidirectional", False):
                    yield key, name, needed, value


@pytest.mark.parametrize(
    ("key", "name", "needed", "value"), list(cases()), ids=lambda part: str(part).replace(" ", "")[:60]
)
def test_a_setting_of_a_model_has_an_effect(key: str, name: str, needed: Settings, value: Any) -> None:
    assert differs(outcome(key, needed), outcome(key, {**needed, name: value}))


NEEDED = [
    (key, name, value)
    for key, name, needed, value in cases()
    if name != "objective" and any(isinstance(one, str | tuple | bool) for one in needed.values())
]
"""Settings that need another choice, not only other numbers."""


@pytest.mark.parametrize(("key", "name", "value"), NEEDED, ids=lambda part: str(part).replace(" ", "")[:60])
def test_a_setting_that_others_leave_without_effect_is_rejected(key: str, name: str, value: Any) -> None:
    """Where other settings are needed above, either the setting has an effect without them, or it is an error."""
    rejection = ""
    try:
        settings_of(key, {name: value})
    except ValueError as error:
        rejection = str(error)
    assert name in rejection if rejection else differs(outcome(key, {}), outcome(key, {name: value}))


@pytest.mark.parametrize(("key", "name"), SPEED_ONLY)
def test_a_setting_of_speed_changes_rounding_only(key: str, name: str) -> None:
    """Adam would turn a gradient that is zero but for rounding into a step."""
    sgd = Training(epochs=2, batch_size=8, learning_rate=0.05, optimizer="sgd")
    needed = {"mlstm_form": "chunkwise"} if key == "xlstm" else {}
    first, second = (
        compute_outcome(key, settings_of(key, {**needed, **values}), sgd)
        for values in ({}, {name: SPEED_ONLY[key, name]})
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_every_setting_has_a_case() -> None:
    """Causal encoders have no masked items."""
    found = {(key, name) for key, name, *_ in cases()} | set(SPEED_ONLY) | UNTESTED
    for key, kind in kinds().items():
        missing = {name for name in kind.Config.model_fields if (key, name) not in found}
        assert missing <= (set() if getattr(kind, "is_bidirectional", False) else {"mask_prob", "mask_last_prob"}), key


@pytest.mark.parametrize("norm_first", [True, False])
def test_all_blocks_of_bert4rec_normalize_where_they_are_configured_to(norm_first: bool) -> None:
    """The setting also decides whether a norm follows the blocks, which the test above would notice alone."""
    model: Any = train("bert4rec", settings_of("bert4rec", {"norm_first": norm_first}), TRAINING, DATA, Run(0))
    assert [block.norm_first for block in model.blocks] == [norm_first]


@pytest.mark.parametrize("key", ["item_knn", "user_knn"])
def test_scores_and_predictions_need_the_same_number_of_neighbors(key: str) -> None:
    model: Any = train(key, settings_of(key, {**EXPLICIT, "min_k": 3}), TRAINING, DATA, Run(0))
    other: Any = train(key, settings_of(key, EXPLICIT), TRAINING, DATA, Run(0))
    users, items = (grid.ravel().astype(np.int32) for grid in np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS))
    known = queries().take(np.arange(N_USERS))
    np.testing.assert_allclose(model.score(known).ravel(), model.predict(users, items), rtol=1e-4)
    assert not np.allclose(model.score(known), other.score(known))


@pytest.mark.parametrize("normalize", [True, False])
def test_item_vectors_of_hstu_have_length_one_only_if_normalized(normalize: bool) -> None:
    model: Any = train("hstu", settings_of("hstu", {"normalize": normalize}), TRAINING, DATA, Run(0))
    assert np.allclose(np.linalg.norm(model.vectors, axis=1), 1.0, atol=1e-5) == normalize


def test_seen_items_among_the_negatives_of_neumf_do_not_count() -> None:
    """User 0 has all items but one."""
    log = dataset(Events.of([list(range(N_ITEMS - 1)), [0]]), N_ITEMS)
    kind: Any = model_class("neumf")
    model = kind(kind.Config(num_negatives=200), log.schema)
    (batch,) = model.batches(log, 2, np.random.default_rng(0))[1]
    own = batch.users_M == 0
    is_seen = batch.items_MK[own][:, 1:] < N_ITEMS - 1
    assert is_seen.any()
    assert ((batch.weights_MK[own][:, 1:] == 0) == is_seen).all()
    assert (batch.weights_MK[:, 0] == 1).all()


@pytest.mark.parametrize("key", ["gru4rec", "bert4rec"])
def test_item_biases_are_part_of_the_scores(key: str) -> None:
    model: Any = train(key, settings_of(key, {"item_bias": True}), TRAINING, DATA, Run(0))
    bias = model.offsets.detach().numpy()
    assert np.abs(bias).min() > 0
    expected = model.encode(queries()) @ model.vectors.T + bias
    np.testing.assert_allclose(model.score(queries()), expected, rtol=1e-4, atol=1e-5)
