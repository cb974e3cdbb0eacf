"""The ten tasks in Segue."""

# %% given
from api_inputs import allowed, folder, history, item, pairs, ratings, some_users

# %% imports
import segue

# %% split
split = segue.split(ratings, valid=0)

# %% train
model = segue.train("ease", split, l2=500)

# %% evaluate
result = segue.evaluate(model, split, metrics=["recall@10", "ndcg@10"])

# %% recommend
recommendations = segue.recommend(model)

# %% new_user
new_recommendations = segue.recommend(model, histories=[history])

# %% allow_list
allowed_recommendations = segue.recommend(model, some_users, allow=allowed)

# %% similar
similar_items = segue.similar(model, item)

# %% ratings
rmse = segue.cross_validate("als", ratings, metrics=["rmse"])
predictions = segue.predict(segue.train("als", ratings), pairs)

# %% compare
comparison = segue.compare(["popular", "item_knn", "ease"], split, metrics=["recall@10", "ndcg@10"])

# %% save
segue.save(model, folder / "model")

# %% load
reloaded = segue.recommend(folder / "model", some_users)

# %% results
import pandas as pd  # noqa: E402

held_out, users, catalog = split.test, split.train.users.ids, split.train.items.ids
test_pairs = pd.DataFrame(
    {
        "user_id": [int(users[int(code)]) for code in held_out.queries.users],
        "item_id": [int(catalog[int(code)]) for code in held_out.targets.items],
    }
)
result = {name: result[name].mean for name in ("recall@10", "ndcg@10")}
compared = {
    name: {metric: estimate.mean for metric, estimate in estimates.items()}
    for name, estimates in comparison.estimates.items()
}
rmse = rmse.table["mean"][0]
