"""The file system as registry."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from segue.core import registry
from segue.core.model import Model


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "made_up_entries"
    (folder / "parts").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "inside.py").write_text("")
    (folder / "beta.py").write_text("raise RuntimeError('imported by listing')")
    (folder / "alpha.py").write_text(
        "__all__ = ['second', 'first']\ndef first(): ...\ndef second(): ...\ndef third(): ..."
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_up_entries"
    for name in [name for name in sys.modules if name.split(".")[0] == "made_up_entries"]:
        del sys.modules[name]


def test_keys_are_listed_without_imports(package: str) -> None:
    assert registry.keys(package) == ["alpha", "beta"]


def test_load_module_and_exported_functions(package: str) -> None:
    actual = registry.load_module(package, "alpha", "letter")
    assert list(registry.exported_functions(actual)) == ["second", "first"]
    with pytest.raises(ValueError, match=r"letter: unknown 'alpa', did you mean 'alpha'\?"):
        registry.load_module(package, "alpa", "letter")


def test_models_are_found_by_file_name() -> None:
    files = {path.stem for path in (Path(registry.__file__).parents[1] / "models").glob("*.py")} - {"__init__"}
    assert files <= set(registry.model_keys())
    for key in files:
        assert issubclass(registry.model_class(key), Model)
    with pytest.raises(ValueError, match=r"model: unknown 'poplar', did you mean 'popular'\?"):
        registry.model_class("poplar")


def test_plugin_models_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = EntryPoint("my_model", "segue.models.baselines.popular:Popular", registry.PLUGINS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [outside] if group == registry.PLUGINS else [])
    assert "my_model" in registry.model_keys()
    assert registry.model_class("my_model").__name__ == "Popular"
