"""What an operator is given, as it lies in deploy/, and how its queries are read."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from segue.serving.monitoring.metric_definitions import INSTRUMENTS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "bool", "offset", "group_left", "group_right"}
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERIES = {one.name + suffix: {*one.labels} for one in INSTRUMENTS for suffix in SUFFIXES[one.kind]}
"""Labels by the name of each series that the service makes."""
GIVEN = {"job", "instance"}
"""Labels that Prometheus adds."""
OTHERS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"}
"""Series that Prometheus and its library make."""


def rules() -> list[dict[str, Any]]:
    """Rules in their order, those that record and those that warn."""
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: set(rule["record"].split(":")[0].split("_")) for rule in rules() if "record" in rule}
"""Labels by the name of each series that is recorded: they stand before the first colon."""


def names(query: str) -> set[str]:
    """Series that a query reads."""
    text = re.sub(r'"(\\.|[^"\\])*"', "", query)
    text = re.sub(r"\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\{[^}]*\}", " ", text)
    found = re.findall(r"(?<![\w.$:])[a-zA-Z_:][\w:]*\b(?!\s*\()", text)
    return set(found) - WORDS


def selected(query: str) -> Iterator[tuple[str, str, str, str]]:
    """Every condition on a label: series, label, operator, value."""
    for name, inner in re.findall(r'([a-zA-Z_:][\w:]*)\{((?:"(?:\\.|[^"\\])*"|[^{}"])*)\}', query):
        for label, operator, value in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:\\.|[^"\\])*)"', inner):
            yield name, label, operator, value
