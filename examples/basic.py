"""Segue in five lines, on the simulated film catalog; use the name or path of any other log instead."""

import segue

split = segue.split("simulated?users=300&items=120&seed=1")
model = segue.train("xlstm", split, epochs=3, embedding_dim=32)
print(segue.evaluate(model, split))
print(segue.recommend(model, split.train.users.ids[:3], k=10))
