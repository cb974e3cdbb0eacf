"""``segue abtest``: analyze an A/B test of a service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.cli.console import Json, Terminal

__all__ = ["abtest"]


def abtest(
    context: typer.Context,
    store: Annotated[str, typer.Option(metavar="ADDRESS", help="Event store of the service.")],
    experiment: Annotated[str, typer.Option(metavar="NAME", help="Name of the experiment.")],
    action: Annotated[str, typer.Option(help="Kind of event that counts as the outcome.")] = "purchase",
    value: Annotated[
        bool, typer.Option("--value", help="Sum the values of events, instead of counting users with an event.")
    ] = False,
    within: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="Time after a user's first exposure during which events count; users count once it has passed.",
        ),
    ] = None,
    shown: Annotated[bool, typer.Option("--shown", help="Count only events with items that were shown.")] = False,
    alpha: Annotated[
        float, typer.Option(help="Probability of any false positive, over all analyses and treatments.")
    ] = 0.05,
    expected: Annotated[
        int, typer.Option(min=1, metavar="USERS", help="Expected number of users; choose it before the first analysis.")
    ] = 10_000,
    experiments: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File that defines the experiment, if the store has no record of it."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare the variants of an A/B test, as often as you like.

    The unit is the user: the first exposure decides the variant and when events begin to count.
    Intervals and p-values are valid at every time of analysis, so you may stop as soon as the result is clear.
    """
    import time
    from contextlib import closing

    from segue.core.config import suggest
    from segue.experiment.abtest import analyze
    from segue.serving.experiments.assignment import load_recorded_experiment, read_experiments
    from segue.serving.stores.open import open_store
    from segue.serving.stores.store import StoreError

    terminal = Terminal.from_context(context, json)
    definition = None
    if experiments is not None:
        defined = {one.name: one for one in read_experiments(experiments)}
        if experiment not in defined:
            raise ValueError(f"{experiments}: no experiment '{experiment}'{suggest(experiment, defined)}")
        definition = defined[experiment]
    _check_store_file(store)
    try:
        with closing(open_store(store)) as opened:
            record = analyze(
                opened,
                experiment,
                definition or load_recorded_experiment(opened, experiment),
                action=action,
                value=value,
                within=within,
                shown=shown,
                alpha=alpha,
                expected_users=expected,
                now=int(time.time()),
            )
    except StoreError as error:
        raise OSError(f"store: {error}") from None
    if terminal.json:
        terminal.result(record)
        return
    from rich.text import Text

    from segue.reports.variants import variants_table

    terminal.table(variants_table(record))
    for sentence in record["conclusions"]:
        terminal.table(Text(sentence))
    for note in record["notes"]:
        terminal.log(f"note: {note}")


def _check_store_file(address: str) -> None:
    """Check that the file of an SQLite store exists, before it is opened to be read.

    Raises:
        ValueError: there is no such file.
    """
    path = address.removeprefix("sqlite:///")
    if path not in (address, "", ":memory:") and not Path(path).is_file():
        raise ValueError(f"store: no such file: {path}; expected the event store of a service")
