"""Predict MovieLens ratings with ALS: train and test RMSE, a checkpoint of the training, and a figure.

``python examples/als_ratings.py [DATA] [FOLDER]``; DATA is ``ml-100k`` unless another log with ratings is named. FOLDER
(default ``als-ratings``) keeps the checkpoint, the history of the training, the model and the figure.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import polars as pl

import segue

mpl.use("Agg")  # no display is needed
from matplotlib import pyplot as plt


def rmse(model: segue.TrainedModel, pairs: pl.DataFrame) -> float:
    """Root mean squared error of the predicted ratings of ``pairs``: user_id, item_id, rating."""
    predicted = segue.predict(model, pairs.drop("rating"))["prediction"].to_numpy()
    return float(np.sqrt(np.mean((predicted - pairs["rating"].to_numpy()) ** 2)))


def table(data: segue.Dataset, users: np.ndarray, items: np.ndarray, ratings: np.ndarray) -> pl.DataFrame:
    """Rated pairs with the ids of the log."""
    return pl.DataFrame({"user_id": data.users.ids[users], "item_id": data.items.ids[items], "rating": ratings})


def main(source: str, folder: Path) -> None:
    split = segue.split(source, "random", test=0.1, valid=0.1, seed=0)
    model = segue.train("als", split, folder=folder, recipe="none", embedding_dim=32, l2=0.12, iterations=12)
    segue.save(model, folder / "model")
    log, held = split.train.histories, split.test
    train = table(split.train, log.rows, log.items, log.values)
    test = table(split.train, held.queries.users[held.targets.rows], held.targets.items, held.targets.values)
    print(f"train RMSE {rmse(model, train):.4f}  ({len(train):,} ratings)")
    print(f"test RMSE  {rmse(model, test):.4f}  ({len(test):,} ratings)")
    history = pl.DataFrame(model.training_history)
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for column in [name for name in history.columns if name.endswith("rmse")]:
        axes.plot(history["step"], history[column], marker="o", label=column)
    axes.set(xlabel="iteration", ylabel="RMSE", title=f"ALS on {source}")
    axes.legend()
    figure.savefig(folder / "convergence.svg")
    print(f"checkpoint {folder / 'checkpoint'}, model {folder / 'model'}, figure {folder / 'convergence.svg'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "ml-100k", Path(sys.argv[2] if len(sys.argv) > 2 else "als-ratings"))
