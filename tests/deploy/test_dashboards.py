"""Grafana dashboards: generated from dashboards.toml, valid, and provisioned.

The models below describe the parts of schema version 39 that are used, after Grafana's own schema.
"""

import importlib.util
import json
import re
from collections import Counter
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Len
from deployment import DEPLOY
from pydantic import BaseModel, ConfigDict

GRAFANA = DEPLOY / "grafana"
UNITS = {"short", "s", "bytes", "percentunit", "reqps", "cps"}
FILES = sorted((GRAFANA / "dashboards").iterdir())
NAMES = [path.stem for path in FILES]


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Source(StrictModel):
    type: Literal["prometheus"]
    uid: Literal["${source}"]


class GridPosition(StrictModel):
    x: Annotated[int, Ge(0)]
    y: Annotated[int, Ge(0)]
    w: Annotated[int, Gt(0), Le(24)]
    h: Annotated[int, Gt(0)]


class Target(StrictModel):
    refId: Annotated[str, Len(1, 1)]
    datasource: Source
    expr: Annotated[str, Len(1)]
    legendFormat: str
    instant: bool
    range: bool


class Threshold(StrictModel):
    value: float | None
    color: Literal["green", "orange", "red"]


class Thresholds(StrictModel):
    mode: Literal["absolute"]
    steps: Annotated[list[Threshold], Len(1)]


class Mode(StrictModel):
    mode: str


class LineStyle(StrictModel):
    lineWidth: int
    fillOpacity: int
    showPoints: Literal["never"]
    thresholdsStyle: Mode


class Field(StrictModel):
    unit: str
    color: Mode
    thresholds: Thresholds
    min: float | None = None
    max: float | None = None
    custom: LineStyle | None = None


class Fields(StrictModel):
    defaults: Field
    overrides: Annotated[list[Any], Len(0, 0)]


class ReduceOptions(StrictModel):
    calcs: list[Literal["lastNotNull"]]
    fields: str
    values: bool


class StatOptions(StrictModel):
    reduceOptions: ReduceOptions
    textMode: Literal["auto", "name"]
    colorMode: Literal["value"]
    graphMode: Literal["none"]
    justifyMode: Literal["auto"]
    orientation: Literal["auto"]


class Legend(StrictModel):
    displayMode: Literal["list"]
    placement: Literal["bottom"]
    showLegend: bool
    calcs: list[str]


class Tooltip(StrictModel):
    mode: Literal["multi"]
    sort: Literal["desc"]


class LineOptions(StrictModel):
    legend: Legend
    tooltip: Tooltip


class Heading(StrictModel):
    id: int
    type: Literal["row"]
    title: Annotated[str, Len(1)]
    collapsed: bool
    gridPos: GridPosition
    panels: Annotated[list[Any], Len(0, 0)]


class Panel(StrictModel):
    id: int
    type: Literal["stat", "timeseries"]
    title: Annotated[str, Len(1)]
    description: Annotated[str, Len(1)]
    datasource: Source
    gridPos: GridPosition
    targets: Annotated[list[Target], Len(1)]
    options: StatOptions | LineOptions
    fieldConfig: Fields


class Choice(StrictModel):
    text: list[str]
    value: list[str]


class Labels(StrictModel):
    refId: str
    query: str


class Variable(StrictModel):
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


class Variables(StrictModel):
    list: list[Variable]


class Notes(StrictModel):
    list: Annotated[list[Any], Len(0, 0)]


class Link(StrictModel):
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


class Dashboard(StrictModel):
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
def dashboard(request: pytest.FixtureRequest) -> Dashboard:
    return Dashboard.model_validate(json.loads(request.param.read_text("utf-8")))


def test_dashboards_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_dashboards", GRAFANA / "make_dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    generated = {name: module.render(one) for name, one in module.build_dashboards().items()}
    assert generated == {path.stem: path.read_text("utf-8") for path in FILES}, (
        "run python deploy/grafana/make_dashboards.py"
    )


def test_names_are_unique(dashboard: Dashboard) -> None:
    assert max(Counter(panel.id for panel in dashboard.panels).values()) == 1
    titles = [panel.title for panel in dashboard.panels if isinstance(panel, Panel)]
    assert max(Counter(titles).values()) == 1
    for panel in dashboard.panels:
        if isinstance(panel, Panel):
            assert [target.refId for target in panel.targets] == sorted({target.refId for target in panel.targets})


def test_panels_do_not_overlap(dashboard: Dashboard) -> None:
    occupied: set[tuple[int, int]] = set()
    for panel in dashboard.panels:
        position = panel.gridPos
        cells = {
            (x, y)
            for x in range(position.x, position.x + position.w)
            for y in range(position.y, position.y + position.h)
        }
        assert position.x + position.w <= 24
        assert not cells & occupied, panel.title
        occupied |= cells


def test_panel_types(dashboard: Dashboard) -> None:
    for panel in dashboard.panels:
        if isinstance(panel, Panel):
            is_number = panel.type == "stat"
            assert isinstance(panel.options, StatOptions) is is_number
            assert (panel.fieldConfig.defaults.custom is None) is is_number
            assert all((target.instant, target.range) == (is_number, not is_number) for target in panel.targets)
            assert panel.fieldConfig.defaults.unit in UNITS
            limits = [step.value for step in panel.fieldConfig.defaults.thresholds.steps]
            assert limits[0] is None
            assert limits[1:] == sorted(limit for limit in limits if limit is not None)
            assert panel.description.endswith(".")


def test_variables_are_declared(dashboard: Dashboard) -> None:
    declared = {variable.name for variable in dashboard.templating.list} | {"__rate_interval", "__range"}
    text = dashboard.model_dump_json()
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__all"} <= declared


def test_provisioning() -> None:
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
