"""Boards for Grafana: made from their table, of a form that Grafana reads, and found where they are mounted.

The form is that of schema version 39 as far as it is used here, written down from Grafana's own description of it.
"""

import importlib.util
import json
import re
from collections import Counter
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Len
from operator_docs import DEPLOY
from pydantic import BaseModel, ConfigDict

GRAFANA = DEPLOY / "grafana"
UNITS = {"short", "s", "bytes", "percentunit", "reqps", "cps"}
FILES = sorted((GRAFANA / "dashboards").iterdir())
NAMES = [path.stem for path in FILES]


class Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Source(Form):
    type: Literal["prometheus"]
    uid: Literal["${source}"]


class Place(Form):
    x: Annotated[int, Ge(0)]
    y: Annotated[int, Ge(0)]
    w: Annotated[int, Gt(0), Le(24)]
    h: Annotated[int, Gt(0)]


class Target(Form):
    refId: Annotated[str, Len(1, 1)]
    datasource: Source
    expr: Annotated[str, Len(1)]
    legendFormat: str
    instant: bool
    range: bool


class Limit(Form):
    value: float | None
    color: Literal["green", "orange", "red"]


class Limits(Form):
    mode: Literal["absolute"]
    steps: Annotated[list[Limit], Len(1)]


class Mode(Form):
    mode: str


class Line(Form):
    lineWidth: int
    fillOpacity: int
    showPoints: Literal["never"]
    thresholdsStyle: Mode


class Field(Form):
    unit: str
    color: Mode
    thresholds: Limits
    min: float | None = None
    max: float | None = None
    custom: Line | None = None


class Fields(Form):
    defaults: Field
    overrides: Annotated[list[Any], Len(0, 0)]


class Reduced(Form):
    calcs: list[Literal["lastNotNull"]]
    fields: str
    values: bool


class StatOptions(Form):
    reduceOptions: Reduced
    textMode: Literal["auto", "name"]
    colorMode: Literal["value"]
    graphMode: Literal["none"]
    justifyMode: Literal["auto"]
    orientation: Literal["auto"]


class Legend(Form):
    displayMode: Literal["list"]
    placement: Literal["bottom"]
    showLegend: bool
    calcs: list[str]


class Tooltip(Form):
    mode: Literal["multi"]
    sort: Literal["desc"]


class LineOptions(Form):
    legend: Legend
    tooltip: Tooltip


class Heading(Form):
    id: int
    type: Literal["row"]
    title: Annotated[str, Len(1)]
    collapsed: bool
    gridPos: Place
    panels: Annotated[list[Any], Len(0, 0)]


class Panel(Form):
    id: int
    type: Literal["stat", "timeseries"]
    title: Annotated[str, Len(1)]
    description: Annotated[str, Len(1)]
    datasource: Source
    gridPos: Place
    targets: Annotated[list[Target], Len(1)]
    options: StatOptions | LineOptions
    fieldConfig: Fields


class Choice(Form):
    text: list[str]
    value: list[str]


class Labels(Form):
    refId: str
    query: str


class Variable(Form):
    name: str
    label: str
    type: Literal["datasource", "query"]
    query: str | Labels
    refresh: Literal[1, 2]
    datasource: Source | None = None
    sort: Literal[1] | None = None
    multi: bool = False
    includeAll: bool = False
    allValue: str | None = None
    current: Choice | None = None


class Variables(Form):
    list: list[Variable]


class Notes(Form):
    list: Annotated[list[Any], Len(0, 0)]


class Link(Form):
    title: str
    type: Literal["dashboards"]
    tags: list[str]
    icon: str
    tooltip: str
    url: str
    asDropdown: bool
    targetBlank: bool
    includeVars: bool
    keepTime: bool


class Board(Form):
    uid: Annotated[str, Len(8, 40)]
    title: str
    description: str
    tags: list[str]
    schemaVersion: Literal[39]
    version: Literal[1]
    timezone: Literal["browser"]
    editable: bool
    graphTooltip: Literal[0, 1, 2]
    refresh: str
    time: dict[Literal["from", "to"], str]
    templating: Variables
    annotations: Notes
    links: list[Link]
    panels: list[Heading | Panel]


@pytest.fixture(params=FILES, ids=NAMES)
def board(request: pytest.FixtureRequest) -> Board:
    return Board.model_validate(json.loads(request.param.read_text("utf-8")))


def test_boards_are_those_of_the_table() -> None:
    spec = importlib.util.spec_from_file_location("boards", GRAFANA / "boards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = {name: module.text(one) for name, one in module.boards().items()}
    assert made == {path.stem: path.read_text("utf-8") for path in FILES}, "run python deploy/grafana/boards.py"


def test_names_are_unique(board: Board) -> None:
    assert max(Counter(panel.id for panel in board.panels).values()) == 1
    titles = [panel.title for panel in board.panels if isinstance(panel, Panel)]
    assert max(Counter(titles).values()) == 1
    for panel in board.panels:
        if isinstance(panel, Panel):
            assert [target.refId for target in panel.targets] == sorted({target.refId for target in panel.targets})


def test_panels_stand_beside_each_other(board: Board) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board.panels:
        place = panel.gridPos
        cells = {(x, y) for x in range(place.x, place.x + place.w) for y in range(place.y, place.y + place.h)}
        assert place.x + place.w <= 24
        assert not cells & taken, panel.title
        taken |= cells


def test_panels_are_of_their_kind(board: Board) -> None:
    for panel in board.panels:
        if isinstance(panel, Panel):
            number = panel.type == "stat"
            assert isinstance(panel.options, StatOptions) is number
            assert (panel.fieldConfig.defaults.custom is None) is number
            assert all((target.instant, target.range) == (number, not number) for target in panel.targets)
            assert panel.fieldConfig.defaults.unit in UNITS
            limits = [step.value for step in panel.fieldConfig.defaults.thresholds.steps]
            assert limits[0] is None
            assert limits[1:] == sorted(limit for limit in limits if limit is not None)
            assert panel.description.endswith(".")


def test_variables_are_declared(board: Board) -> None:
    declared = {variable.name for variable in board.templating.list} | {"__rate_interval", "__range"}
    text = board.model_dump_json()
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__all"} <= declared


def test_grafana_finds_them() -> None:
    assert [json.loads(path.read_text("utf-8"))["uid"] for path in FILES] == [f"segue-{name}" for name in NAMES]
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text("utf-8"))
    boards = yaml.safe_load((GRAFANA / "provisioning/dashboards/segue.yaml").read_text("utf-8"))
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert source["apiVersion"] == boards["apiVersion"] == 1
    assert boards["providers"][0]["options"]["path"] == mounts["./grafana/dashboards"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    home = compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{mounts['./grafana/dashboards']}/service.json"
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    assert source["datasources"][0]["type"] == "prometheus"
