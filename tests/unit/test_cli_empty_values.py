"""Options with an empty value are errors in every command: they are often unset variables of a shell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from command_line import call

from segue.cli.app import app


def options(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield command and option for every option that takes a value."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from options(inner, (*path, name))
    if path and not hasattr(command, "commands"):
        for one in command.params:
            if one.param_type_name == "option" and not one.is_flag:
                yield *path, max(one.opts, key=len)


OPTIONS = sorted(options(typer.main.get_command(app)))


@pytest.mark.parametrize("value", ["", " "])
def test_every_option_rejects_an_empty_value(capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert ("off-policy", "--limits") in OPTIONS
    assert ("data", "prepare", "--columns") in OPTIONS
    for *command, option in OPTIONS:
        status, out, err = call(capsys, *command, option, value)
        assert (status, out) == (2, ""), (command, option)
        assert err == f"error: {option}: got an empty value; leave the option out instead\n"


def test_of_a_repeated_option_each_value_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "ease", "--data", "simulated", "--set", "l2=3"]
    assert call(capsys, *arguments, "--set", "") == (
        2,
        "",
        "error: --set: got an empty value; leave the option out instead\n",
    )


@pytest.mark.parametrize("option", ["--seeds", "--columns"])
def test_a_list_without_a_value_is_rejected(capsys: pytest.CaptureFixture[str], option: str) -> None:
    status, _, err = call(capsys, "compare", "simulated?users=60&items=40&seed=3", "ease", "popular", option, ",")
    assert status == 2
    assert f"error: {option}: got ',', expected" in err
