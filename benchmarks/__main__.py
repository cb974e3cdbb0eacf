"""``python -m benchmarks``: Segue beside RecTools and RecBole; or one part alone.

Nothing else should run meanwhile. The peers' environments are made first where there are none (some minutes, once);
``SEGUE_PEERS`` names a folder that has them. Takes about 40 minutes on two cores, of which 25 are the two races to the
same NDCG@10 (``--minutes``); ``--quick`` takes three, on a small simulated log.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.machine import REST, describe

__all__ = ["main"]

PARTS = {
    "beside": "Segue, RecTools and RecBole: training, evaluation, memory; then part pace",
    "pace": "how soon Segue is as good as RecTools and RecBole became in some minutes",
    "gpu": "SASRec and xLSTM in bfloat16 on a CUDA device, then two boards from their recipes: hours",
    "losses": "head and cross-entropy alone, three ways",
    "large": "a million items: an epoch, evaluation, memory",
    "evaluation": "ranking all users alone",
    "preparing": "preparing datasets from their sources: seconds and memory",
    "opening": "opening a prepared dataset",
    "cells": "xLSTM blocks beside the xlstm package and Transformers",
    "growth": "cost against length, width and catalogue, and of steps from a state, with a plot",
    "ratings": "predicted ratings under the splits that papers use; needs --task: an hour or two",
    "ratings_speed": "factorisations of ratings beside Spark, LensKit, Cornac and Surprise",
    "ratings_growth": "a sweep of ALS against ratings, users and width, with a plot",
    "ranking_speed": "ials, ease and item_knn beside implicit, RecTools and LensKit",
    "bpr_tutorial": "BPR on MovieLens 100K, ten epochs, beside RecBole",
    "serving": "the service under load, beside one answer of RecTools and RecBole; needs wrk",
    "soak": "a service under traffic and trouble: what is kept, told and counted (--minutes, --store)",
    "beyond": "a run's accuracy with less and more history than it was trained on; needs --run",
    "ablation": "what each choice is worth, three seeds: hours",
    "tuned": "every sequential model under one equal tuning budget: hours",
    "accuracy": "every model's metrics on one board (--source), trained from its recipe: hours",
}


MODULES = (
    "cells",
    "growth",
    "beyond",
    "ratings_speed",
    "ratings_growth",
    "ranking_speed",
    "bpr_tutorial",
    "serving",
    "soak",
)
"""Parts that are a module of that name, with ``run`` and ``page``."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(f"{name:12} {what}" for name, what in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", choices=PARTS, default="beside", metavar="PART", help="see below")
    parser.add_argument("--source", help="any source of Segue's; default: ml-1m, or a simulated log of its size")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder of the report; default %(default)s"
    )
    parser.add_argument(
        "--libraries", default="segue,rectools,recbole", help="of parts beside and pace; default %(default)s"
    )
    parser.add_argument(
        "--contests",
        help="of parts beside, such as sasrec-50,gru4rec-50, and ranking_speed, such as ease; default: all",
    )
    parser.add_argument(
        "--minutes", type=float, help="of part pace: how long RecTools trains; default 15; of part soak; default 20"
    )
    parser.add_argument(
        "--store", choices=("postgresql", "redis", "sqlite", "all"), default="all", help="of part soak; default all"
    )
    parser.add_argument("--device", default="cuda", help="of part gpu; default %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every library; default %(default)s")
    parser.add_argument("--run", default="latest", help="of part beyond: a run; default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", default="ml-100k", help="of part ablation: a file of benchmarks/ablations")
    parser.add_argument("--seeds", type=int, default=3, help="of part ablation; default %(default)s")
    parser.add_argument("--trials", type=int, default=4, help="of part tuned, for each model; default %(default)s")
    parser.add_argument("--models", help="of parts tuned and ratings; default: every model that it suits")
    parser.add_argument("--task", default="ml-100k-u1", help="of part ratings: a key of its TASKS; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="as little as possible: to see that it runs")
    return parser.parse_args()


def load(source: str | None) -> tuple[str, Any]:
    """The data, MovieLens 1M unless asked otherwise, and the source it came from."""
    from segue.data import load as prepare

    if source is not None:
        return source, prepare(source, say=tell)
    try:
        return "ml-1m", prepare("ml-1m", say=tell)
    except (ValueError, OSError) as error:
        tell(f"{error}\nml-1m is not at hand: a simulated log of its size instead")
    source = "simulated?users=6040&items=3706&seed=1"
    return source, prepare(source, say=tell)


def tell(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> None:
    ask = arguments()
    found: dict[str, Any] = {"machine": describe(), "rest_percent": REST}
    name = ask.part
    if ask.part in ("beside", "pace"):
        text, found = beside(ask, found)
    elif ask.part == "gpu":
        from benchmarks import gpu

        try:
            found |= gpu.run(ask.device, tell, ask.quick)
        except ValueError as error:
            sys.exit(str(error))
        text = gpu.page(found)
    elif ask.part in MODULES:
        module = import_module(f"benchmarks.{ask.part}")
        try:
            found |= module.run(ask)
        except ValueError as error:
            sys.exit(str(error))
        text = module.page(found)
    elif ask.part == "accuracy":
        from benchmarks import accuracy

        name = ask.source or "ml-1m"
        found |= accuracy.accuracy(name)
        text = accuracy.page(found)
    elif ask.part == "ablation":
        from benchmarks import ablation

        name = f"ablation-{ask.study}"
        found |= ablation.run(ask.study, ask.seeds, tell, ask.quick)
        text = ablation.page(found)
    elif ask.part == "ratings":
        from benchmarks import ratings

        name = f"ratings-{ask.task}"
        try:
            models = ask.models.split(",") if ask.models else ratings.predictors(ask.task)
            found |= ratings.run(ask.task, models, tell, ask.quick)
        except ValueError as error:
            sys.exit(str(error))
        text = ratings.page(found)
    elif ask.part == "tuned":
        from benchmarks import equal_budget_tuning

        source = ask.source or "ml-100k"
        name = f"tuned-{source}"
        models = ask.models.split(",") if ask.models else equal_budget_tuning.sequential()
        found |= equal_budget_tuning.run(source, models, ask.trials, tell, ask.quick)
        text = equal_budget_tuning.page(found)
    else:
        found |= alone(ask)
        text = report.plain(PARTS[ask.part], found)
    print(text)
    report.save(ask.out / name, text, found)
    tell(f"written: {ask.out / name}.md and .json")


def beside(ask: argparse.Namespace, found: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    from benchmarks import time_to_accuracy
    from benchmarks.compare_libraries import CONTESTS, run
    from benchmarks.environments import interpreter
    from segue.data.splits import SplitSettings, split

    libraries = ask.libraries.split(",")
    wanted = ask.contests.split(",") if ask.contests else [contest.name for contest in CONTESTS]
    chosen = [contest for contest in CONTESTS if contest.name in wanted]
    if len(chosen) < len(wanted):
        names = ", ".join(contest.name for contest in CONTESTS)
        sys.exit(f"contests: got '{ask.contests}', expected some of {names}")
    for name in libraries:
        if name != "segue":
            interpreter(name, install=True)
    source, data = load(ask.source or ("simulated?users=400&items=300&seed=1" if ask.quick else None))
    parts = split(data, SplitSettings())
    found["data"] = {
        "name": data.name,
        "source": source,
        "users": data.n_users,
        "items": data.n_items,
        "events": data.histories.size,
        "hash": data.header.get("hash"),
        "warnings": list(data.header.get("warnings", [])),
    }
    if ask.part == "beside":
        found |= run(source, parts, chosen, libraries, ask.threads, ask.seed, ask.quick)
    races = ask.part == "pace" or not ask.contests
    minutes = ask.minutes or (0.1 if ask.quick else 15.0)
    found["races"] = time_to_accuracy.run(source, parts, libraries, ask.threads, ask.seed, minutes) if races else []
    return report.beside(found) if ask.part == "beside" else report.races(found), found


def alone(ask: argparse.Namespace) -> dict[str, Any]:
    if ask.part == "losses":
        from benchmarks import losses

        return losses.run(ask.quick)
    if ask.part == "large":
        from benchmarks import large

        return large.run(ask.source, ask.threads, ask.quick)
    if ask.part == "preparing":
        from benchmarks import dataset_build

        return dataset_build.run([ask.source] if ask.source else None)
    source, data = load(ask.source)
    if ask.part == "opening":
        from benchmarks import dataset_open

        return {"source": source} | dataset_open.run(source)
    from benchmarks import ranking
    from segue.data.splits import SplitSettings, split

    return {"source": source} | ranking.run(split(data, SplitSettings()), repeat=1 if ask.quick else 3)


if __name__ == "__main__":
    main()
