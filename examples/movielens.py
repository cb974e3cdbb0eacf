"""MovieLens 100K: compare three models on one split and recommend films to a user who likes space films.

``python examples/movielens.py [EPOCHS]``; the archive is looked for in SEGUE_ARCHIVES, then downloaded.
"""

import sys

import polars as pl

import segue

LIKED = ["Star Wars (1977)", "Alien (1979)", "2001: A Space Odyssey (1968)"]


def main(epochs: int) -> None:
    split = segue.split("ml-100k")
    models = {
        "popular": segue.train("popular", split),
        "ease": segue.train("ease", split),
        "xlstm": segue.train("xlstm", split, epochs=epochs, progress=True),
    }
    results = {name: segue.evaluate(model, split.valid) for name, model in models.items()}
    for name, result in results.items():
        ndcg = result["ndcg@10"]
        print(f"{name:8} NDCG@10 on validation {ndcg.mean:.4f}  ({ndcg.low:.4f} to {ndcg.high:.4f})")
    best = max(results, key=lambda name: results[name]["ndcg@10"].mean)
    final = segue.evaluate(models[best], split.test)["ndcg@10"]
    print(f"{best} on test: {final.mean:.4f}  ({final.low:.4f} to {final.high:.4f})")
    with pl.Config(tbl_rows=20, fmt_str_lengths=60):
        print(segue.recommend(models[best], titles=LIKED, k=10).select("rank", "title", "score", "probability"))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
