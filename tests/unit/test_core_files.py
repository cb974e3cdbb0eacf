"""Atomic writes leave either the old or the new content."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segue.core.files import (
    atomic_folder,
    load_arrays,
    read_json,
    recover_interrupted_write,
    save_arrays,
    sha256,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_text_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "ä\n")
    write_text(path, "new\n")
    assert path.read_text(encoding="utf-8") == "new\n"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "lost")
    assert path.read_text(encoding="utf-8") == "new\n"
    assert names(path.parent) == ["file.txt"]


def test_json_round_trip_and_errors(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, None, "ü"]})
    assert read_json(tmp_path / "a.json") == {"x": [1, None, "ü"]}
    with pytest.raises(ValueError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")
    (tmp_path / "c.json").write_bytes(b'{"x": ')
    with pytest.raises(ValueError, match=r"c\.json: not JSON"):
        read_json(tmp_path / "c.json")
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "d.json", float("nan"))
    assert names(tmp_path) == ["a.json", "c.json"]


def fill(path: Path, text: str) -> None:
    with atomic_folder(path) as fresh:
        (fresh / "file").write_text(text)


def test_atomic_folder_appears_complete(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "target") as fresh:
        (fresh / "file").write_text("1")
        assert not (tmp_path / "deep" / "target").exists()
    assert (tmp_path / "deep" / "target" / "file").read_text() == "1"
    fill(tmp_path / "deep" / "target", "2")
    assert (tmp_path / "deep" / "target" / "file").read_text() == "2"
    assert names(tmp_path / "deep") == ["target"]


def write_and_fail(path: Path, error: type[BaseException]) -> None:
    with atomic_folder(path) as fresh:
        (fresh / "file").write_text("new")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [False, True])
def test_error_in_atomic_folder_leaves_no_trace(tmp_path: Path, error: type[BaseException], before: bool) -> None:
    if before:
        fill(tmp_path / "target", "old")
    with pytest.raises(error):
        write_and_fail(tmp_path / "target", error)
    assert names(tmp_path) == (["target"] if before else [])
    assert not before or (tmp_path / "target" / "file").read_text() == "old"


def test_error_while_replacing_restores_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "target", "old")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "target" and ".old" not in self.name:
            raise OSError("no more")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no more"):
        fill(tmp_path / "target", "new")
    assert (tmp_path / "target" / "file").read_text() == "old"
    assert names(tmp_path) == ["target"]


KILLED = """
import os, signal, sys
from pathlib import Path
from segue.core.files import atomic_folder
rename, count = Path.rename, 0
def die(self, target):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = die
with atomic_folder(Path(sys.argv[1])) as fresh:
    (fresh / "file").write_text("new")
"""


@pytest.mark.parametrize("at", [1, 2])
def test_killed_writer_preserves_the_old_content(tmp_path: Path, at: int) -> None:
    fill(tmp_path / "target", "old")
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "target"), str(at)], check=False)
    assert process.returncode == -signal.SIGKILL
    recover_interrupted_write(tmp_path / "target")
    assert (tmp_path / "target" / "file").read_text() == "old"
    fill(tmp_path / "target", "newer")
    assert (tmp_path / "target" / "file").read_text() == "newer"


def test_arrays_round_trip(tmp_path: Path) -> None:
    arrays = {
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 4), np.float32),
        "turned": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "strided": np.arange(10, dtype=np.uint64)[::3],
        "mask": np.array([True, False]),
    }
    save_arrays(tmp_path / "a.safetensors", arrays)
    loaded = load_arrays(tmp_path / "a.safetensors")
    assert sorted(loaded) == sorted(arrays)
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)
    assert names(tmp_path) == ["a.safetensors"]


def test_errors_of_array_files_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.safetensors: no such file"):
        load_arrays(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not this")
    with pytest.raises(ValueError, match=r"bad\.safetensors: not a safetensors file"):
        load_arrays(tmp_path / "bad.safetensors")


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
