"""The ten tasks in LensKit."""
# ruff: noqa: I001

# %% given
from api_inputs import allowed, folder, history, item, pairs, ratings, some_users

# %% imports
import pandas as pd
from lenskit import batch, recommend
from lenskit.als import BiasedMFScorer
from lenskit.basic import PopScorer
from lenskit.data import ItemList, ItemListCollection, from_interactions_df
from lenskit.knn import EASEScorer, ItemKNNScorer
from lenskit.metrics import NDCG, RMSE, Recall, RunAnalysis
from lenskit.metrics.ranking import LogRankWeight
from lenskit.pipeline import predict_pipeline, topn_pipeline
from lenskit.splitting import LastN, crossfold_records, crossfold_users

# %% split
data = from_interactions_df(ratings)
split = next(crossfold_users(data, 1, LastN(1)))

# %% train
model = topn_pipeline(EASEScorer(regularization=500), n=10)
model.train(split.train)

# %% evaluate
metrics = Recall(10), NDCG(10, weight=LogRankWeight(offset=1))
test_recommendations = batch.recommend(model, split.test.keys())
result = RunAnalysis(*metrics).measure(test_recommendations, split.test).list_summary()["mean"]

# %% recommend
recommendations = batch.recommend(model, split.train.users.ids()).to_df()

# %% new_user
new_recommendations = recommend(model, ItemList(history)).to_df()

# %% allow_list
seen = {user: split.train.user_row(user).ids() for user in some_users}
lists = {user: recommend(model, user, items=ItemList(allowed).remove(ids=seen[user])) for user in seen}
allowed_recommendations = ItemListCollection.from_dict(lists, "user_id").to_df()

# %% similar
similar_items = recommend(model, ItemList([item])).to_df()

# %% ratings
predictor = predict_pipeline(BiasedMFScorer(features=50))
errors = []
for fold in crossfold_records(data, 5, rng=0):
    predictor.train(fold.train)
    predicted = batch.predict(predictor, fold.test)
    errors.append(RunAnalysis(RMSE()).measure(predicted, fold.test).global_metrics()["RMSE"])
rmse = sum(errors) / 5
predictor.train(data)
wanted = ItemListCollection.from_df(pairs, "user_id")
predictions = batch.predict(predictor, wanted).to_df()

# %% compare
scorers = {
    "popular": PopScorer(),
    "item_knn": ItemKNNScorer(k=50, feedback="implicit"),
    "ease": EASEScorer(regularization=500),
}
comparison = {}
for name, scorer in scorers.items():
    pipeline = topn_pipeline(scorer, n=10)
    pipeline.train(split.train)
    lists = batch.recommend(pipeline, split.test.keys())
    comparison[name] = RunAnalysis(*metrics).measure(lists, split.test).list_summary()["mean"]

# %% save
pd.to_pickle(model, folder / "model.pkl")

# %% load
model = pd.read_pickle(folder / "model.pkl")
reloaded = batch.recommend(model, some_users).to_df()

# %% results
test_pairs = split.test.to_df()
result = {"recall@10": result["Recall@10"], "ndcg@10": result["NDCG@10"]}
compared = {key: {"recall@10": row["Recall@10"], "ndcg@10": row["NDCG@10"]} for key, row in comparison.items()}
