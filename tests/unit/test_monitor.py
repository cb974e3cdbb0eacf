"""Measurements of device, processor and operations during training, with a stand-in for NVML."""

# ruff: noqa: N802 - the names of NVML

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab
from segue.training import monitor
from segue.training.flops import FlopCount
from segue.training.monitor import Device, Monitor, open_device, peak_flops
from segue.training.settings import Training
from segue.training.train import train


class NvmlError(Exception):
    pass


class FakeNvml:
    """Answers like ``pynvml`` for two devices."""

    NVMLError = NvmlError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, fails: tuple[str, ...] = (), name: str = "NVIDIA H200") -> None:
        self.fails, self.name = fails, name
        self.watts = 300.0

    def nvmlInit(self) -> None:
        self._check("init")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index > 1:
            raise NvmlError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetName(self, handle: Any) -> bytes:
        return self.name.encode()

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=87)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(used=3 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        self._check("power")
        return int(self.watts * 1000)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        return 55

    def _check(self, name: str) -> None:
        if name in self.fails:
            raise NvmlError("Driver Not Loaded")


def open_fake(device: str, nvml: FakeNvml | None = None) -> Device:
    found = open_device(device, nvml or FakeNvml())
    assert isinstance(found, Device)
    return found


def test_a_device_is_read_through_nvml() -> None:
    found = open_fake("cuda:1")
    assert (found.name, found.handle) == ("NVIDIA H200", 1)
    assert found.read() == {
        "device_percent": 87.0,
        "device_memory_bytes": 3.0 * 2**30,
        "device_power_watts": 300.0,
        "device_temperature": 55.0,
    }
    assert "device_power_watts" not in open_fake("cuda", FakeNvml(("power",))).read()


def test_numbers_of_devices_are_those_of_the_visible_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-abc")
    assert open_fake("cuda:0").handle == 1
    assert open_fake("cuda:1").handle == "GPU-abc"


@pytest.mark.parametrize(
    ("device", "nvml", "reason"),
    [
        ("cpu", FakeNvml(), "training runs on cpu"),
        ("mps", FakeNvml(), "training runs on mps"),
        ("cuda", FakeNvml(("init",)), "NVML: Driver Not Loaded"),
        ("cuda:2", FakeNvml(), "NVML: Invalid Argument"),
    ],
)
def test_what_cannot_be_measured_is_absent(device: str, nvml: FakeNvml, reason: str) -> None:
    with Monitor(device, interval=60.0, nvml=nvml) as found:
        assert "GPU" not in found.describe()
    summary = found.summary()
    assert summary["device_absence"] == reason
    for name in ("device", "device_memory_bytes", "device_power_watts", "device_temperature", "energy_joules"):
        assert summary[name] is None
    assert (summary["device_percent"] is None) == (device != "cpu")
    assert not [name for name in found.collect({}) if "device" in name or "energy" in name]


def test_without_a_driver_nvml_says_so() -> None:
    pytest.importorskip("pynvml")
    if torch.cuda.is_available():
        pytest.skip("this machine has an NVIDIA driver")
    assert str(open_device("cuda")).startswith("NVML: ")


def test_energy_is_the_integral_of_power(monkeypatch: pytest.MonkeyPatch) -> None:
    now, nvml = [100.0], FakeNvml()
    monkeypatch.setattr(monitor, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Monitor("cuda", interval=60.0, nvml=nvml) as found:
        now[0] = 102.0
        assert found.collect({})["monitor/energy_joules"] == 600.0
        now[0], nvml.watts = 104.0, 500.0
        values = found.collect({})
        assert values["monitor/energy_joules"] == 2 * 400.0
        assert values["monitor/device_power_watts"] == 500.0
        assert found.describe().endswith("GPU 87 % 500 W 55 °C")
    assert found.summary()["energy_joules"] == 1400.0
    assert found.summary()["device"] == "NVIDIA H200"
    assert found.summary()["device_percent"] == 87.0
    assert found.summary()["seconds"] == 4.0


def test_the_share_of_peak_is_given_where_the_peak_is_known() -> None:
    assert peak_flops("NVIDIA H200", "float32") == 67e12
    assert peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bfloat16") == 312e12
    assert peak_flops("NVIDIA A10", "float32") == 31.2e12
    for device in (None, "NVIDIA A1000", "NVIDIA GeForce RTX 9999", "NVIDIA H100 NVL"):
        assert peak_flops(device, "float32") is None
    assert peak_flops("Tesla T4", "bfloat16") is None  # it has none
    with Monitor("cuda", "bfloat16", interval=60.0, nvml=FakeNvml()) as found:
        found.record_flops(1e12, 1e9)
        values = found.collect({"targets_per_second": 98_900.0})
    assert values["monitor/flops_per_second"] == pytest.approx(98.9e12)
    assert values["monitor/share_of_peak"] == pytest.approx(0.1)
    assert found.summary()["share_of_peak"] == pytest.approx(0.1)
    with Monitor("cpu", interval=60.0) as other:
        other.record_flops(1e6, 1e3)
        assert "monitor/share_of_peak" not in other.collect({"targets_per_second": 10.0})
    assert other.summary()["share_of_peak"] is None


def test_the_thread_samples_until_the_end() -> None:
    with Monitor("cuda", interval=0.01, nvml=FakeNvml()) as found:
        for _ in range(500):
            if found._whole.series["device_percent"].count > 3:
                break
            torch.rand(100, 100) @ torch.rand(100, 100)
            found._stop.wait(0.01)
    count = found._whole.series["device_percent"].count
    assert count > 3
    assert found._thread is not None
    assert not found._thread.is_alive()


def test_operations_are_counted_as_torch_counts_them() -> None:
    layer, heads_BHLD = nn.Linear(8, 3), torch.randn(2, 2, 5, 4, requires_grad=True)
    with FlopCount() as linear:
        layer(torch.ones(6, 8)).sum().backward()
    assert linear.total == 2 * 6 * 8 * 3 * 2  # the input needs no gradient
    with FlopCount() as attention:
        nn.functional.scaled_dot_product_attention(heads_BHLD, heads_BHLD, heads_BHLD).sum().backward()
    assert attention.total == 2 * 2 * 2 * 5 * 5 * 4 * (2 + 5)  # two products forward, five backward
    with FlopCount() as sparse:
        torch.sparse.mm(torch.eye(3).to_sparse(), torch.ones(3, 2))
    assert linear.is_complete
    assert not sparse.is_complete


def world() -> Dataset:
    rows = [[(user + step) % 9 for step in range(4)] for user in range(12)]
    return Dataset("walk", Vocab([f"u{u}" for u in range(12)]), Vocab([str(i) for i in range(9)]), Events.of(rows))


def test_a_training_logs_measurements_and_is_not_changed_by_them(tmp_path: Path) -> None:
    settings: Mapping[str, Any] = {"embedding_dim": 4, "max_length": 4, "dropout": 0.5}
    training = Training(epochs=2, batch_size=4, gradient_accumulation=2)
    plain: Any = train("gru4rec", settings, training, world(), Run(0))
    with Monitor("cpu", interval=60.0) as found:
        run = Run(0, tmp_path, monitor=found)
        watched: Any = train("gru4rec", settings, training, world(), run)
    for name, array in plain.arrays().items():
        assert array.tobytes() == watched.arrays()[name].tobytes()
    for line in run.history():
        rate = found.flops_per_target * line["targets_per_second"]  # type: ignore[operator]
        assert line["monitor/flops_per_second"] == pytest.approx(rate)
        assert line["monitor/cpu_percent"] >= 0
        assert line["monitor/rss_bytes"] > 1e6
    assert json.loads(json.dumps(found.summary()))["flops_per_step"] == found.flops_per_step
