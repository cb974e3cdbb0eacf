"""Random streams, checkpoints and interruption."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from segue.core.run import Run


def test_random_streams_are_independent_and_reproducible() -> None:
    run = Run(seed=3)
    assert run.derive_seed("negatives") == Run(seed=3).derive_seed("negatives")
    assert len({Run(seed).derive_seed(name) for seed in range(20) for name in ("a", "b", "c")}) == 60
    assert run.rng("a").integers(1 << 30, size=4).tolist() == run.rng("a").integers(1 << 30, size=4).tolist()
    correlation = np.corrcoef(run.rng("a").normal(size=4000), run.rng("b").normal(size=4000))
    assert abs(correlation[0, 1]) < 0.06
    assert all(0 <= Run(seed).derive_seed("x") < 2**63 for seed in range(50))


def test_random_streams_do_not_change_between_versions() -> None:
    # results of old runs are reproducible only while these numbers stay the same
    assert Run(0).derive_seed("split") == 2515624203271457519
    assert Run(0).rng("split").integers(1000, size=3).tolist() == [152, 131, 440]


class Listener:
    """A tracker that records its calls."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.heard.append((step, dict(values)))


def test_history_is_stored_and_sent_to_trackers(tmp_path: Path) -> None:
    listener = Listener()
    run = Run(folder=tmp_path / "new" / "run", trackers=(listener,))
    run.log(1, {"loss": 0.5})
    run.log(2, {"loss": 0.25})
    assert run.history() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert listener.heard == [(1, {"loss": 0.5}), (2, {"loss": 0.25})]


def test_runs_without_a_folder_store_no_files() -> None:
    run = Run()
    run.log(1, {"loss": 0.5})
    run.save_checkpoint({"epoch": 1}, {"a": np.ones(2)})
    assert run.history() == []
    assert run.resume() is None


def test_resume_loads_the_checkpoint_and_truncates_the_history(tmp_path: Path) -> None:
    run = Run(seed=4, folder=tmp_path)
    for step in (1, 2):
        run.log(step, {"loss": 1 / step})
        run.save_checkpoint({"epoch": step}, {"a": np.full(2, step, np.float32)})
    run.log(3, {"loss": 0.1})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed in the middle of a line
    resumed = Run(seed=4, folder=tmp_path)
    actual = resumed.resume()
    assert actual is not None
    facts, arrays = actual
    assert facts["epoch"] == 2
    assert arrays["a"].tolist() == [2.0, 2.0]
    assert [line["step"] for line in resumed.history()] == [1, 2]


def test_resume_without_checkpoint_starts_again(tmp_path: Path) -> None:
    Run(folder=tmp_path).log(1, {"loss": 1.0})
    resumed = Run(folder=tmp_path)
    assert resumed.resume() is None
    assert resumed.history() == []


def test_resume_recovers_an_interrupted_checkpoint(tmp_path: Path) -> None:
    Run(folder=tmp_path).save_checkpoint({"epoch": 1}, {"a": np.ones(1)})
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.old")
    actual = Run(folder=tmp_path).resume()
    assert actual is not None
    assert actual[0]["epoch"] == 1


def test_resume_rejects_another_seed(tmp_path: Path) -> None:
    Run(seed=1, folder=tmp_path).save_checkpoint({}, {"a": np.ones(1)})
    with pytest.raises(ValueError, match="has seed 1, this run has 2"):
        Run(seed=2, folder=tmp_path).resume()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_requests_second_raises(number: signal.Signals) -> None:
    run, before = Run(), signal.getsignal(number)
    with run.interruptible():
        os.kill(os.getpid(), number)
        assert run.interrupted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_interruptible_in_another_thread() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with Run().interruptible():
                pass
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


def test_progress_is_silent_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Run().progress(2, "quiet") as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")
    with Run(show_progress=True).progress(2, "loud") as advance:
        advance(2, "note")
    out, err = capsys.readouterr()
    assert out == ""
    assert "loud" in err
