"""``segue evaluate`` and ``segue compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.cli.console import Columns, Json, Set, Target, Terminal, pairs

__all__ = ["compare", "evaluate"]


def evaluate(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or name of a run, such as latest.")],
    part: Annotated[str, typer.Option(help="test or valid.")] = "test",
    set_: Set = None,
    json: Json = False,
) -> None:
    """Measure a run's model again, here and now.

    The run stays as it is; --set changes what is measured, such as ks=[1,20].
    """
    from segue.experiment.evaluate import evaluate_run
    from segue.experiment.paths import find_run

    terminal = Terminal.of(context, json)
    record = evaluate_run(find_run(run), part, set_ or [])
    if terminal.json:
        terminal.result(record)
        return
    from segue.reports.tables import metrics

    terminal.table(metrics(record))
    for warning in record["warnings"]:
        terminal.say(f"mind: {warning}")


def compare(
    context: typer.Context,
    data: Annotated[str, typer.Argument(metavar="D", help="A name such as ml-100k, a file or a folder.")],
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Keys of two models or more.")],
    set_: Set = None,
    metric: Annotated[str, typer.Option(help="What the paired tests are made on.")] = "ndcg@10",
    limit: Annotated[int | None, typer.Option(metavar="N", help="Only the first N users, to try things out.")] = None,
    columns: Columns = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Train models on one split and test their differences.

    Each is trained in a process of its own; a finished run with the same settings is used again.
    A setting of one model is set as MODEL.KEY=VALUE; MODEL@NAME is that model once more, such as
    xlstm@mlstm --set xlstm@mlstm.slstm_at=[].
    """
    from segue.core.run import Interrupted
    from segue.experiment.compare import compare as carry_out

    terminal = Terminal.of(context, json)
    task = {"data": data, "limit": limit, "columns": pairs(columns, "--columns"), "target": target}
    task = {key: value for key, value in task.items() if value is not None}
    try:
        result = carry_out(models, task, set_ or [], metric, say=terminal.say)
    except (Interrupted, KeyboardInterrupt):
        terminal.say("\ninterrupted; the same command goes on from here")
        raise typer.Exit(130) from None
    if terminal.json:
        terminal.result(result)
        return
    from segue.reports.tables import compared, tested

    terminal.table(compared(result))
    terminal.table(tested(result))
    for warning in result["warnings"]:
        terminal.say(f"mind: {warning}")
    terminal.say(f"page: {result['page']}")
