"""The command line.

Nothing heavy is imported before a command runs, so that help appears at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from segue.cli.app import app
from segue.cli.console import show_warning, spell_option
from segue.core.messages import SegueWarning, name_arguments

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``segue ARGUMENTS`` and exit.

    The exit status is 0 on success, 2 for a user's error, 130 after an interruption, and 1 if something outside failed.
    """
    try:
        with name_arguments(spell_option), warnings.catch_warnings():
            warnings.simplefilter("always", SegueWarning)
            warnings.showwarning = show_warning
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
