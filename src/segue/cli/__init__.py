"""The command line. Nothing heavy is imported before a verb runs, so that help comes at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from segue.cli.app import app

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``segue ARGUMENTS`` and leave.

    The exit status is 0 when done, 2 for a user's error, 130 when interrupted, and 1 when something outside failed.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="segue")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "segue":
            raise
        print(f"error: {error.name} is not installed: pip install {error.name}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)
