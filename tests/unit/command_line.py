"""Calls of the command line within the test process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segue.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run ``segue ARGUMENTS`` and return the exit status, standard output and standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def result(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    """Run ``segue ARGUMENTS --json``, which has to succeed, and return the parsed output."""
    status, out, err = call(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)
