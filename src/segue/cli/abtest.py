"""``segue abtest`` and ``segue off-policy``: effects of policies.

They are measured in an experiment, or estimated from a log of impressions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segue.cli.clicks import Query
from segue.cli.console import Json, Separator, Terminal, parse_json_or_text, parse_pairs, read_query

__all__ = ["abtest", "off_policy"]

Policy = Annotated[
    str, typer.Option(metavar="RUN|COLUMN", help="A run, a saved model, or a column with the policy's probabilities.")
]
Baseline = Annotated[
    str | None, typer.Option(metavar="RUN|COLUMN", help="A policy to compare with. [default: the logging policy]")
]
Temperature = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Draw lists by softmax of the scores. [default: the best items in order]"),
]
CandidatesOption = Annotated[
    str | None, typer.Option(metavar="TABLE", help="What could be shown in each query. [default: all items of the log]")
]
Estimators = Annotated[
    str | None,
    typer.Option(metavar="NAME,...", help="Of ips, clipped_ips, snips, dm, dr, pbm. [default: all that apply]"),
]
RewardModel = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Predicts clicks for dm and dr, such as logistic_regression.")
]
Predictions = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Predicted rewards in the log and in --candidates.")
]
PositionPropensities = Annotated[
    str | None,
    typer.Option(metavar="P,P,...|items|clicks", help="How likely each position is examined, for pbm."),
]
Clip = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Largest weight of clipped_ips. [default: root of the number of rows]"),
]
LogColumns = Annotated[
    str | None, typer.Option(metavar="reward=NAME,...", help="The log's own column names: query=page,reward=click.")
]
Histories = Annotated[
    str | None,
    typer.Option(metavar="DATA", help="Log with the users' histories. [default: that of the model's training]"),
]
Limits = Annotated[
    str | None,
    typer.Option(metavar="KEY=NUMBER,...", help="Smallest overlap: min_effective_sample_size=50. See the guide."),
]


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


def off_policy(
    context: typer.Context,
    log: Annotated[
        str, typer.Argument(metavar="LOG", help="File, folder or pattern (CSV, TSV, JSON Lines, Parquet), or database.")
    ],
    policy: Policy,
    baseline: Baseline = None,
    temperature: Temperature = None,
    candidates: CandidatesOption = None,
    estimators: Estimators = None,
    reward_model: RewardModel = None,
    predictions: Predictions = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the cross-fitting of --reward-model.")] = 3,
    position_propensities: PositionPropensities = None,
    clip: Clip = None,
    columns: LogColumns = None,
    query: Query = None,
    separator: Separator = None,
    data: Histories = None,
    exclude_seen: Annotated[
        bool, typer.Option("--exclude-seen/--include-seen", help="Whether a model leaves out items of the history.")
    ] = True,
    limits: Limits = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of intervals and of the cross-fitting.")] = 0,
    json: Json = False,
) -> None:
    """Estimate what a policy would have earned, from the log of another policy.

    LOG has one row per impression: item, propensity, reward, and, where there are any, query, position, user and time.
    If the log says too little about the policy, the command fails and prints the numbers.
    """
    from segue.experiment.off_policy.evaluate_policy import evaluate_policy

    terminal = Terminal.from_context(context, json)
    given = None if limits is None else parse_pairs(limits, "--limits")
    found = evaluate_policy(
        log,
        policy,
        baseline=baseline,
        temperature=temperature,
        candidates=candidates,
        estimators=None if estimators is None else [name.strip() for name in estimators.split(",")],
        reward_model=reward_model,
        predictions=predictions,
        folds=folds,
        position_propensities=_parse_positions(position_propensities),
        clip=clip,
        columns=parse_pairs(columns, "--columns"),
        query=read_query(query),
        separator=separator,
        data=data,
        exclude_seen=exclude_seen,
        limits=None if given is None else {name: parse_json_or_text(text) for name, text in given.items()},
        seed=seed,
    )
    if terminal.json:
        terminal.result(found.record())
        return
    from segue.reports.off_policy import overlap_table, policy_values_table

    record = found.record()
    terminal.table(policy_values_table(record))
    terminal.table(overlap_table(record))
    for note in found.notes:
        terminal.log(f"note: {note}")


def _parse_positions(text: str | None) -> Any:
    """Return numbers, or the name of a method."""
    if text is None or text in ("items", "clicks"):
        return text
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--position-propensities: got '{text}', expected numbers such as 1,0.6,0.4, items or clicks"
        ) from None
