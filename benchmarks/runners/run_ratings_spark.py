"""Spark's side of the ratings: MLlib's ALS in local mode, from a cached table."""

from __future__ import annotations

import time

import numpy as np
from measure import Job, memory
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession


def table(spark, job, name, pairs):
    """A cached table of users, items and values, with the place of each row."""
    columns = [pairs[f"{name}_{column}"] for column in ("users", "items", "values")]
    path = job.folder / f"{name}.csv"
    np.savetxt(
        path, np.column_stack([*columns, np.arange(len(columns[0]))]), fmt=("%d", "%d", "%g", "%d"), delimiter=","
    )
    found = spark.read.csv(str(path), schema="user int, item int, value float, place int").cache()
    found.count()
    return found


def main() -> None:
    job = Job()
    ask, pairs = job.settings, job.arrays()
    start = time.perf_counter()
    spark = (
        SparkSession.builder.master(f"local[{ask['threads']}]")
        .config("spark.driver.memory", "4g")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", str(ask["threads"]))
        .config("spark.default.parallelism", str(ask["threads"]))
        .getOrCreate()
    )
    train, test = (table(spark, job, name, pairs) for name in ("train", "test"))
    job.note(prepare_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    columns = {"userCol": "user", "itemCol": "item", "ratingCol": "value"}
    blocks = {"numUserBlocks": ask["threads"], "numItemBlocks": ask["threads"]}
    model = ALS(**columns, **blocks, seed=ask["seed"], **ask["settings"]).fit(train)
    model.itemFactors.count()
    job.note(fit_seconds=time.perf_counter() - start)
    start = time.perf_counter()
    predicted = np.full(len(pairs["test_users"]), np.nan)
    for row in model.transform(test).select("place", "prediction").toLocalIterator():
        predicted[row["place"]] = row["prediction"]
    job.note(predict_seconds=time.perf_counter() - start)
    job.note(beside_mib=memory(spark.sparkContext._gateway.proc.pid)["peak"])  # the JVM, which holds it all
    spark.stop()
    job.finish(predicted=predicted)


main()
