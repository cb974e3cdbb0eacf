"""Options of ``python -m benchmarks`` and the parts that read them."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module
from inspect import getsource

import pytest
import torch

from benchmarks import __main__ as command


@pytest.mark.parametrize("option", ["threads", "seeds", "models"])
def test_the_help_lists_every_part_that_reads_an_option(option: str) -> None:
    listed = getattr(command, f"WITH_{option.upper()}")
    assert set(listed) <= set(command.PARTS)
    for part in command.MODULES:
        source = getsource(import_module(f"benchmarks.{part}"))
        names = (f"options.{option}", f"settings.{option}") if part == "api" else (f"options.{option}",)
        assert any(name in source for name in names) == (part in listed), part


def test_threads_are_limited_in_this_process() -> None:
    before = torch.get_num_threads()
    try:
        for count in (2, 1):
            command.use_threads(Namespace(part="two_stage", threads=count))
            assert torch.get_num_threads() == count
        command.use_threads(Namespace(part="two_stage", threads=None))
        assert torch.get_num_threads() == 1
    finally:
        command.use_threads(Namespace(part="two_stage", threads=before))


def test_parts_that_read_the_number_of_threads_have_a_default() -> None:
    options = Namespace(part="word2vec", threads=None)
    command.use_threads(options)
    assert options.threads >= 1
    options = Namespace(part="word2vec", threads=3)
    command.use_threads(options)
    assert options.threads == 3


@pytest.mark.parametrize(
    ("part", "count", "message"),
    [
        ("erasure", 2, "--threads: got 2, but part erasure does not use it; leave it out"),
        ("two_stage", 0, "--threads: got 0, expected at least 1"),
        ("word2vec", -1, "--threads: got -1, expected at least 1"),
    ],
)
def test_threads_without_effect_are_refused(part: str, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command.use_threads(Namespace(part=part, threads=count))
