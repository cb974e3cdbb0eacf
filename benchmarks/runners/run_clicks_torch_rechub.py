"""Train and score a click-through model of torch-rechub."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from measure import Job
from torch_rechub.basic.features import DenseFeature, SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIN, DCNv2, DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator


def build(job: Job, arrays: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    settings, sizes, key = job.settings["settings"], job.settings["sizes"], job.settings["model"]
    dim, mlp = settings["embedding_dim"], {"dims": settings["hidden"], "dropout": 0.0}
    x: dict[str, Any] = {f"n{index}": arrays["numbers"][:, index] for index in range(sizes["numbers"])}
    dense = [DenseFeature(name) for name in x]
    if key == "din":
        is_known = np.arange(sizes["length"]) < arrays["lengths"][:, None]
        x = {"item": arrays["items"] + 1, "history": np.where(is_known, arrays["histories"] + 1, 0)}
        size = sizes["items"] + 1
        item = SparseFeature("item", vocab_size=size, embed_dim=dim)
        history = SequenceFeature("history", vocab_size=size, embed_dim=dim, pooling="concat", shared_with="item")
        model = DIN(
            features=[item],
            history_features=[history],
            target_features=[item],
            mlp_params=mlp,
            attention_mlp_params={"dims": settings["attention_hidden"]},
        )
        return model, x
    sparse = [
        SparseFeature(f"c{index}", vocab_size=sizes["categories"] + 1, embed_dim=dim)
        for index in range(sizes["fields"])
    ]
    x |= {f"c{index}": arrays["codes"][:, index] for index in range(sizes["fields"])}
    if key == "deepfm":
        return DeepFM(deep_features=sparse + dense, fm_features=sparse, mlp_params=mlp), x
    return DCNv2(features=sparse + dense, n_cross_layers=settings["num_crosses"], mlp_params=mlp,
                 use_low_rank_mixture=False), x  # fmt: skip


def main() -> None:
    job = Job()
    settings = job.settings["settings"]
    torch.set_num_threads(job.settings["threads"])
    arrays = job.arrays()
    model, x = build(job, arrays)
    start, cpu = time.perf_counter(), time.process_time()
    generator = DataGenerator(x, arrays["labels"])
    loader, _, _ = generator.generate_dataloader(x_val=x, y_val=arrays["labels"], x_test=x, y_test=arrays["labels"],
                                                 batch_size=settings["batch_size"])  # fmt: skip
    trainer = CTRTrainer(
        model,
        optimizer_params={"lr": settings["learning_rate"]},
        n_epoch=settings["epochs"],
        device="cpu",
        model_path=str(job.folder),
    )
    trainer.fit(loader)
    job.record(fit_seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
    start = time.perf_counter()
    found = np.array(trainer.predict(trainer.model, loader))
    job.record(score_seconds=time.perf_counter() - start, positive_share=float((found > 0.5).mean()))
    job.finish()


main()
