"""The ten tasks in implicit."""
# ruff: noqa: I001

# %% given
from api_inputs import allowed, folder, history, item, pairs, ratings, some_users  # noqa: F401

# %% imports
import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from implicit.evaluation import ranking_metrics_at_k
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
from scipy.sparse import csr_matrix

# %% split
test = ratings.groupby("user_id").tail(1)
train = ratings.drop(test.index)

# %% train
users, catalog = pd.Index(ratings["user_id"].unique()), pd.Index(ratings["item_id"].unique())
shape = (len(users), len(catalog))
cells = users.get_indexer(train["user_id"]), catalog.get_indexer(train["item_id"])
user_items = csr_matrix((np.ones(len(train)), cells), shape)
model = AlternatingLeastSquares(factors=64, random_state=0)
model.fit(user_items)

# %% evaluate
test_cells = users.get_indexer(test["user_id"]), catalog.get_indexer(test["item_id"])
test_items = csr_matrix((np.ones(len(test)), test_cells), shape)
result = ranking_metrics_at_k(model, user_items, test_items, K=10)

# %% recommend
found, scores = model.recommend(np.arange(len(users)), user_items, N=10)
recommendations = pd.DataFrame(
    {"user_id": users.repeat(10), "item_id": catalog[found.ravel()], "score": scores.ravel()}
)

# %% new_user
places = np.zeros(len(history), int), catalog.get_indexer(history)
liked = csr_matrix((np.ones(len(history)), places), (1, len(catalog)))
found, scores = model.recommend(0, liked, N=10, recalculate_user=True)
new_recommendations = pd.DataFrame({"item_id": catalog[found], "score": scores})

# %% allow_list
rows = users.get_indexer(some_users)
found, scores = model.recommend(rows, user_items[rows], N=10, items=catalog.get_indexer(allowed))
allowed_recommendations = pd.DataFrame(
    {"user_id": np.repeat(some_users, 10), "item_id": catalog[found.ravel()], "score": scores.ravel()}
)

# %% similar
found, scores = model.similar_items(catalog.get_loc(item), N=11)
similar_items = pd.DataFrame({"item_id": catalog[found[1:]], "score": scores[1:]})

# %% ratings
# not supported: implicit has no model that predicts ratings

# %% compare
models = {"item_knn": CosineRecommender(50), "bm25": BM25Recommender(50), "als": AlternatingLeastSquares(64)}
comparison = {}
for name, candidate in models.items():
    candidate.fit(user_items)
    comparison[name] = ranking_metrics_at_k(candidate, user_items, test_items, K=10)

# %% save
pd.to_pickle((model, users, catalog, user_items), folder / "model.pkl")

# %% load
model, users, catalog, user_items = pd.read_pickle(folder / "model.pkl")
rows = users.get_indexer(some_users)
found, scores = model.recommend(rows, user_items[rows], N=10)
reloaded = pd.DataFrame(
    {"user_id": np.repeat(some_users, 10), "item_id": catalog[found.ravel()], "score": scores.ravel()}
)

# %% results
test_pairs = test
result = {"recall@10": result["precision"], "ndcg@10": result["ndcg"]}
compared = {key: {"recall@10": row["precision"], "ndcg@10": row["ndcg"]} for key, row in comparison.items()}
predictions, rmse = None, None
