"""``segue abtest``: what an experiment of a service has shown so far."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.cli.console import Json, Terminal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segue.serving.experiments.assignment import Experiment
    from segue.serving.experiments.outcomes import Outcomes
    from segue.serving.stores.store import Store

__all__ = ["abtest", "measured"]


def abtest(
    context: typer.Context,
    store: Annotated[str, typer.Option(metavar="ADDRESS", help="The store of the service.")],
    experiment: Annotated[str, typer.Option(metavar="NAME", help="The experiment.")],
    action: Annotated[str, typer.Option(help="The kind of event that counts.")] = "purchase",
    value: Annotated[bool, typer.Option("--value", help="Sum up values, instead of: at least one event.")] = False,
    within: Annotated[
        int | None,
        typer.Option(min=1, metavar="SECONDS", help="Events count so long after the first exposure; users count then."),
    ] = None,
    shown: Annotated[bool, typer.Option("--shown", help="Count only events with items that were shown.")] = False,
    alpha: Annotated[float, typer.Option(help="Chance of any false finding, over all looks and treatments.")] = 0.05,
    expected: Annotated[
        int, typer.Option(min=1, metavar="USERS", help="How many users you expect; choose it before you look.")
    ] = 10_000,
    experiments: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file of experiments, where the service did not note it in the store."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare the variants of an experiment, as often as you like.

    The unit is the user: his first exposure decides the variant and when events begin to count.
    Intervals and p-values hold at every moment of looking, so stop whenever you have seen enough.
    """
    import time
    from contextlib import closing

    from segue.core.config import suggest
    from segue.serving.experiments.assignment import noted, read_experiments
    from segue.serving.stores.open import open_store
    from segue.serving.stores.store import StoreError

    terminal = Terminal.of(context, json)
    defined = None
    if experiments is not None:
        listed = {one.name: one for one in read_experiments(experiments)}
        if experiment not in listed:
            raise ValueError(f"{experiments}: no experiment '{experiment}'{suggest(experiment, listed)}")
        defined = listed[experiment]
    try:
        with closing(open_store(store)) as kept:
            record = measured(
                kept,
                experiment,
                defined or noted(kept, experiment),
                action=action,
                value=value,
                within=within,
                shown=shown,
                alpha=alpha,
                expected=expected,
                now=int(time.time()),
            )
    except StoreError as error:
        raise OSError(f"store: {error}") from None
    if terminal.json:
        terminal.result(record)
        return
    from rich.text import Text

    from segue.reports.variants import table

    terminal.table(table(record))
    for sentence in record["conclusions"]:
        terminal.table(Text(sentence))
    for note in record["notes"]:
        terminal.say(f"mind: {note}")


def measured(
    kept: Store,
    experiment: str,
    defined: Experiment | None,
    *,
    action: str = "purchase",
    value: bool = False,
    within: int | None = None,
    shown: bool = False,
    alpha: float = 0.05,
    expected: int = 10_000,
    now: int,
) -> dict[str, Any]:
    """What an experiment has shown until ``now``: numbers per variant and comparison, conclusions and notes in words.

    Args:
        defined: its variants and shares; ``None``: a variant named ``control`` is one, and all have equal shares.
        alpha: divided by the number of treatments (Bonferroni), and p-values multiplied with it.

    Raises:
        ValueError: nobody was exposed, or it cannot be told which variant is the control.
        StoreError: the store cannot be read.
    """
    import numpy as np

    from segue.evaluation.confidence_sequences import mismatch
    from segue.reports.variants import conclusions
    from segue.serving.experiments.outcomes import outcomes

    if not 0 < alpha < 1:
        raise ValueError(f"--alpha {alpha}: expected a number between 0 and 1")
    names = ["control"] if defined is None else list(defined.variants)
    found = outcomes(kept, experiment, names, action=action, value=value, within=within, shown=shown)
    if not len(found):
        raise ValueError(f"experiment '{experiment}': nobody was shown anything in it")
    notes = _notes(found, defined, action, within, names)
    if defined is None:
        if not (found.groups == 0).any():
            there = ", ".join(sorted(found.variants[1:]))
            raise ValueError(f"experiment '{experiment}': which of {there} is the control? give --experiments FILE")
        names = list(found.variants)
    shares = [1 / len(names)] * len(names) if defined is None else [v.share for v in defined.variants.values()]
    closed_N = np.ones(len(found), np.bool_) if within is None else found.starts + within <= now
    ours_N = found.groups < len(names)
    variants = []
    for code, (name, share) in enumerate(zip(names, shares, strict=True)):
        values = found.values[(found.groups == code) & closed_N]
        waiting = int(((found.groups == code) & ~closed_N).sum())
        mean = float(values.mean()) if len(values) else None
        variants.append({"variant": name, "share": share, "users": len(values), "waiting": waiting, "mean": mean})
    sizes_p = float(mismatch(found.groups[ours_N], shares, expected)[-1]) if ours_N.any() else 1.0
    comparisons = []
    for code in range(1, len(names)):
        pair_N = closed_N & ((found.groups == 0) | (found.groups == code))
        share = shares[code] / (shares[0] + shares[code])
        one = _compared(
            found.values[pair_N], found.groups[pair_N] == code, share, value, alpha, len(names) - 1, expected
        )
        comparisons.append({"variant": names[code], "against": names[0], **one})
    return {
        "experiment": experiment,
        "outcome": f"sum of values of {action}" if value else f"users with {action}",
        "within": within,
        "shown": shown,
        "alpha": alpha,
        "variants": variants,
        "sizes_p": sizes_p,
        "comparisons": comparisons,
        "conclusions": conclusions(comparisons, sizes_p, alpha),
        "notes": notes,
    }


def _compared(
    values_N: NDArray[np.float64],
    treated_N: NDArray[np.bool_],
    share: float,
    value: bool,
    alpha: float,
    family: int,
    expected: int,
) -> dict[str, Any]:
    """One treatment against the control, one of ``family`` comparisons."""
    import numpy as np

    from segue.evaluation.confidence_sequences import bounded, grid, means

    if not len(values_N):
        return {"difference": None, "low": -np.inf, "high": np.inf, "p": 1.0, "shown_at": None}
    looks = grid(len(values_N))
    if value:
        path = means(values_N, treated_N, looks=looks, alpha=alpha / family, expected=expected)
    else:
        path = bounded(values_N, treated_N, share, looks=looks, alpha=alpha / family, expected=expected)
    sure = np.flatnonzero(path.p * family <= alpha)
    return {
        "difference": float(path.difference[-1]) if 0 < treated_N.sum() < len(treated_N) else None,
        "low": float(path.low[-1]),
        "high": float(path.high[-1]),
        "p": min(1.0, float(path.p[-1]) * family),
        "shown_at": int(looks[sure[0]]) if len(sure) else None,
    }


def _notes(found: Outcomes, defined: Experiment | None, action: str, within: int | None, names: list[str]) -> list[str]:
    notes = []
    if within is None:
        notes.append(
            "without --within an outcome goes on growing after it was counted, and intervals hold at any time only"
            " roughly"
        )
    if defined is None:
        notes.append("the shares of the variants are not known and taken as equal; --experiments FILE tells them")
    elif len(found.variants) > len(names):
        notes.append(f"left out, as the experiment has no such variants: {', '.join(found.variants[len(names) :])}")
    if found.moved:
        notes.append(f"users who were shown another variant later, and count for their first: {found.moved}")
    if action not in found.actions:
        there = ", ".join(sorted(found.actions)) or "none at all"
        notes.append(f"no event of kind '{action}' in time; kinds that there are: {there}")
    return notes
