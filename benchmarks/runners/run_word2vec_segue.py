"""Train word vectors with Segue's skip-gram kernel."""

from __future__ import annotations

import time

import numpy as np
from measure import Job

from segue.solvers.skip_gram import SkipGram, SkipGramOptions


def main() -> None:
    job = Job()
    (offsets, codes), settings = job.events(), job.settings
    start = time.perf_counter()
    rng = np.random.default_rng(settings["seed"])
    options = SkipGramOptions(**settings["settings"], num_threads=settings["threads"])
    model = SkipGram(offsets, codes, int(codes.max()) + 1, options, rng)
    job.record(prepare_seconds=time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    losses = [model.run_epoch(epoch, rng) for epoch in range(options.epochs)]
    job.record(fit_seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu, losses=losses)
    np.save(job.folder / "vectors.npy", model.inputs_VD)
    job.finish()


main()
