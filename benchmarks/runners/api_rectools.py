"""The ten tasks in RecTools."""
# ruff: noqa: I001

# %% given
from api_inputs import allowed, folder, history, item, pairs, ratings, some_users  # noqa: F401

# %% imports
import pandas as pd
from implicit.nearest_neighbours import CosineRecommender
from rectools.dataset import Dataset
from rectools.metrics import NDCG, Recall, calc_metrics
from rectools.model_selection import LastNSplitter, cross_validate
from rectools.models import EASEModel, ImplicitItemKNNWrapperModel, PopularModel

# %% split
interactions = ratings.rename(columns={"timestamp": "datetime"}).assign(weight=1)
test = interactions.groupby("user_id").tail(1)
train = interactions.drop(test.index)

# %% train
dataset = Dataset.construct(train)
model = EASEModel(regularization=500).fit(dataset)

# %% evaluate
metrics = {"recall@10": Recall(10), "ndcg@10": NDCG(10, divide_by_achievable=True)}
test_recommendations = model.recommend(test["user_id"], dataset, k=10, filter_viewed=True)
result = calc_metrics(metrics, test_recommendations, test)

# %% recommend
recommendations = model.recommend(train["user_id"].unique(), dataset, k=10, filter_viewed=True)

# %% new_user
new_user = pd.DataFrame({"user_id": -1, "item_id": history, "weight": 1, "datetime": 0})
extended = Dataset.construct(pd.concat([train, new_user]))
new_recommendations = model.recommend([-1], extended, k=10, filter_viewed=True)

# %% allow_list
allowed_recommendations = model.recommend(some_users, dataset, k=10, filter_viewed=True, items_to_recommend=allowed)

# %% similar
similar_items = model.recommend_to_items([item], dataset, k=10)

# %% ratings
# not supported: RecTools has no model that predicts ratings

# %% compare
models = {
    "popular": PopularModel(),
    "item_knn": ImplicitItemKNNWrapperModel(CosineRecommender(K=50)),
    "ease": EASEModel(regularization=500),
}
everything = Dataset.construct(interactions)
scores = cross_validate(everything, LastNSplitter(1), metrics, models, k=10, filter_viewed=True)
comparison = pd.DataFrame(scores["metrics"])

# %% save
pd.to_pickle((model, dataset), folder / "model.pkl")

# %% load
model, dataset = pd.read_pickle(folder / "model.pkl")
reloaded = model.recommend(some_users, dataset, k=10, filter_viewed=True)

# %% results
test_pairs = test
predictions, rmse = None, None
compared = comparison.set_index("model")[["recall@10", "ndcg@10"]].to_dict("index")
