"""``python -m segue``: the command line."""

from segue.cli import main

main()
