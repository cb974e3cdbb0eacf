"""Hashes of functions and values change with everything that determines what they do."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from segue.experiment.records.code_hash import UnhashableValueError, hash_value


def function(source: str, name: str = "f", **variables: Any) -> FunctionType:
    """Return the function ``name`` of a piece of source, whose global variables are ``variables``."""
    namespace: dict[str, Any] = {"__name__": "custom", **variables}
    exec(compile(source, "custom.py", "exec"), namespace)
    found: FunctionType = namespace[name]
    return found


def closure(value: Any) -> Any:
    return lambda x: x * value


class Scale:
    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, x: Any) -> Any:
        return x * self.by


class Slotted:
    __slots__ = ("by",)

    def __init__(self, by: Any) -> None:
        self.by = by


def class_of(body: str) -> Any:
    namespace: dict[str, Any] = {"__name__": "custom"}
    exec(f"class A:\n    {body}", namespace)
    return namespace["A"]()


DIFFERENT: dict[str, tuple[Any, Any]] = {
    "constant": (function("def f(x): return x * 2"), function("def f(x): return x * 3")),
    "type of a constant": (function("def f(x): return x * 1"), function("def f(x): return x * 1.0")),
    "operation": (function("def f(x): return x * 2"), function("def f(x): return x + 2")),
    "constant in a lambda": (function("f = lambda x: 2"), function("f = lambda x: 3")),
    "constant in a nested function": (
        function("def f(x):\n    def g(): return 2\n    return g()"),
        function("def f(x):\n    def g(): return 3\n    return g()"),
    ),
    "default": (function("def f(x, k=2): return k"), function("def f(x, k=3): return k")),
    "keyword default": (function("def f(*, k=2): return k"), function("def f(*, k=3): return k")),
    "closure": (closure(2), closure(3)),
    "closure of a closure": (closure(closure(2)), closure(closure(3))),
    "global variable": (function("def f(x): return A", A=2), function("def f(x): return A", A=3)),
    "global variable in a comprehension": (
        function("def f(x): return [A for _ in x]", A=2),
        function("def f(x): return [A for _ in x]", A=3),
    ),
    "function that it calls": (
        function("def g(): return 2\ndef f(x): return g()"),
        function("def g(): return 3\ndef f(x): return g()"),
    ),
    "function of a package": (
        function("def f(x): return g(x)", g=np.mean),
        function("def f(x): return g(x)", g=np.sum),
    ),
    "array": (closure(np.array([1.0, 2.0])), closure(np.array([1.0, 3.0]))),
    "shape of an array": (np.zeros((2, 3)), np.zeros((3, 2))),
    "array of objects": (np.array(["a", None]), np.array(["b", None])),
    "tensor": (torch.tensor([1.0]), torch.tensor([2.0])),
    "table": (pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [2]})),
    "attribute": (Scale(2), Scale(3)),
    "slot": (Slotted(2), Slotted(3)),
    "module of a loss": (
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.nn.CrossEntropyLoss(label_smoothing=0.2),
    ),
    "method": (class_of("def f(self): return 2"), class_of("def f(self): return 3")),
    "class attribute": (class_of("a = 2"), class_of("a = 3")),
    "property": (class_of("f = property(lambda self: 2)"), class_of("f = property(lambda self: 3)")),
    "bound method": (Scale(2).__call__, Scale(3).__call__),
    "partial": (functools.partial(closure(2), 1), functools.partial(closure(2), 4)),
    "cached function": (functools.lru_cache(closure(2)), functools.lru_cache(closure(3))),
    "random generator": (np.random.default_rng(1), np.random.default_rng(2)),
    "set": ({1, 2}, {1, 3}),
    "dictionary": ({"a": 1}, {"b": 1}),
    "nesting": ([1, [2, 3]], [[1, 2], 3]),
    "path": (Path("a"), Path("b")),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different_values_have_different_hashes(kind: str) -> None:
    first, second = DIFFERENT[kind]
    assert hash_value(first, "f") != hash_value(second, "f")
    assert hash_value(first, "f") == hash_value(first, "f")


@pytest.mark.parametrize(
    "make",
    [
        lambda: function("def f(x): return g(x) * 2\ndef g(x): return f(x)"),
        lambda: closure(np.arange(3)),
        lambda: Scale({"a": [1, {2, 3}]}),
        lambda: class_of("def f(self): return 2"),
        lambda: torch.nn.Linear(1, 1, bias=False).requires_grad_(False).weight.fill_(0.5),
        lambda: pl.DataFrame({"a": [1, None]}),
    ],
)
def test_equal_values_have_the_same_hash(make: Any) -> None:
    assert hash_value(make(), "f") == hash_value(make(), "f")


def test_values_that_contain_themselves_are_hashed() -> None:
    first, second = Scale(2), Scale(2)
    first.by, second.by = first, [second]
    assert hash_value(first, "f") != hash_value(second, "f")


@pytest.mark.parametrize("value", [threading.Lock(), (one for one in [1])])
def test_values_without_a_readable_state_are_named(value: Any) -> None:
    message = (
        f"^the variable 'value' of closure.<locals>.<lambda> is a {type(value).__name__}, which cannot be compared"
    )
    with pytest.raises(UnhashableValueError, match=message):
        hash_value(closure(value), "the loss")


def test_an_open_file_and_endless_nesting_are_not_hashed(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as file, pytest.raises(UnhashableValueError, match="which cannot be compared"):
        hash_value(Scale(file), "f")
    nested: list[Any] = []
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(UnhashableValueError, match="f is nested too deeply"):
        hash_value(nested, "f")


def test_a_module_of_the_user_is_hashed_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "segue_test_module.py"
    source.write_text("A = 2\n")
    import segue_test_module  # type: ignore[import-not-found]

    found = function("def f(x): return m.A", m=segue_test_module)
    before = hash_value(found, "f")
    source.write_text("A = 3\n")
    assert hash_value(found, "f") != before
    source.unlink()
    with pytest.raises(UnhashableValueError, match="uses the module segue_test_module, whose source file is unknown"):
        hash_value(found, "f")


def test_a_hash_is_the_same_in_every_process() -> None:
    code = (
        "from segue.experiment.records.code_hash import hash_value\n"
        "def f(x): return x in {'a', 'b', 'c'} or x in A\n"
        "A = {'d', 'e', 'f'}\n"
        "print(hash_value(f, 'f'))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
