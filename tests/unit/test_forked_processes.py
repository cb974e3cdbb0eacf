"""Worker processes: spawned ones load and recommend, forked ones get an error instead of waiting forever.

Processes of a pool, of an executor and of PyTorch's ``DataLoader``. joblib's default backend starts processes as
``spawn`` does.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nightly import only_nightly

PROGRAM = """
import multiprocessing, sys
import segue

FOLDER = sys.argv[2]


def recommend(user):
    model = segue.open(FOLDER + "/model")
    return segue.recommend(model, [user], k=2)["item_id"].to_list()


def load(_):
    return len(segue.load(FOLDER + "/log.csv").users)


def recommend_with_loaded_model(user):
    return segue.recommend(MODEL, [user], k=2)["item_id"].to_list()


def split_loaded_data(_):
    return len(segue.split(DATA).train.users)


class Recommendations:  # a map-style dataset of PyTorch
    def __init__(self, users):
        self.users = users

    def __len__(self):
        return len(self.users)

    def __getitem__(self, index):
        return recommend(self.users[index])


def attempt(function):
    try:
        return function("u1")
    except RuntimeError as error:
        return str(error)


def load_in_workers(_):
    from torch.utils.data import DataLoader

    loader = DataLoader(Recommendations(["u1", "u2"]), batch_size=None, num_workers=1, multiprocessing_context="fork")
    return [list(items) for items in loader]


def recommend_in_executor(context):
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(recommend, "u1").result()


if __name__ == "__main__":
    if sys.argv[1] == "unstarted":  # Polars is imported, but has not started its threads
        import polars
    else:
        data = segue.load(FOLDER + "/log.csv")
        model = segue.train("item_knn", data)
        segue.save(model, FOLDER + "/model")
    context = multiprocessing.get_context("spawn" if sys.argv[1] == "spawn" else "fork")
    functions = {
        "unstarted": [load],
        "spawn": [load, recommend],
        "fork": [load, recommend, recommend_with_loaded_model, split_loaded_data],
    }[sys.argv[1]]
    if sys.argv[1] == "fork":
        MODEL, DATA = model, data
    with context.Pool(1) as pool:
        print(pool.map(attempt, functions))
    if sys.argv[1] == "fork":
        print("DataLoader:", attempt(load_in_workers))
        print("executor:", attempt(lambda _: recommend_in_executor(context)))
"""


def run_workers(method: str, folder: Path) -> str:
    (folder / "program.py").write_text(PROGRAM)
    lines = [f"u{n % 6},i{7 * n % 23},{1_600_000_000 + n}" for n in range(60)]
    (folder / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    environment = {**os.environ, "SEGUE_HOME": str(folder / "home"), "POLARS_MAX_THREADS": "2"}
    command = [sys.executable, str(folder / "program.py"), method, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_spawned_workers_load_and_recommend(tmp_path: Path) -> None:
    assert run_workers("spawn", tmp_path).startswith("[6, ['i")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which threads a process has")
@only_nightly
def test_forked_workers_get_an_error(tmp_path: Path) -> None:
    out = run_workers("fork", tmp_path)
    assert "cannot load data in process" in out
    assert out.count("cannot load a model in process") >= 3, "in a pool, an executor, and a worker of a DataLoader"
    assert "cannot use a model in process" in out, "loaded before the fork"
    assert "cannot use a dataset in process" in out
    assert "get_context('spawn')" in out


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which threads a process has")
def test_workers_forked_before_polars_starts_its_threads_load(tmp_path: Path) -> None:
    assert run_workers("unstarted", tmp_path) == "[6]\n"
