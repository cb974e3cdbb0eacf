"""Files in deploy/, and parsing of their PromQL queries."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from segue.serving.monitoring.metric_definitions import METRICS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "bool", "offset", "group_left", "group_right"}
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERIES = {metric.name + suffix: {*metric.labels} for metric in METRICS for suffix in SUFFIXES[metric.kind]}
"""Labels of each series exported by the service."""
TARGET_LABELS = {"job", "instance"}
"""Labels that Prometheus adds."""
EXTERNAL_SERIES = {
    "up",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
}
"""Series of Prometheus and its client library."""


def rules() -> list[dict[str, Any]]:
    """Return all recording rules and alerts in order."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: set(rule["record"].split(":")[0].split("_")) for rule in rules() if "record" in rule}
"""Labels of each recorded series, from the part of its name before the first colon."""


def series_names(query: str) -> set[str]:
    """Return the series that a query reads."""
    text = re.sub(r'"(\\.|[^"\\])*"', "", query)
    text = re.sub(r"\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\{[^}]*\}", " ", text)
    names = re.findall(r"(?<![\w.$:])[a-zA-Z_:][\w:]*\b(?!\s*\()", text)
    return set(names) - KEYWORDS


def label_matchers(query: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield all label matchers: series, label, operator, value."""
    for name, inner in re.findall(r'([a-zA-Z_:][\w:]*)\{((?:"(?:\\.|[^"\\])*"|[^{}"])*)\}', query):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:\\.|[^"\\])*)"', inner):
            yield name, label, operator, value
