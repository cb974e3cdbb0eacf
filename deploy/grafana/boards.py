"""Makes the boards in ``dashboards/`` from ``boards.toml``: ``python deploy/grafana/boards.py``.

JSON of schema version 39, which Grafana 11 and later read.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMA = 39
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${source}"}
CHOSEN = 'job="$job", instance=~"$instance"'


def boards() -> dict[str, dict[str, Any]]:
    """Every board, by the name of its file."""
    told = tomllib.loads((HERE / "boards.toml").read_text(encoding="utf-8"))
    return {name: _board(name, about) for name, about in told.items()}


def _board(name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    link = {
        "title": "Segue",
        "type": "dashboards",
        "tags": ["segue"],
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
    ways = {"asDropdown": False, "targetBlank": False, "includeVars": True, "keepTime": True}
    return {
        "uid": f"segue-{name}",
        "title": about["title"],
        "description": about["text"],
        "tags": ["segue"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "timezone": "browser",
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "links": [{**link, **ways}],
        "panels": list(_placed(about["rows"])),
    }


def _variables() -> list[dict[str, Any]]:
    """What is chosen at the top of a board."""
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}
    asked = {"type": "query", "datasource": SOURCE, "refresh": 2, "sort": 1}
    job = {"refId": "job", "query": "label_values(segue_build_info, job)"}
    instance = {"refId": "instance", "query": 'label_values(segue_build_info{job="$job"}, instance)'}
    every = {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}}
    return [
        source,
        {"name": "job", "label": "Service", **asked, "query": job},
        {"name": "instance", "label": "Instance", **asked, **every, "query": instance},
    ]


def _placed(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Headings and panels, one row below the other."""
    count, y = 0, 0
    for row in rows:
        count += 1
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": count, "type": "row", "title": row["title"], "collapsed": False, "gridPos": place, "panels": []}
        x, y, side = 0, y + 1, 0
        for panel in row["panels"]:
            side = 4 if panel.get("number") else 8
            if x + side > WIDTH:
                x, y = 0, y + side
            count += 1
            yield _panel(count, panel, {"x": x, "y": y, "w": side, "h": side})
            x += side
        y += side


def _panel(count: int, panel: Mapping[str, Any], place: dict[str, int]) -> dict[str, Any]:
    number = panel.get("number", False)
    targets = [
        {
            "refId": chr(ord("A") + n),
            "datasource": SOURCE,
            "expr": query.replace("{@", "{" + CHOSEN),
            "legendFormat": called or "__auto",
            "instant": number,
            "range": not number,
        }
        for n, (query, called) in enumerate(panel["queries"])
    ]
    named = bool(panel["queries"][0][1])
    return {
        "id": count,
        "type": "stat" if number else "timeseries",
        "title": panel["title"],
        "description": panel["text"],
        "datasource": SOURCE,
        "gridPos": place,
        "targets": targets,
        "options": _number(named) if number else _lines(),
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
    }


def _field(panel: Mapping[str, Any]) -> dict[str, Any]:
    limits = panel.get("limits", [])
    colours = ["green", "orange", "red"][: len(limits) + 1]
    ordered = reversed(colours) if panel.get("falls") else colours
    steps = [{"value": at, "color": colour} for at, colour in zip([None, *sorted(limits)], ordered, strict=True)]
    number = panel.get("number", False)
    field: dict[str, Any] = {
        "unit": panel.get("unit", "short"),
        "color": {"mode": "thresholds" if number and limits else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if number:
        return field
    line = {"lineWidth": 1, "fillOpacity": 5, "showPoints": "never"}
    field |= {"min": 0, "custom": {**line, "thresholdsStyle": {"mode": "dashed" if limits else "off"}}}
    return field | ({"max": panel["top"]} if "top" in panel else {})


def _number(named: bool) -> dict[str, Any]:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "name" if named else "auto",
        "colorMode": "value",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
    }


def _lines() -> dict[str, Any]:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def text(board: Mapping[str, Any]) -> str:
    """A board as it stands in its file."""
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, board in boards().items():
        (HERE / "dashboards" / f"{name}.json").write_text(text(board), encoding="utf-8")
