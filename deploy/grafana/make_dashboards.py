"""Generate the dashboards in ``dashboards/`` from ``dashboards.toml``: ``python deploy/grafana/make_dashboards.py``.

The JSON has schema version 39, supported by Grafana 11 and later.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMA_VERSION = 39
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${source}"}
SELECTION = 'job="$job", instance=~"$instance"'


def build_dashboards() -> dict[str, dict[str, Any]]:
    """Build all dashboards, by file name."""
    specs = tomllib.loads((HERE / "dashboards.toml").read_text(encoding="utf-8"))
    return {name: _build_dashboard(name, spec) for name, spec in specs.items()}


def _build_dashboard(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    link = {
        "title": "Segue",
        "type": "dashboards",
        "tags": ["segue"],
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
    link_options = {"asDropdown": False, "targetBlank": False, "includeVars": True, "keepTime": True}
    return {
        "uid": f"segue-{name}",
        "title": spec["title"],
        "description": spec["text"],
        "tags": ["segue"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [{**link, **link_options}],
        "panels": list(_build_panels(spec["rows"])),
    }


def _variables() -> list[dict[str, Any]]:
    """Build the variables selected at the top of a dashboard."""
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}
    query = {"type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1}
    job = {"refId": "job", "query": "label_values(segue_build_info, job)"}
    instance = {"refId": "instance", "query": 'label_values(segue_build_info{job="$job"}, instance)'}
    every = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return [
        source,
        {"name": "job", "label": "Service", **query, "query": job},
        {"name": "instance", "label": "Instance", **query, **every, "query": instance},
    ]


def _build_panels(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield headings and panels, row by row."""
    count, y = 0, 0
    for row in rows:
        count += 1
        position = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": count, "type": "row", "title": row["title"], "collapsed": False, "gridPos": position, "panels": []}
        x, y, size = 0, y + 1, 0
        for panel in row["panels"]:
            size = 4 if panel.get("number") else 8
            if x + size > WIDTH:
                x, y = 0, y + size
            count += 1
            yield _build_panel(count, panel, {"x": x, "y": y, "w": size, "h": size})
            x += size
        y += size


def _build_panel(panel_id: int, panel: Mapping[str, Any], position: dict[str, int]) -> dict[str, Any]:
    is_number = panel.get("number", False)
    targets = [
        {
            "refId": chr(ord("A") + n),
            "datasource": SOURCE,
            "expr": query.replace("{@", "{" + SELECTION),
            "legendFormat": legend or "__auto",
            "instant": is_number,
            "range": not is_number,
        }
        for n, (query, legend) in enumerate(panel["queries"])
    ]
    has_legend = bool(panel["queries"][0][1])
    return {
        "id": panel_id,
        "type": "stat" if is_number else "timeseries",
        "title": panel["title"],
        "description": panel["text"],
        "datasource": SOURCE,
        "gridPos": position,
        "targets": targets,
        "options": _number_options(has_legend) if is_number else _line_options(),
        "fieldConfig": {"defaults": _field_defaults(panel), "overrides": []},
    }


def _field_defaults(panel: Mapping[str, Any]) -> dict[str, Any]:
    limits = panel.get("limits", [])
    colors = ["green", "orange", "red"][: len(limits) + 1]
    ordered = reversed(colors) if panel.get("descending") else colors
    steps = [
        {"value": threshold, "color": color} for threshold, color in zip([None, *sorted(limits)], ordered, strict=True)
    ]
    is_number = panel.get("number", False)
    field: dict[str, Any] = {
        "unit": panel.get("unit", "short"),
        "color": {"mode": "thresholds" if is_number and limits else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if is_number:
        return field
    line = {"lineWidth": 1, "fillOpacity": 5, "showPoints": "never"}
    field |= {"min": 0, "custom": {**line, "thresholdsStyle": {"mode": "dashed" if limits else "off"}}}
    return field | ({"max": panel["max"]} if "max" in panel else {})


def _number_options(has_legend: bool) -> dict[str, Any]:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "name" if has_legend else "auto",
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
    }


def _line_options() -> dict[str, Any]:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def render(dashboard: Mapping[str, Any]) -> str:
    """Return a dashboard as JSON."""
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, dashboard in build_dashboards().items():
        (HERE / "dashboards" / f"{name}.json").write_text(render(dashboard), encoding="utf-8")
