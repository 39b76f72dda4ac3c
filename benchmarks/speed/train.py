"""The race of one training step: the original SapBERT recipe against ours, in one run, and what each lever adds.

What would flatter us is ruled out. The sides train the same model from the same weights, in turns, on the same pairs, with the same
dropout; the reference's padding is done before its clock starts, our packing is not; and before the race all must give the same
loss and the same cosines. Memory is taken from a process of each side's own, where nothing else can be counted.

The device is a CPU, or CUDA: then a clock stops only when the device is idle, and memory is what torch took there at most. The CUDA part
has not been run yet: there was no such device where it was written.
"""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.ablations import ablation_sides, build, linear_flops, peak_memory, timed
from benchmarks.speed.reference import DTYPES, SIZES, Batch, Start, TrainingImplementation, prepare, say
from xsap.artifacts import write_atomically
from xsap.encoding.model_folder import REFERENCE_LENGTH
from xsap.page import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PIECES = 16_000
EXACT, LOOSE = 1e-4, 5e-2  # how far apart sides may be: both in float32, or one not
COLORS = ("#9aa5b1", "#1f6fb2")  # of what is compared with, and of the others
CURVE_BAR = 1e-3
CHUNK = 512  # names, of the side that caches gradients
_SIDES = {"cpu": ("reference float32", "xsap float32", "xsap bfloat16"), "cuda": ("reference float16", "xsap bfloat16")}
_WARM_UP = {"cpu": 1, "cuda": 5}  # steps; on CUDA kernels are chosen, and the scaler skips updates
_PRODUCTS = {"cpu": 1, "cuda": 100}  # timed as one, for on CUDA one is as short as the wait for it
_TIMES = 10


def check_agreement(sides: Mapping[str, TrainingImplementation], batch: Batch) -> dict[str, dict[str, float]]:
    """Each side's loss of a batch without dropout, and how far loss and cosines are from the first side's. An AssertionError if too far.

    Cosines are of vectors less their mean: an untrained model's vectors are nearly equal, and so would be any cosines of them.
    """
    found: dict[str, dict[str, float]] = {}
    first, *_ = sides.values()
    for name, side in sides.items():
        side.encoder.eval()
        vectors, tensor = side.forward(batch)
        side.encoder.train()
        units = F.normalize(vectors.detach().float(), dim=-1)
        centered = F.normalize(units - units.mean(0), dim=-1)
        loss, cosines = float(tensor.detach()), centered @ centered.T
        if not found:
            expected_loss, expected = loss, cosines
        apart = {"loss_relative": abs(loss / expected_loss - 1), "cosine": float((cosines - expected).abs().max())}
        tolerance = EXACT if first.dtype == side.dtype == "float32" else LOOSE
        assert all(value <= tolerance for value in apart.values()), (
            f"{name} doesn't compute the same: loss {loss}, {expected_loss}; {apart}"
        )
        found[name] = {"loss": loss, **apart}
    return found


def compare_speed(
    sides: Mapping[str, Callable[[Batch], Tensor]], batches: Iterable[Batch], device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each step of each side, the sides in turns on each batch; those of the first batches, a warm-up, are left out."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number, batch in enumerate(batches, 1 - _WARM_UP[device.type]):
        for name, step in sides.items():
            took, loss = timed(step, batch, device)
            say(f"{f'step {number}' if number > 0 else 'warm-up'}, {name}: {took:.3f} s, loss {float(loss):.4f}")
            if number > 0:
                seconds[name].append(took)
    return seconds


def product_seconds(dtype: str, tokens: int, hidden: int, device: torch.device) -> list[float]:
    """Seconds of a product (tokens × hidden) · (hidden × 4 hidden) in a precision, ten times, after one that isn't timed."""
    states, weights = (torch.randn(rows, hidden, dtype=DTYPES[dtype], device=device) for rows in (tokens, 4 * hidden))
    at_once = _PRODUCTS[device.type]

    def products(weights: Tensor) -> Tensor:
        return [F.linear(states, weights) for _ in range(at_once)][-1]

    return [timed(products, weights, device)[0] / at_once for _ in range(_TIMES + 1)][1:]


def compare_training(
    terminology: Path,
    *,
    size: str,
    pairs: int,
    steps: int,
    device: torch.device,
    ablations: bool = False,
    cached_pairs: int | None = None,
) -> dict[str, Any]:
    """The whole race → its figures. Raises XsapError if the terminology can't fill the batches."""
    start, names = prepare(terminology, SIZES[size], PIECES), _SIDES[device.type]
    batches, cached = start.batches(pairs, _WARM_UP[device.type] + steps), None
    if cached_pairs:
        start.batches(cached_pairs, 1)  # an error comes now
    memory = {name: peak_memory(start, name, pairs=pairs, device=device) for name in names}
    if cached_pairs:
        cached = {"side": names[-1], "pairs": cached_pairs, "chunk": CHUNK}
        cached |= peak_memory(start, names[-1], pairs=cached_pairs, chunk=CHUNK, device=device)
    sides = {name: build(name, start, device) for name in names}
    result: dict[str, Any] = {
        "size": size,
        "pairs": pairs,
        "steps": steps,
        "agreement": check_agreement(sides, batches[0]),
    }
    result |= _time_sides(sides, batches, batches[-steps:], device)
    for name, side in result["sides"].items():
        side["memory"] = memory[name]
    del sides  # their memory is needed
    return result | {
        "padded_share": 1 - result["tokens_a_name"] / REFERENCE_LENGTH,
        "pieces": len(start.tokenizer),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU {platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "cached": cached,
        "levers": time_ablations(start, batches, device) if ablations else None,
    }


def _time_sides(
    sides: Mapping[str, TrainingImplementation],
    batches: Sequence[Batch],
    measured: Sequence[Batch],
    device: torch.device,
) -> dict[str, Any]:
    """The race, and what follows from its medians and from the device's rate, taken before and after it."""
    tokens, names = (
        mean(len(part) for part in parts) for parts in zip(*((b.tokens.ids, b.tokens) for b in measured), strict=True)
    )
    hidden = next(iter(sides.values())).encoder.dimension
    products = {side.dtype: product_seconds(side.dtype, round(tokens), hidden, device) for side in sides.values()}
    seconds = compare_speed({name: side.step for name, side in sides.items()}, batches, device)
    for dtype, taken in products.items():
        taken += product_seconds(dtype, round(tokens), hidden, device)
    rates = {dtype: 8 * round(tokens) * hidden**2 / median(taken) for dtype, taken in products.items()}
    figures: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        took, counts = median(seconds[name]), [linear_flops(side, batch) for batch in measured]
        flops = {kind: mean(count[i] for count in counts) for i, kind in enumerate(("real_tokens", "all_positions"))}
        figures[name] = {
            "precision": side.dtype,
            "parameters": sum(p.numel() for p in side.encoder.parameters()),
            "seconds": took,
            "all_seconds": seconds[name],
            "times_as_fast": median(next(iter(seconds.values()))) / took,
            "pairs_a_second": names / 2 / took,
            "tokens_a_second": tokens / took,
            "linear_flops": flops,
            "share_of_rate": {kind: count / took / rates[side.dtype] for kind, count in flops.items()},
        }
    return {"tokens_a_name": tokens / names, "product_flops_a_second": rates, "sides": figures}


def time_ablations(start: Start, batches: Sequence[Batch], device: torch.device) -> dict[str, dict[str, Any]]:
    """Our step in full, and with each lever left out, in turns → seconds, and how many times as long as in full."""
    sides = ablation_sides(start, device)
    check_agreement(sides, batches[0])
    seconds = compare_speed({name: side.step for name, side in sides.items()}, batches, device)
    full = median(next(iter(seconds.values())))
    return {
        name: {"seconds": median(s), "all_seconds": s, "times_as_long": median(s) / full} for name, s in seconds.items()
    }


def compare_loss_curves(
    terminology: Path, *, size: str, pairs: int, steps: int, device: torch.device
) -> dict[str, Any]:
    """The losses of both recipes in float32 without dropout, from the same start, on the same batches, each after its own updates."""
    start = prepare(terminology, SIZES[size], PIECES)
    sides = {name: build(name, start, device) for name in ("reference float32", "xsap float32")}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side.encoder.eval()  # no dropout
    for number, batch in enumerate(start.batches(pairs, steps), 1):
        for name, side in sides.items():
            losses[name].append(float(side.step(batch)))
        say(f"step {number}: " + ", ".join(f"{name} {values[-1]:.6f}" for name, values in losses.items()))
    apart = max(abs(ours / theirs - 1) for theirs, ours in zip(*losses.values(), strict=True))
    verdict = {"largest_relative_difference": apart, "bar": CURVE_BAR, "within_bar": apart <= CURVE_BAR}
    return {"size": size, "pairs": pairs, "steps": steps, **verdict, "losses": losses}


def curve_to_text(result: Mapping[str, Any]) -> str:
    """The verdict as a line."""
    theirs, ours = result["losses"].values()
    verdict = f"{'within' if result['within_bar'] else 'NOT within'} the bar of {result['bar']:g}"
    ends = f"from {theirs[0]:.6f} and {ours[0]:.6f} to {theirs[-1]:.6f} and {ours[-1]:.6f}"
    apart = f"at most {result['largest_relative_difference']:.1e} apart, relative"
    return f"losses of {result['steps']} updates, {ends}: {apart}, {verdict}"


def to_text(result: Mapping[str, Any]) -> str:
    """The race as tables for people, under each what makes it comparable."""
    header = [
        "one step",
        "seconds",
        "pairs/s",
        "real tokens/s",
        "times as fast",
        "peak memory, GB",
        "share of rate: real tokens",
        "all positions",
    ]
    rows = [header]
    for name, side in result["sides"].items():
        figures = [f"{side['seconds']:.3f}", f"{side['pairs_a_second']:.1f}", f"{side['tokens_a_second']:,.0f}"]
        figures += [f"{side['times_as_fast']:.2f}", f"{side['memory']['bytes'] / 1e9:.2f}"]
        rows.append([name, *figures, *(f"{100 * share:.0f} %" for share in side["share_of_rate"].values())])
    rates = ", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in result["product_flops_a_second"].items())
    parameters = ", ".join(f"{name} {side['parameters'] / 1e6:.1f} M" for name, side in result["sides"].items())
    losses = ", ".join(f"{found['loss']:.6f}" for found in result["agreement"].values())
    metadata = [
        f"{result['pairs']} pairs a step, medians of {result['steps']} steps in turns; {result['device']}, threads: {result['threads']}, "
        f"torch {result['torch']}; a tokenizer of {result['pieces']:,} pieces, trained on the terminology's names",
        f"parameters in training: {parameters}",
        f"{result['tokens_a_name']:.1f} tokens a name; padded to {REFERENCE_LENGTH}, {100 * result['padded_share']:.0f} % is padding",
        f"same loss without dropout: {losses}",
        "peak memory: of a process of its own that makes two steps, less what it had before it made the model",
        "share of rate: 6 · weights of the linear layers · tokens / seconds / the device's rate, the tokens being real ones, or all positions "
        f"computed, and where the last layer is for [CLS] alone most of its weights counting once a name; the rate is that of products "
        f"(tokens × hidden) · (hidden × 4 hidden) in the same precision, before and after the race: {rates}",
    ]
    if cached := result["cached"]:
        metadata.append(
            f"{cached['side']}, {cached['pairs']:,} pairs a step in chunks of {cached['chunk']} names: {cached['bytes'] / 1e9:.2f} GB "
            f"(the whole process {cached['process_bytes'] / 1e9:.2f}), {cached['seconds'][-1]:.1f} s a step"
        )
    lines = [*markdown(rows), "", *(f"- {fact}" for fact in metadata)]
    if ablations := result["levers"]:
        cells = [[name, f"{side['seconds']:.3f}", f"{side['times_as_long']:.2f}"] for name, side in ablations.items()]
        lines += ["", *markdown([["ours, one lever left out", "seconds", "times as long"], *cells])]
    return "\n".join(lines)


def plot(result: Mapping[str, Any], path: Path) -> None:
    """The race as bars in a PNG file: pairs a second of each side, and what leaving out a lever costs."""
    from matplotlib.figure import Figure

    ablations = result["levers"] or {}
    counts = [len(result["sides"]), *([len(ablations)] if ablations else [])]
    figure = Figure(figsize=(8, 1.4 + 0.42 * sum(counts)), dpi=150, layout="constrained")
    axes = figure.subplots(len(counts), 1, squeeze=False, height_ratios=counts)[:, 0]
    sides = result["sides"]
    _bars(
        axes[0],
        {n: s["pairs_a_second"] for n, s in sides.items()},
        [f"{s['times_as_fast']:.2f} ×" for s in sides.values()],
    )
    axes[0].set_title(
        f"Training: pairs a second ({result['size']}, {result['pairs']} pairs a step, {result['device']})", fontsize=10
    )
    if ablations:
        _bars(
            axes[1],
            {n: s["seconds"] for n, s in ablations.items()},
            [f"{s['times_as_long']:.2f} ×" for s in ablations.values()],
        )
        axes[1].set_title("Seconds of our step, one lever left out", fontsize=10)
    with write_atomically(path, binary=True) as stream:
        figure.savefig(stream, format="png")


def _bars(axes: "Axes", lengths: Mapping[str, float], labels: Sequence[str]) -> None:
    bars = axes.barh(list(lengths), list(lengths.values()), color=[COLORS[i > 0] for i in range(len(lengths))])
    axes.bar_label(bars, labels, padding=4, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
