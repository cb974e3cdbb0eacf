"""Measure device, processor, memory and energy while a model is trained.

A thread samples once per second. NVIDIA devices are read through NVML (the package ``nvidia-ml-py``, of the extra
``track``); without its driver these measurements are absent, and the reason is recorded.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import psutil

from segue.core.numba_kernels import thread_count

__all__ = ["Device", "Monitor", "open_device", "peak_flops"]

INTERVAL = 1.0
"""Seconds between samples."""

PEAK_TERAFLOPS: Mapping[str, tuple[float, float]] = {
    "Tesla T4": (8.1, 0.0),
    "Tesla V100-SXM2": (15.7, 0.0),
    "NVIDIA L4": (30.3, 121.0),
    "NVIDIA A10": (31.2, 125.0),
    "NVIDIA L40S": (91.6, 362.0),
    "NVIDIA A100": (19.5, 312.0),
    "NVIDIA H100 PCIe": (51.0, 756.0),
    "NVIDIA H100 80GB HBM3": (67.0, 989.0),
    "NVIDIA H200": (67.0, 989.0),
}
"""Peak of dense matrix products in float32 (without TF32) and bfloat16, from NVIDIA's data sheets; 0: not supported."""


def peak_flops(device: str | None, precision: str) -> float | None:
    """Return the peak of a device in operations per second; ``None`` if unknown.

    Args:
        device: name of an NVIDIA device; ``None``: another one.
        precision: ``float32`` or ``bfloat16``.
    """
    known = [name for name in PEAK_TERAFLOPS if device is not None and device.startswith(name)]
    if not known:
        return None
    exact = max(known, key=len)
    if device != exact and str(device)[len(exact)] not in " -":  # NVIDIA A10 is no prefix of NVIDIA A100
        return None
    return PEAK_TERAFLOPS[exact][precision == "bfloat16"] * 1e12 or None


@dataclass(frozen=True)
class Device:
    """An NVIDIA device, read through NVML.

    All readings are those of the whole device, other processes included.
    """

    name: str
    nvml: Any
    """The module ``pynvml``."""
    handle: Any

    def read(self) -> dict[str, float]:
        """Read use (percent), memory (bytes), power (watts) and temperature (Celsius).

        What the device does not support is left out.
        """
        readings: Mapping[str, Callable[[], float]] = {
            "device_percent": lambda: self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu,
            "device_memory_bytes": lambda: self.nvml.nvmlDeviceGetMemoryInfo(self.handle).used,
            "device_power_watts": lambda: self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1000,
            "device_temperature": lambda: self.nvml.nvmlDeviceGetTemperature(
                self.handle, self.nvml.NVML_TEMPERATURE_GPU
            ),
        }
        found = {}
        for name, read in readings.items():
            with suppress(self.nvml.NVMLError):  # not every device supports every reading
                found[name] = float(read())
        return found


def open_device(device: str, nvml: Any = None) -> Device | str:
    """Open the NVIDIA device that training uses; return the reason if there is none.

    Args:
        device: a device of torch.
        nvml: stands for the module ``pynvml``, in tests.
    """
    if not device.startswith("cuda"):
        return f"training runs on {device}"
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return "nvidia-ml-py is not installed: pip install 'segue[track]'"
        nvml = pynvml
    try:
        nvml.nvmlInit()
        handle = _find_handle(nvml, device)
        name = nvml.nvmlDeviceGetName(handle)
    except nvml.NVMLError as error:
        return f"NVML: {error}"
    return Device(name.decode() if isinstance(name, bytes) else str(name), nvml, handle)


def _find_handle(nvml: Any, device: str) -> Any:
    """Return NVML's handle of a torch device.

    Torch counts only the visible devices.
    """
    index = int(device.partition(":")[2] or 0)
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    if index < len(visible):
        if not visible[index].isdigit():
            return nvml.nvmlDeviceGetHandleByUUID(visible[index])
        index = int(visible[index])
    return nvml.nvmlDeviceGetHandleByIndex(index)


@dataclass
class _Series:
    """Samples of one quantity."""

    total: float = 0.0
    count: int = 0
    highest: float = 0.0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1
        self.highest = max(self.highest, value)


@dataclass
class _Period:
    """Measurements of a span of time: an epoch, or the whole training."""

    began: float
    cpu_began: float
    series: dict[str, _Series] = field(default_factory=dict)
    joules: float = 0.0

    def values(self, now: float, cpu_now: float) -> dict[str, float]:
        """Return means and peaks."""
        seconds = max(now - self.began, 1e-9)
        found = {"cpu_percent": 100 * (cpu_now - self.cpu_began) / seconds}
        for name, one in self.series.items():
            is_mean = name in ("device_percent", "device_power_watts")
            found[name] = one.total / one.count if is_mean else one.highest
        if "device_power_watts" in self.series:
            found["energy_joules"] = self.joules
        return found


class Monitor:
    """Samples resources from entry to exit of its context.

    See :class:`segue.core.run.ResourceMonitor`.

    Args:
        device: the device of torch that training uses.
        precision: that of training, which determines the peak of the device.
        interval: seconds between samples.
        nvml: stands for the module ``pynvml``, in tests.
    """

    def __init__(
        self, device: str = "cpu", precision: str = "float32", interval: float = INTERVAL, nvml: Any = None
    ) -> None:
        found = open_device(device, nvml)
        self.device = found if isinstance(found, Device) else None
        self.absence = None if isinstance(found, Device) else found
        self._is_cpu = device == "cpu"
        self.interval = interval
        self.peak = peak_flops(None if self.device is None else self.device.name, precision)
        self.flops_per_step: float | None = None
        self.flops_per_target: float | None = None
        self._process = psutil.Process()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._last: dict[str, float] = {}
        self._last_time = time.monotonic()
        self._cpu_percent = 0.0
        self._rates = _Series()
        self._whole = _Period(self._last_time, self._cpu_seconds())
        self._epoch = _Period(self._last_time, self._whole.cpu_began)
        self._summary: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        """Start to sample."""
        self._last_time = time.monotonic()
        self._whole = _Period(self._last_time, self._cpu_seconds())
        self._epoch = _Period(self._last_time, self._whole.cpu_began)
        self._sample()
        self._thread = threading.Thread(target=self._work, name="monitor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to sample."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self.interval)
        self._summary = self._summarize()

    def record_flops(self, per_step: float, per_target: float) -> None:
        """Record the operations of training per optimizer step and per target."""
        self.flops_per_step, self.flops_per_target = per_step, per_target

    def collect(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """Return the measurements since the last call, named ``monitor/...``."""
        self._sample()
        now, cpu_now = time.monotonic(), self._cpu_seconds()
        with self._lock:
            found = self._epoch.values(now, cpu_now)
            self._epoch = _Period(now, cpu_now)
        rate = values.get("targets_per_second")
        if rate is not None and self.flops_per_target is not None:
            found["flops_per_second"] = self.flops_per_target * rate
            self._rates.add(found["flops_per_second"])
            if self.peak is not None:
                found["share_of_peak"] = found["flops_per_second"] / self.peak
        return {f"monitor/{name}": value for name, value in found.items()}

    def describe(self) -> str:
        """Describe the last sample, such as ``CPU 198 % 1.2 GiB GPU 87 % 310 W 55 °C``."""
        last = self._last
        parts = [f"CPU {self._cpu_percent:.0f} %", f"{last.get('rss_bytes', 0) / 2**30:.1f} GiB"]
        device = {
            "device_percent": "GPU {:.0f} %",
            "device_power_watts": "{:.0f} W",
            "device_temperature": "{:.0f} °C",
        }
        parts += [text.format(last[name]) for name, text in device.items() if name in last]
        return " ".join(parts)

    def summary(self) -> dict[str, Any]:
        """Return the measurements of the whole time, for the record.

        What was not measured is ``None``.
        """
        return self._summarize() if self._summary is None else self._summary

    def _summarize(self) -> dict[str, Any]:
        now, cpu_now = time.monotonic(), self._cpu_seconds()
        with self._lock:
            found = self._whole.values(now, cpu_now)
            seconds = now - self._whole.began
        rate = self._rates.total / self._rates.count if self._rates.count else None
        threads = thread_count()
        use = min(100.0, found["cpu_percent"] / threads) if self._is_cpu else found.get("device_percent")
        names = ("cpu_percent", "rss_bytes", "device_memory_bytes", "device_power_watts", "device_temperature")
        rounded = {name: round(found[name], 1) if name in found else None for name in (*names, "energy_joules")}
        return {
            "seconds": round(seconds, 3),
            "device": None if self.device is None else self.device.name,
            "device_absence": self.absence,
            "device_percent": None if use is None else round(use, 1),
            "threads": threads,
            **rounded,
            "flops_per_step": self.flops_per_step,
            "flops_per_second": rate,
            "share_of_peak": None if rate is None or self.peak is None else round(rate / self.peak, 6),
        }

    def _work(self) -> None:
        while not self._stop.wait(self.interval):
            self._sample()

    def _sample(self) -> None:
        """Add one sample to the epoch and to the whole."""
        found = {"rss_bytes": float(self._process.memory_info().rss)}
        if self.device is not None:
            found |= self.device.read()
        now, cpu_now = time.monotonic(), self._cpu_seconds()
        with self._lock:
            passed = now - self._last_time
            if passed > self.interval / 2:
                self._cpu_percent = 100 * (cpu_now - self._last.get("cpu_seconds", cpu_now)) / passed
            before = self._last.get("device_power_watts")
            power = found.get("device_power_watts")
            joules = 0.0 if power is None or before is None else passed * (power + before) / 2
            for period in (self._epoch, self._whole):
                period.joules += joules
                for name, value in found.items():
                    period.series.setdefault(name, _Series()).add(value)
            self._last, self._last_time = {**found, "cpu_seconds": cpu_now}, now

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
