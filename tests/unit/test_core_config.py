"""Settings are typed; invalid settings are reported together with suggestions."""

import re
from typing import Annotated

import pytest
from annotated_types import Gt
from pydantic import Field

from segue.core.config import Settings, apply_overrides, parse, suggest
from segue.features.knowledge import EntityVectorSettings
from segue.models.neighbors.ease import EASE


class Inner(Settings):
    """A group within a group."""

    rate: float = 0.1
    """How fast."""


class Outer(Settings):
    """A group."""

    width: Annotated[int, Gt(0)] = 8
    """How wide."""
    name: str = "a"
    """What it is called."""
    inner: Inner = Inner()
    """More."""
    maybe: Inner | None = None
    """Perhaps more."""


class Other(Settings):
    """Another group."""

    epochs: int = 1
    """How long."""
    name: str = "b"
    """What it is called."""


GROUPS: dict[str, type[Settings]] = {"model": Outer, "training": Other}


def test_valid_settings() -> None:
    settings = parse(Outer, {"width": 4, "inner": {"rate": 0.5}}, "model")
    assert (settings.width, settings.inner.rate, settings.name) == (4, 0.5, "a")


def test_all_errors_are_reported_together() -> None:
    with pytest.raises(ValueError, match="unknown") as caught:
        parse(Outer, {"widht": 4, "width": 0, "name": 3, "inner": {"rat": 1}, "maybe": {"rat": 1}}, "model")
    lines = sorted(str(caught.value).splitlines())
    assert len(lines) == 5
    assert "model.inner.rat: unknown key, did you mean 'rate'?" in lines
    assert "model.widht: unknown key, did you mean 'width'?" in lines
    assert any(line.startswith("model.width: got 0: ") and "greater than 0" in line for line in lines)
    assert any(line.startswith("model.name: got 3: ") for line in lines)
    assert any(line.startswith("model.maybe.rat: unknown key") for line in lines)


def test_settings_created_in_python_report_errors_in_the_same_words() -> None:
    with pytest.raises(ValueError, match="unknown key") as caught:
        Outer(widht=4, width=0, inner=Inner(), maybe={"rat": 1})  # type: ignore[call-arg]
    assert sorted(str(caught.value).splitlines()) == [
        "Outer.maybe.rat: unknown key, did you mean 'rate'?",
        "Outer.widht: unknown key, did you mean 'width'?",
        "Outer.width: got 0: Input should be greater than 0",
    ]
    with pytest.raises(ValueError, match=r"^EntityVectorSettings\.embedding_dim: got -1: .*greater than 0$"):
        EntityVectorSettings(embedding_dim=-1)
    with pytest.raises(ValueError, match=r"^EASE\.Config\.l2: got 0: .*greater than 0$"):
        EASE.Config(l2=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_numbers_are_rejected(value: float) -> None:
    with pytest.raises(ValueError, match=r"model\.inner\.rate: got (nan|inf)"):
        parse(Outer, {"inner": {"rate": value}}, "model")


class Numbers(Settings):
    """Settings of numbers and truth values."""

    sizes: tuple[Annotated[int, Gt(0)], ...] = (8,)
    """Numbers in a list."""
    shares: dict[str, float] = Field(default={})
    """Numbers by name."""
    limit: float | None = None
    """A number or none."""
    fast: bool = False
    """A truth value."""
    either: bool | int = 3
    """A truth value or a number."""


def test_truth_values_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="no numbers") as caught:
        parse(Numbers, {"sizes": [4, True], "shares": {"a": False}, "limit": True}, "model")
    assert str(caught.value).splitlines() == [
        "model.sizes: got [4, True]: true and false are no numbers",
        "model.shares: got {'a': False}: true and false are no numbers",
        "model.limit: got True: true and false are no numbers",
    ]
    assert parse(Numbers, {"fast": True, "either": True, "limit": None}, "model").either is True


def test_settings_are_frozen_and_documented() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().width = 3  # type: ignore[misc]
    assert Outer.model_fields["width"].description == "How wide."


def test_suggest_closest_or_list_all() -> None:
    assert suggest("widht", ["width", "depth"]) == ", did you mean 'width'?"
    assert suggest("xyz", ["width", "depth"]) == "; known: depth, width"


def test_overrides_are_assigned_to_groups() -> None:
    values = apply_overrides(
        GROUPS, ["width=3", "training.name=x", "model.name=y=z", "epochs = 7", 'inner={"rate": 1}']
    )
    assert values == {
        "model": {"width": 3, "name": "y=z", "inner": {"rate": 1}},
        "training": {"name": "x", "epochs": 7},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("true", True), ("[1, 2]", [1, 2]), ("null", None), ("ndcg@10", "ndcg@10")],
)
def test_override_values_are_parsed_as_json(text: str, value: object) -> None:
    assert apply_overrides(GROUPS, [f"width={text}"])["model"]["width"] == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width", "--set width: expected key=value"),
        ("=3", ": unknown key"),
        ("name=x", "name: ambiguous, expected model.name or training.name"),
        ("epoch=1", "epoch: unknown key, did you mean 'epochs'?"),
        ("trainig.epochs=1", "trainig.epochs: unknown group 'trainig', did you mean 'training'?"),
        ("model.inner.rate=1", "model.inner.rate: unknown group 'model.inner'"),
    ],
)
def test_invalid_overrides(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_overrides(GROUPS, [text])


def test_errors_of_overrides_are_reported_together() -> None:
    with pytest.raises(ValueError, match=r"epoch: unknown.*\nname: ambiguous"):
        apply_overrides(GROUPS, ["epoch=1", "name=x", "width=2"])
