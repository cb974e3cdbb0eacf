"""The pages in docs/ speak of what there is: links, settings, commands and Python are held against the code."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from sources import ROOT

from segue.cli.app import app
from segue.core.config import Settings, apply_overrides, parse
from segue.core.registry import builtin_models, model_class
from segue.experiment.clicks.click_plan import make_click_plan

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import reference  # noqa: E402 - made from the code by docs/reference.py

GENERATED = reference.pages()
WRITTEN = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).parts[0] != "reference"
}
PAGES = {**WRITTEN, **GENERATED}
READ = {
    **{f"docs/{name}": text for name, text in WRITTEN.items()},
    "README.md": (ROOT / "README.md").read_text("utf-8"),
}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[tuple[str, str, str]]:
    """Page, what follows the kind on the fence, and code, of every block of a kind."""
    return [
        (page, rest.strip(), code)
        for page, text in READ.items()
        for found, rest, code in FENCE.findall(text)
        if found == kind
    ]


def commands() -> list[tuple[str, str]]:
    """Page and command of every line in the shell blocks that begins with ``segue``."""
    lines = [(page, line) for page, _, code in [*blocks("sh"), *blocks("")] for line in code.splitlines()]
    return [(page, line) for page, line in lines if line.startswith("segue ")]


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    heads = re.findall(r"^#{1,6} (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


def broken(page: str, text: str) -> Iterator[str]:
    """Links of a page that lead nowhere."""
    for link in LINK.findall(FENCE.sub("", text)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else Path(os.path.relpath((DOCS / page).parent / path, DOCS)).as_posix()
        picture = Path(path).suffix == ".svg" and (DOCS / target).is_file()
        if not picture and (target not in PAGES or (anchor and anchor not in anchors(PAGES[target]))):
            yield f"{page}: {link}"


def parsed(line: str) -> Any:
    """The context of a command line as typer parses it; a wrong verb or option raises."""
    words = shlex.split(line, comments=True)[1:]
    command, context = typer.main.get_command(app), None
    while getattr(command, "commands", None):
        while words and words[0] in ("--json", "--version"):
            words.pop(0)
        verb = words.pop(0)
        command = command.commands[verb]
    return command.make_context(command.name, words, parent=context)


def understood(line: str) -> None:
    """Parse a command, and what it sets; a ``ValueError`` is a fault of the page."""
    context = parsed(line)
    given, verb = context.params, context.info_name
    settings, groups = given.get("set_") or [], reference.groups()
    if line.startswith("segue clicks "):
        if isinstance(given.get("model"), str):
            make_click_plan({"model": given["model"], "data": "table.csv"}, settings)
        return
    if verb in ("describe", "prepare", "evaluate"):
        group = "evaluation" if verb == "evaluate" else "filters"
        parse(groups[group], apply_overrides({group: groups[group]}, settings)[group], group)
    models = given.get("models") or ([given["model"]] if given.get("model") else [])
    models = [] if isinstance(models, Path) else models  # of segue serve, a folder
    for model in models:
        kinds = {
            name: groups[name] for name in ("run", "filters", "text", "knowledge", "split", "training", "evaluation")
        }
        kinds["model"] = model_class(model.partition("@")[0]).Config
        own = [re.sub(rf"^{re.escape(model)}\.", "model.", text) for text in settings]
        mine = [text for text in own if text.partition(".")[0] not in models]
        mine = [text for text in mine if text.partition("=")[0] != "source"]  # a folder that its reader has
        for group, values in apply_overrides(kinds, mine).items():
            parse(kinds[group], values, group)


def test_links_lead_somewhere() -> None:
    assert len(WRITTEN) > 30
    assert not [fault for page, text in PAGES.items() for fault in broken(page, text)]


def test_links_of_the_readme_lead_somewhere() -> None:
    links = [link for link in LINK.findall(READ["README.md"]) if not link.startswith("http")]
    assert links
    assert not [link for link in links if not (ROOT / link.partition("#")[0]).exists()]


def test_the_menu_holds_every_page() -> None:
    menu = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert menu <= PAGES.keys()
    assert not [page for page in PAGES.keys() - menu if page.split("/")[0] not in ("decisions", "results")]


def test_every_decision_is_listed_and_has_its_parts() -> None:
    records = sorted(page for page in WRITTEN if re.match(r"decisions/\d", page))
    assert [int(page[10:14]) for page in records] == list(range(1, len(records) + 1))
    for page in records:
        text = WRITTEN[page]
        assert f"]({page.removeprefix('decisions/')})" in WRITTEN["decisions/index.md"], page
        assert len(text.splitlines()) <= 60, page
        parts = re.findall(r"^\*\*(.+?)\.\*\*", text, re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences", "Measured or tried", "When to revisit"], page


def test_paths_that_decisions_name_exist() -> None:
    roots = (ROOT, ROOT / "src" / "segue", ROOT / "src" / "segue" / "models")
    named = {
        (page, path)
        for page in WRITTEN
        if page.startswith("decisions/")
        for path in re.findall(r"`((?:\w+/)+[\w.-]+)`", WRITTEN[page])
        if not path.startswith(("step/", "docs/reference"))
    }
    assert len(named) > 15
    assert not [found for found in named if not any((root / found[1]).exists() for root in roots)]


@pytest.mark.parametrize("group", reference.groups())
def test_every_setting_is_documented(group: str) -> None:
    kind: type[Settings] = reference.groups()[group]
    pages = "\n".join(GENERATED.values())
    for key, field in kind.model_fields.items():
        assert field.description, f"{group}.{key} has no text under it"
        assert f"| `{key}` |" in pages, f"{group}.{key}"


def test_every_model_and_verb_has_its_heading() -> None:
    assert set(re.findall(r"^## `(\w+)`$", GENERATED["reference/models.md"], re.MULTILINE)) == set(builtin_models())
    verbs = re.findall(r"^## `segue ([\w ]+)`$", GENERATED["reference/commands.md"], re.MULTILINE)
    assert {"train", "evaluate", "compare", "recommend", "similar", "runs", "verify", "doctor", "data list"} <= set(
        verbs
    )
    for page, text in GENERATED.items():
        assert not re.search(r"``|:\w+:`|\bNone\b \||PydanticUndefined|<class", FENCE.sub("", text)), page


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_understood(page: str, line: str) -> None:
    understood(line)


def test_wrong_commands_are_seen() -> None:
    for line in (
        "segue train xlstm --dta ml-100k",
        "segue trian xlstm",
        "segue train xlstm --data ml-100k --set widht=3",
        "segue train xlsm --data ml-100k",
        "segue evaluate latest --set ks=0",
        "segue clicks train deepfm --data shown.csv --set widht=3",
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011 - of typer, of the registry or of settings
            understood(line)


@pytest.mark.parametrize(("page", "code"), [(page, code) for page, _, code in blocks("python")])
def test_python_compiles(page: str, code: str) -> None:
    compile(code, page, "exec", dont_inherit=True)


RUN = [(page, code) for page, rest, code in blocks("python") if page != "README.md" and "notest" not in rest]


@pytest.mark.parametrize(("page", "code"), RUN)
def test_python_runs(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec", dont_inherit=True), {"__name__": "example"})


def test_the_model_of_the_guide_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from segue.core import registry
    from segue.testing import contract, cycle, hit_rate, train_small

    (code,) = [code for page, rest, code in blocks("python") if "followers.py" in rest]
    (tmp_path / "followers.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = metadata.EntryPoint("followers", "followers:Followers", "segue.models")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    contract("followers")
    assert hit_rate(train_small("followers", cycle().train), cycle()) > 0.95


def test_the_reference_is_not_committed() -> None:
    assert "/docs/reference/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
