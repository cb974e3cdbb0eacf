"""``segue study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.cli.console import Json, Set, Terminal, command_line, parse_seeds

__all__ = ["study"]


def study(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The study; without it, all are listed.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="A source, file or folder, as for train.")] = None,
    models: Annotated[str | None, typer.Option("--models", help="Keys in place of those of the study.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Such as 0,1,2, in place of those of the study.")] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The grid of published results in place of the quick one.")
    ] = False,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="RUN", help="A finished run to study instead of training. May be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the page; default: beside the runs.")] = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Answer a research question with trainings on a dataset.

    An interrupted study continues; what was trained or measured before is not repeated. The folder has the page
    README.md, its figures and all measurements as study.json.
    """
    from segue.core.run import Interrupted
    from segue.studies.framework.runner import run_study
    from segue.studies.framework.study_modules import load_study, study_names

    terminal = Terminal.from_context(context, json)
    if name is None:
        questions = {key: load_study(key).QUESTION for key in study_names()}
        if terminal.json:
            terminal.result(questions)
        else:
            for key, question in questions.items():
                print(f"{key:<24} {question}")
        return
    try:
        found = run_study(
            name,
            data,
            models=None if models is None else [key.strip() for key in models.split(",")],
            seeds=None if seeds is None else parse_seeds(seeds),
            overrides=set_ or [],
            full=full,
            runs=runs or None,
            log=terminal.log,
            command=command_line(),
            out=out,
        )
    except (Interrupted, KeyboardInterrupt):
        terminal.log("\ninterrupted; repeat the command to continue")
        raise typer.Exit(130) from None
    if terminal.json:
        terminal.result({**found.record, "folder": str(found.folder)})
        return
    print(found.record["question"])
    for sentence in found.answer:
        print(f"- {sentence}")
    print(f"page: {found.folder / 'README.md'}")
