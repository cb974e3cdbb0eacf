"""Train word vectors with gensim's Word2Vec."""

from __future__ import annotations

import time

import numpy as np
from gensim.models import Word2Vec
from measure import Job


def main() -> None:
    job = Job()
    (offsets, codes), options = job.events(), job.settings
    settings = options["settings"]
    sentences = [list(map(str, row)) for row in np.split(codes, offsets[1:-1])]
    start = time.perf_counter()
    model = Word2Vec(
        vector_size=settings["size"],
        window=settings["window"],
        sg=1,
        negative=settings["num_negatives"],
        ns_exponent=settings["sampler_alpha"],
        sample=settings["subsample"],
        alpha=settings["learning_rate"],
        min_alpha=settings["learning_rate"] * 0.004,
        min_count=1,
        workers=options["threads"],
        seed=options["seed"] + 1,
    )
    model.build_vocab(sentences)
    job.record(prepare_seconds=time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    model.train(sentences, total_examples=len(sentences), epochs=settings["epochs"])
    job.record(fit_seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
    rows = [model.wv.key_to_index[str(code)] for code in range(int(codes.max()) + 1)]
    np.save(job.folder / "vectors.npy", model.wv.vectors[rows])
    job.finish()


main()
