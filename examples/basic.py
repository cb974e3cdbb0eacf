"""Segue in five lines, on a made-up film catalogue; the name or path of any other log goes in its place."""

import segue

data = segue.load("simulated?users=300&items=120&seed=1")
split = segue.split(data)
model = segue.train("xlstm", split, epochs=3, width=32)
print(segue.evaluate(model, split.test).summary["ndcg@10"])
print(segue.recommend(model, data.items.ids[:3].to_list(), k=10))
