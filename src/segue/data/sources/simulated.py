"""A log made on the spot, of a world whose truth is known (:mod:`segue.data.simulator`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from segue.core.config import parse
from segue.data.raw_log import Say
from segue.data.simulator.settings import SimulatorSettings
from segue.data.writer import DatasetWriter

__all__ = ["ABOUT", "write"]

ABOUT = "A made-up film catalogue and its audience, of any size, with the best attainable scores known"


def write(settings: Mapping[str, str], folder: Path, say: Say) -> None:
    """Fill ``folder`` chunk by chunk with the log that ``settings`` describe.

    Raises:
        ValueError: a setting that :class:`SimulatorSettings` does not know or that is out of range.
    """
    wanted = parse(SimulatorSettings, settings, "simulated")
    from segue.data.simulator.world import World

    world = World.build(wanted)
    size = 0
    with DatasetWriter(folder, "simulated") as writer:
        for chunk in world.chunks():
            events = chunk.events
            writer.append(events.lengths, events.items, times=events.times, values=events.values)
            size += events.size
        say(f"simulated: {wanted.users:,} users, {wanted.items:,} items, {size:,} interactions, seed {wanted.seed}")
        writer.finish(world.catalogue.frame, pl.concat(list(world.profiles())), header=world.header)
