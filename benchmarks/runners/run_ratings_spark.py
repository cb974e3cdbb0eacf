"""Fit Spark MLlib's ALS in local mode from a cached table and predict ratings."""

from __future__ import annotations

import time

import numpy as np
from measure import Job, memory
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession


def table(spark, job, name, pairs):
    """Load a cached table of users, items and values, with the index of each row."""
    columns = [pairs[f"{name}_{column}"] for column in ("users", "items", "values")]
    path = job.folder / f"{name}.csv"
    np.savetxt(
        path, np.column_stack([*columns, np.arange(len(columns[0]))]), fmt=("%d", "%d", "%g", "%d"), delimiter=","
    )
    found = spark.read.csv(str(path), schema="user int, item int, value float, row int").cache()
    found.count()
    return found


def main() -> None:
    job = Job()
    options, pairs = job.settings, job.arrays()
    start = time.perf_counter()
    spark = (
        SparkSession.builder.master(f"local[{options['threads']}]")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", str(options["threads"]))
        .config("spark.default.parallelism", str(options["threads"]))
        .getOrCreate()
    )
    train, test = (table(spark, job, name, pairs) for name in ("train", "test"))
    job.record(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    columns = {"userCol": "user", "itemCol": "item", "ratingCol": "value"}
    blocks = {"numUserBlocks": options["threads"], "numItemBlocks": options["threads"]}
    model = ALS(**columns, **blocks, seed=options["seed"], **options["settings"]).fit(train)
    model.itemFactors.count()
    job.record(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    predicted = np.full(len(pairs["test_users"]), np.nan)
    for row in model.transform(test).select("row", "prediction").toLocalIterator():
        predicted[row["row"]] = row["prediction"]
    job.record(predict_seconds=time.perf_counter() - start)
    job.record(
        extra_process_mib=memory(spark.sparkContext._gateway.proc.pid)["peak"]
    )  # the JVM, which holds the data and the model
    spark.stop()
    job.finish(predicted=predicted)


main()
