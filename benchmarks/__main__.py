"""``python -m benchmarks``: compare Segue with other libraries, or run one part alone.

Nothing else should run meanwhile. Missing environments of the other libraries are created first (some minutes, once);
``SEGUE_PEERS`` names a folder that contains them. The default part, ``compare_libraries``, takes about 45 minutes on
two cores, of which 29 are part ``time_to_accuracy`` (``--minutes``); with ``--quick`` it takes three minutes on a small
simulated log.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import compare_checkouts, report
from benchmarks.machine import MAX_LOAD, describe

__all__ = ["main"]

PARTS = {
    "compare_libraries": "Segue, RecTools and RecBole: training, evaluation, memory; then part time_to_accuracy",
    "time_to_accuracy": "training time until Segue reaches the accuracy of RecTools and RecBole",
    "api": "ten everyday tasks in Segue, RecTools, LensKit and implicit: amount of code, checked results",
    "compare_checkouts": "two checkouts of Segue: equal arrays, metrics, responses (--old, --new, --out FILE.md)",
    "gpu": "SASRec and xLSTM in bfloat16 on a CUDA device, then two boards from their recipes: hours",
    "losses": "output layer and cross-entropy alone, three implementations",
    "large": "a million items: an epoch, evaluation, memory",
    "evaluation": "evaluation of all users alone",
    "evaluation_agreement": "the same lists under Segue, RecTools, RecBole, LensKit: every difference explained",
    "evaluation_speed": "evaluation compared with RecTools and RecBole: metrics of lists, and from scores: 15 minutes",
    "dataset_build": "preparing datasets from their sources: seconds and memory",
    "dataset_open": "opening a prepared dataset",
    "xlstm_blocks": "xLSTM blocks compared with the xlstm package and Transformers",
    "scaling": "cost against length, width and catalog size, and cost of recurrent steps, with a plot",
    "ratings": "accuracy of predicted ratings under published splits; needs --task: an hour or two",
    "ratings_speed": "rating factorizations compared with Spark, LensKit, Cornac and Surprise",
    "ratings_scaling": "an iteration of ALS against ratings, users and width, with a plot",
    "ranking_speed": "ials, ease and item_knn compared with implicit, RecTools and LensKit",
    "bpr_tutorial": "BPR on MovieLens 100K, ten epochs, compared with RecBole",
    "word2vec": "skip-gram word and item vectors compared with gensim: words per second",
    "text_encoding": "encoding texts with MiniLM compared with sentence-transformers: texts per second",
    "fusion_speed": "an epoch of fusion and two_tower compared with their twins of ids alone",
    "sentiment": "sentiment of simulated reviews: accuracy, and its gain as the value of events (--seeds): minutes",
    "serving": "the service under load, and single requests compared with RecTools and RecBole; needs wrk",
    "product_database": "a million impressions in PostgreSQL: every command, metrics, service (--seeds): an hour",
    "soak": "the service under traffic and injected faults: durability, counters, memory (--minutes, --store)",
    "attack": "the service under attack: memory, blocked time, latency of its other clients (--old CHECKOUT)",
    "erasure": "copies of deleted users in the files of PostgreSQL, and time of a deletion in SQLite",
    "length_generalization": "accuracy with shorter and longer histories than in training; needs --run",
    "ablation": "effect of each setting, three seeds: hours",
    "equal_budget_tuning": "every sequential model under an equal tuning budget: hours",
    "auto": "segue auto next to the recipes with the same time (--source, --minutes, --models): hours",
    "accuracy": "metrics of all models on one board (--source), trained from its recipes: hours",
    "new_users": "strategies for new users after 0 to 10 events (--source, --models, --seeds): ten minutes",
    "meta_learning": "ratings of new users and items: maml, fine-tuning, fold-in, means (--source, --models, --seeds)",
    "cold_items": "items held out of training: models with text, features and ids (--source, --models, --seeds): hours",
    "claimed_gains": "fusion over transformer_xl and simple baselines, next to reported gains (--source, --seeds)",
    "transfer": "pre-training on one catalog, fine-tuning on another with few data (--models, --seeds): 20 minutes",
    "hybrid": "combinations of models compared with their best member (--source, --models, --seeds): minutes to hours",
    "two_stage": "a retriever alone and with a ranker: accuracy, latency (--source, --models, --seeds): an hour",
    "click_speed": "click-through models compared with torch-rechub and DeepCTR-Torch: examples per second",
    "click_through": "click-through models on Frappe_x1 next to published figures (--models, --seeds): two hours",
    "knowledge": "models of the knowledge graph next to published figures (--source, --models, --seeds): an hour",
    "likes": "likes of MovieLens 1M, or of CoLLM's part of it: all click-through models (--source, --seeds): two hours",
    "collm": "likes of CoLLM's ML-1M next to language models (--models, --seeds): five minutes",
    "context": "context and times as inputs, on and off, with an ablation (--source, --seeds): half an hour",
    "coverage": "how often intervals contain the truth, tests err, and off-policy estimators fail, simulated: minutes",
    "simple_baselines": "the simple baselines of a board on validation and on the test part (--source): ten minutes",
    "protocols": "the same models under every evaluation protocol (--source, --models, --seeds): ten minutes",
    "studies": "a study with its full grid (--study, --source, --models), or of trained runs (--run): minutes to a day",
    "tracking": "cost of trackers and of the monitor during training: minutes",
    "mutation": "share of small code changes that the tests notice (--sample, --seed, --resume): 20 minutes",
}

MODULES = (
    "api",
    "xlstm_blocks",
    "scaling",
    "length_generalization",
    "ratings_speed",
    "ratings_scaling",
    "ranking_speed",
    "bpr_tutorial",
    "word2vec",
    "text_encoding",
    "fusion_speed",
    "sentiment",
    "new_users",
    "meta_learning",
    "transfer",
    "serving",
    "product_database",
    "soak",
    "attack",
    "erasure",
    "context",
    "click_through",
    "click_speed",
    "collm",
    "coverage",
    "tracking",
    "mutation",
    "evaluation_agreement",
    "evaluation_speed",
)
"""Parts whose module has ``run(options)`` and ``page(found)``."""

WITH_THREADS = (
    *("compare_libraries", "time_to_accuracy", "api", "large", "xlstm_blocks", "scaling", "ratings_speed"),
    *("ratings_scaling", "ranking_speed", "bpr_tutorial", "word2vec", "text_encoding", "fusion_speed", "serving"),
    *("product_database", "click_speed", "mutation", "evaluation_speed"),
)
"""Parts that read ``--threads``, most of them for processes that they start."""

IN_THIS_PROCESS = (
    *("losses", "evaluation", "length_generalization", "sentiment", "new_users", "meta_learning"),
    *("claimed_gains", "transfer", "two_stage", "click_through", "knowledge", "likes", "collm", "context"),
    *("coverage", "protocols", "studies", "tracking"),
)
"""Parts that train or compute in this process, where ``--threads`` limits torch, BLAS and compiled loops."""

BY_SOURCE = ("cold_items", "hybrid", "knowledge", "likes", "protocols", "two_stage")
"""Parts whose page is named after the data, and whose ``run`` has the arguments of :func:`run_by_source`."""

WITH_MODELS = (
    *BY_SOURCE,
    *("auto", "click_through", "collm", "equal_budget_tuning", "meta_learning", "new_users", "ratings", "studies"),
    "transfer",
)
"""Parts that read ``--models``."""

WITH_SEEDS = (
    *BY_SOURCE,
    *("ablation", "claimed_gains", "click_through", "collm", "context", "meta_learning", "new_users"),
    *("product_database", "sentiment", "transfer"),
)
"""Parts that read ``--seeds``."""

Found = dict[str, Any]


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="\n".join(f"{name:22} {what}" for name, what in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "part", nargs="?", choices=PARTS, default="compare_libraries", metavar="PART", help="one of those listed below"
    )
    parser.add_argument("--source", help="any source of Segue; default: ml-1m, or a simulated log of the same size")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder of the report; default %(default)s"
    )
    parser.add_argument(
        "--libraries",
        default="segue,rectools,recbole",
        help="of parts compare_libraries and time_to_accuracy; default %(default)s",
    )
    parser.add_argument(
        "--comparisons",
        help="of parts compare_libraries, such as sasrec-50,gru4rec-50, and ranking_speed, such as ease; default: all",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="of part time_to_accuracy: training time of RecTools, default 15; of part soak: default 20; of part "
        "mutation: time after which no further mutant is run; of part auto: time of each choice and recipe, default 10",
    )
    parser.add_argument(
        "--store", choices=("postgresql", "redis", "sqlite", "all"), default="all", help="of part soak; default all"
    )
    parser.add_argument(
        "--attackers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of part soak: attack the service half of the time; default %(default)s",
    )
    parser.add_argument("--old", type=Path, help="of part attack: another checkout, attacked first")
    parser.add_argument("--attacks", help="of part attack: such as trailers,slow_headers; default: all")
    parser.add_argument("--device", default="cuda", help="of part gpu; default %(default)s")
    parser.add_argument(
        "--threads",
        type=int,
        help=f"default {os.cpu_count()} of parts {', '.join(WITH_THREADS)}; that of torch of parts "
        f"{', '.join(IN_THIS_PROCESS)}; other parts have no such option",
    )
    parser.add_argument(
        "--run", help="of part length_generalization: a run, default latest; of part studies: runs, separated by commas"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--study", help="of part ablation: a file of benchmarks/ablations, default ml-100k; of part studies: its key"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help=f"of parts {', '.join(WITH_SEEDS)}; default %(default)s",
    )
    parser.add_argument(
        "--trials", type=int, default=4, help="of part equal_budget_tuning, per model; default %(default)s"
    )
    parser.add_argument(
        "--models",
        help=f"models, retrievers or rows of parts {', '.join(WITH_MODELS)}; default: all that the part measures",
    )
    parser.add_argument("--task", default="ml-100k-u1", help="of part ratings: a key of its TASKS; default %(default)s")
    parser.add_argument(
        "--sample", type=int, help="of part mutation: number of mutants, 0 for all; default: as configured"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="of parts mutation and click_speed: do not repeat what an earlier run in --out killed, or measured",
    )
    parser.add_argument(
        "--reuse", metavar="COMMIT", help="of part click_through: take the trainings of that commit which are kept"
    )
    parser.add_argument("--quick", action="store_true", help="as little work as possible: checks that the part runs")
    return parser.parse_args()


def load(source: str | None) -> tuple[str, Any]:
    """Load ``source``, by default MovieLens 1M, and return the name of the source that was used and the data."""
    from segue.data import load as prepare

    if source is not None:
        return source, prepare(source, log=log)
    try:
        return "ml-1m", prepare("ml-1m", log=log)
    except (ValueError, OSError) as error:
        log(f"{error}\nml-1m is not available; using a simulated log of the same size")
    source = "simulated?users=6040&items=3706&seed=1"
    return source, prepare(source, log=log)


def log(text: str) -> None:
    """Write a line of progress to standard error."""
    print(text, file=sys.stderr)


def main() -> None:
    """Run one part, print its page, and write the page and its figures as JSON."""
    if sys.argv[1:2] == ["compare_checkouts"]:  # has a command line and an exit code of its own
        sys.exit(compare_checkouts.main(sys.argv[2:]))
    options = arguments()
    found: Found = {"machine": describe(), "max_load_percent": MAX_LOAD}
    try:
        use_threads(options)
        name, text, found = RUNNERS.get(options.part, run_plain)(options, found)
    except ValueError as error:
        sys.exit(str(error))
    print(text)
    report.save(options.out / name, text, found)
    log(f"written: {options.out / name}.md and .json")
    if "failure" in found:
        sys.exit(found["failure"])


def use_threads(options: argparse.Namespace) -> None:
    """Limit the threads of this process as ``--threads`` says, or set the number for parts that read it.

    Raises:
        ValueError: less than one thread, or a part in which the option has no effect.
    """
    count = options.threads
    if count is not None and count < 1:
        raise ValueError(f"--threads: got {count}, expected at least 1")
    if options.part in WITH_THREADS:
        options.threads = count or os.cpu_count()
    elif count is not None:
        if options.part not in IN_THIS_PROCESS:
            raise ValueError(f"--threads: got {count}, but part {options.part} does not use it; leave it out")
        import numba
        import torch
        from threadpoolctl import threadpool_limits

        compiled: Any = numba
        torch.set_num_threads(count)
        compiled.set_num_threads(min(count, compiled.config.NUMBA_NUM_THREADS))
        threadpool_limits(count)


def run_module(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run a part of :data:`MODULES`; return the name of its page, the page and the figures."""
    module = import_module(f"benchmarks.{options.part}")
    found |= module.run(options)
    return options.part, module.page(found), found


def run_gpu(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``gpu``."""
    from benchmarks import gpu

    found |= gpu.run(options.device, log, options.quick)
    return options.part, gpu.page(found), found


def run_accuracy(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``accuracy``; the page has the name of the board."""
    from benchmarks import accuracy

    name = options.source or "ml-1m"
    found |= accuracy.accuracy(name)
    return name, accuracy.page(found), found


def run_ablation(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``ablation``; the page has the name of the study."""
    from benchmarks import ablation

    study = options.study or "ml-100k"
    found |= ablation.run(study, options.seeds, log, options.quick)
    return f"ablation-{study}", ablation.page(found), found


def run_ratings(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``ratings``; the page has the name of the task."""
    from benchmarks import ratings

    models = options.models.split(",") if options.models else ratings.rating_models(options.task)
    found |= ratings.run(options.task, models, log, options.quick)
    return f"ratings-{options.task}", ratings.page(found), found


def run_by_source(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run a part of :data:`BY_SOURCE`; the page has the name of the data."""
    module = import_module(f"benchmarks.{options.part}")
    found |= module.run(options.source, options.models, options.seeds, log, options.quick)
    return f"{options.part}-{found['source'].partition('?')[0]}", module.page(found), found


def run_studies(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``studies``; the page has the names of the study and the data."""
    from benchmarks import studies

    found |= studies.run(options, log)
    return studies.page_name(found), studies.page(found), found


def run_claimed_gains(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``claimed_gains``; the page has the name of the data."""
    from benchmarks import claimed_gains

    found |= claimed_gains.run(options.source, options.seeds, log, options.quick)
    return f"claimed_gains-{found['source'].partition('?')[0]}", claimed_gains.page(found), found


def run_simple_baselines(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``simple_baselines``; the page has the name of the data."""
    from benchmarks import simple_baselines

    found |= simple_baselines.run(options.source, log, options.quick)
    return f"simple_baselines-{found['source'].partition('?')[0]}", simple_baselines.page(found), found


def run_auto(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``auto``; with one source, the page has the name of the data."""
    from benchmarks import auto

    found |= auto.run(options, log)
    name = f"auto-{options.source.partition('?')[0]}" if options.source else "auto"
    return name, auto.page(found), found


def run_tuning(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``equal_budget_tuning``; the page has the name of the data."""
    from benchmarks import equal_budget_tuning

    source = options.source or "ml-100k"
    models = options.models.split(",") if options.models else equal_budget_tuning.sequential_models()
    found |= equal_budget_tuning.run(source, models, options.trials, log, options.quick)
    return f"equal_budget_tuning-{source}", equal_budget_tuning.page(found), found


def run_comparison(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run part ``compare_libraries`` or ``time_to_accuracy`` alone."""
    from benchmarks import time_to_accuracy
    from benchmarks.compare_libraries import COMPARISONS, run
    from benchmarks.environments import interpreter
    from segue.data.splits import SplitSettings, split

    libraries = options.libraries.split(",")
    names = [comparison.name for comparison in COMPARISONS]
    wanted = options.comparisons.split(",") if options.comparisons else names
    if set(wanted) - set(names):
        raise ValueError(f"--comparisons: got '{options.comparisons}', expected some of {', '.join(names)}")
    for name in libraries:
        if name != "segue":
            interpreter(name, install=True)
    source, data = load(options.source or ("simulated?users=400&items=300&seed=1" if options.quick else None))
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
    seed, threads = options.seed, options.threads
    is_whole = options.part == "compare_libraries"
    if is_whole:
        chosen = [comparison for comparison in COMPARISONS if comparison.name in wanted]
        found |= run(source, parts, chosen, libraries, threads, seed, options.quick)
    found["time_comparisons"] = []
    if not is_whole or not options.comparisons:
        minutes = options.minutes or (0.1 if options.quick else 15.0)
        found["time_comparisons"] = time_to_accuracy.run(source, parts, libraries, threads, seed, minutes)
    return options.part, report.comparison_page(found) if is_whole else report.time_page(found), found


def run_plain(options: argparse.Namespace, found: Found) -> tuple[str, str, Found]:
    """Run a part whose page is a plain list of its figures."""
    found |= measure_part(options)
    return options.part, report.plain_page(PARTS[options.part], found), found


def measure_part(options: argparse.Namespace) -> Found:
    """Measure one of ``losses``, ``large``, ``dataset_build``, ``dataset_open`` and ``evaluation``."""
    if options.part == "losses":
        from benchmarks import losses

        return losses.run(options.quick)
    if options.part == "large":
        from benchmarks import large

        return large.run(options.source, options.threads, options.quick)
    if options.part == "dataset_build":
        from benchmarks import dataset_build

        return dataset_build.run([options.source] if options.source else None)
    source, data = load(options.source)
    if options.part == "dataset_open":
        from benchmarks import dataset_open

        return {"source": source} | dataset_open.run(source)
    from benchmarks import evaluation
    from segue.data.splits import SplitSettings, split

    return {"source": source} | evaluation.run(split(data, SplitSettings()), repeat=1 if options.quick else 3)


RUNNERS: dict[str, Callable[[argparse.Namespace, Found], tuple[str, str, Found]]] = {
    **dict.fromkeys(MODULES, run_module),
    **dict.fromkeys(("compare_libraries", "time_to_accuracy"), run_comparison),
    "gpu": run_gpu,
    "accuracy": run_accuracy,
    "ablation": run_ablation,
    "ratings": run_ratings,
    "auto": run_auto,
    "equal_budget_tuning": run_tuning,
    "claimed_gains": run_claimed_gains,
    "simple_baselines": run_simple_baselines,
    "studies": run_studies,
    **dict.fromkeys(BY_SOURCE, run_by_source),
}
"""By part its function; :func:`run_plain` runs the others."""


if __name__ == "__main__":
    main()
