"""Simulated log of a world with known optimum (:mod:`segue.data.simulator`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from segue.core.config import parse
from segue.data.raw_log import Log
from segue.data.simulator.settings import SimulatorSettings
from segue.data.writer import DatasetWriter

__all__ = ["ABOUT", "write"]

ABOUT = "Simulated movie catalog and users, of any size, with known best attainable metrics"


def write(settings: Mapping[str, str], folder: Path, log: Log) -> None:
    """Write the log that ``settings`` describe to ``folder``, in chunks.

    Raises:
        ValueError: a setting is unknown or out of range; see :class:`SimulatorSettings`.
    """
    parsed = parse(SimulatorSettings, settings, "simulated")
    from segue.data.simulator.world import SimulatedWorld

    world = SimulatedWorld.build(parsed)
    size = 0
    with DatasetWriter(folder, "simulated") as writer:
        for chunk in world.chunks():
            events = chunk.events
            writer.append(events.lengths, events.items, times=events.times, values=events.values)
            size += events.size
        log(f"simulated: {parsed.users:,} users, {parsed.items:,} items, {size:,} interactions, seed {parsed.seed}")
        writer.finish(world.catalog.frame, pl.concat(list(world.profiles())), header=world.header)
