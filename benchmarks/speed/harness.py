"""What all speed benchmarks share: interleaved timing, the machine's description, targets, JSON and charts.

A benchmark runs several implementations of the same work in one process or one session, interleaved, and states its
result as ratios within that run; seconds alone depend on the machine. A target is a figure that must be reached. Every
target is printed, met or missed, and a missed one ends the program with exit code 3, so that a regression is noticed by
any user.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import typer

from xsap import __version__
from xsap.artifacts import write_atomically
from xsap.errors import ConfigError
from xsap.page import markdown
from xsap.plots import Plot, horizontal_bars
from xsap.terminal import EXIT_TARGET_MISSED, log

if TYPE_CHECKING:
    import torch
    from _typeshed import DataclassInstance

OURS = "xsap"  # prefix of the names of our implementations
T = TypeVar("T")
R = TypeVar("R")
D = TypeVar("D", bound="DataclassInstance")


class DeviceName(StrEnum):
    """The device that a benchmark runs on."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a benchmark ran: device, CPU cores of the process, torch's threads, package → version."""

    device: str
    cores: int
    threads: int
    versions: dict[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"{self.device}, cores: {self.cores}, threads: {self.threads}; {versions}"


@dataclass(frozen=True, slots=True)
class Target:
    """A required figure: `value` must be at least `limit`, or at most, if `at_most`."""

    what: str
    value: float
    limit: float
    at_most: bool
    met: bool

    def __str__(self) -> str:
        verdict, bound = "met" if self.met else "MISSED", "most" if self.at_most else "least"
        figure = format_figure(self.value)
        if not self.met and float(figure.replace(",", "")) == self.limit:
            figure = f"{self.value:.7g}"  # rounded, it would look like a target that is met
        return f"{verdict}: {self.what} {figure}, target at {bound} {self.limit:g}"


def target(what: str, value: float, limit: float, *, at_most: bool = False) -> Target:
    """A `Target`, with whether it is met."""
    return Target(what, value, limit, at_most, value <= limit if at_most else value >= limit)


def exit_by(targets: Iterable[Target]) -> None:
    """Exit with code 3 if a target is missed."""
    if not all(each.met for each in targets):
        raise typer.Exit(EXIT_TARGET_MISSED)


def select_device(name: DeviceName | None) -> "torch.device":
    """The device of this name; without a name CUDA where available. Raises ConfigError if CUDA is not available."""
    import torch

    available = torch.cuda.is_available()
    if name == DeviceName.CUDA and not available:
        raise ConfigError("--device cuda needs a GPU and a torch built for it, found none; use --device cpu")
    return torch.device(name.value if name else "cuda" if available else "cpu")


def describe_machine(
    device: "torch.device", packages: Sequence[str] = (), *, cpu_info: Path = Path("/proc/cpuinfo")
) -> Machine:
    """Describe the machine.

    Args:
        device: The device that the benchmark runs on.
        packages: Packages whose versions matter, beside Python, xsap, torch and numpy.
        cpu_info: Linux's description of the processors.

    Returns:
        The description.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {_processor(cpu_info)}"
    versions = {"python": platform.python_version(), OURS: __version__}
    versions |= {package: version(package) for package in ("torch", "numpy", *packages)}
    return Machine(name, cores, torch.get_num_threads(), versions)


def _processor(cpu_info: Path) -> str:
    """Architecture, and on Linux the model, which decides whether 8-bit and 16-bit products are fast."""
    lines = cpu_info.read_text(encoding="utf-8").splitlines() if cpu_info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{platform.machine()}, {names[0]}" if names else platform.machine()


def timed(function: Callable[[T], R], argument: T, device: "torch.device") -> tuple[float, R]:
    """Seconds of a call, until the device has finished its work, and what the call returned."""
    import torch

    synchronize: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    result = function(argument)
    synchronize()
    return time.perf_counter() - start, result


def time_interleaved(
    implementations: Mapping[str, Callable[[T], R]],
    inputs: Iterable[T],
    device: "torch.device",
    *,
    warm_up: int,
    report: Callable[[float, R], str],
) -> dict[str, list[float]]:
    """Seconds of every implementation on every input, one implementation after another on each input.

    Args:
        implementations: Name → function of an input.
        inputs: The inputs; equal ones are rounds.
        device: The device that the functions run on.
        warm_up: Number of first inputs whose times are left out.
        report: Text for the log from a call's seconds and result.

    Returns:
        Name → seconds, one for each input after the warm-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in implementations}
    for number, each in enumerate(inputs, 1 - warm_up):
        for name, function in implementations.items():
            took, result = timed(function, each, device)
            log(f"{f'round {number}' if number > 0 else 'warm-up'}, {name}: {report(took, result)}")
            if number > 0:
                seconds[name].append(took)
    return seconds


class ProductRates:
    """The device's own rate of matrix products in each dtype: the limit that an implementation is compared with.

    Measured when created and again at every `measure`, so before and after a benchmark; the rate is that of the median
    time.
    """

    def __init__(self, dtypes: Iterable[str], rows: int, hidden: int, device: "torch.device") -> None:
        """Products are (rows × hidden) · (hidden × 4 hidden)."""
        self._rows, self._hidden, self._device = rows, hidden, device
        self._seconds: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
        self.measure()

    def measure(self) -> None:
        """Time ten more products in each dtype."""
        for dtype, seconds in self._seconds.items():
            seconds += product_seconds(dtype, self._rows, self._hidden, self._device)

    def flops_per_second(self) -> dict[str, float]:
        """Dtype → operations per second, a multiplication and an addition counting as two."""
        operations = 8 * self._rows * self._hidden**2
        return {dtype: operations / median(seconds) for dtype, seconds in self._seconds.items()}


def product_seconds(dtype: str, rows: int, hidden: int, device: "torch.device", *, repeats: int = 10) -> list[float]:
    """Time matrix products.

    Args:
        dtype: float32, bfloat16, float16, or int8 with int32 results.
        rows: Rows of the first factor.
        hidden: The factors are (rows, hidden) and (hidden, 4 hidden).
        device: On CUDA 100 products are timed at once, because one is as short as the wait for it.
        repeats: Number of measurements after an untimed one.

    Returns:
        Seconds of one product, `repeats` times.
    """
    import torch

    shapes = ((rows, hidden), (4 * hidden, hidden))
    if dtype == "int8":
        left, right = (torch.randint(-127, 128, shape, dtype=torch.int8, device=device) for shape in shapes)
        multiply = torch._int_mm
    else:
        left, right = (torch.randn(shape, dtype=getattr(torch, dtype), device=device) for shape in shapes)
        multiply = torch.mm
    count = 100 if device.type == "cuda" else 1

    def products(factor: "torch.Tensor") -> "torch.Tensor":
        return [multiply(left, factor.T) for _ in range(count)][-1]

    return [timed(products, right, device)[0] / count for _ in range(repeats + 1)][1:]


def memory_bytes(field: str) -> int:
    """Resident bytes of this process: `VmRSS`, at present, or `VmHWM`, the maximum. Linux only, see proc(5)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def reset_peak_memory() -> None:
    """Set `VmHWM` to the present resident memory. Linux only, see proc(5)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def format_figure(figure: float) -> str:
    """Three significant digits, or all digits of the integer part: 0.105, 12.3, 1,234."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def finish(
    result: D,
    to_text: Callable[[D], str],
    *,
    json_to: Path | None,
    plot_to: Path | None = None,
    plot: Callable[[D, Path], None] | None = None,
    targets: Iterable[Target] = (),
) -> None:
    """Write, plot and print a result, and exit with code 3 if a target is missed.

    Args:
        result: All figures.
        to_text: Result → text for people.
        json_to: File for the figures; None for none.
        plot_to: File for a chart; None for none.
        plot: Writes the chart.
        targets: The targets.
    """
    write_json(result, json_to)
    if plot and plot_to:
        plot(result, plot_to)
    print(to_text(result))
    exit_by(targets)


def write_json(result: "DataclassInstance", path: Path | None) -> None:
    """Write all figures of a benchmark, if a file is given."""
    if path:
        with write_atomically(path) as stream:
            json.dump(asdict(result), stream, indent=1)


def to_markdown(rows: Sequence[Sequence[str]], notes: Iterable[object]) -> str:
    """A table, if it has rows, and a list of notes under it."""
    return "\n".join([*([*markdown(rows), ""] if rows else []), *(f"- {note}" for note in notes)])


def peak_fraction_note(operations: int, rows: str, rates: Mapping[str, float]) -> str:
    """Meaning of the column `fraction of peak rate`: operations per weight and token, rows of a product, rates."""
    listed = ", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in rates.items())
    return (
        f"fraction of peak rate: {operations} · weights of the linear layers · tokens / seconds / the device's rate, for real "
        "tokens or for all positions computed; where the last layer is computed for [CLS] alone, most of its weights count "
        f"once per name; the rate is that of products ({rows} × hidden) · (hidden × 4 hidden) in the same dtype, before and "
        f"after the comparison: {listed}"
    )


def bar_plot(title: str, values: Mapping[str, float], labels: Sequence[str] | None = None) -> Plot:
    """Horizontal bars, ours in color and all others in gray; without labels each value is written at its bar."""
    shown = labels or [format_figure(value) for value in values.values()]
    return horizontal_bars(values, title=title, labels=shown, highlighted=lambda name: name.startswith(OURS), width=8.0)
