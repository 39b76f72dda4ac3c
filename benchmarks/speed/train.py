"""Speed and memory of a training step: the original SapBERT recipe against ours, and what each optimization adds.

The comparison is strict. All implementations train the same model from the same weights, interleaved, on the same
pairs, with the same dropout; the reference's padding is done before its clock starts, our packing is not; and before
anything is timed all must give the same loss and the same cosines. Memory is measured in a separate process for each.
On CUDA a clock stops only when the device is idle, and memory is the maximum that torch allocated there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.ablations import COMPLETE, StepMemory, build, build_ablations, linear_flops, peak_memory
from benchmarks.speed.harness import (
    Machine,
    ProductRates,
    Target,
    bar_plot,
    describe_machine,
    peak_fraction_note,
    target,
    time_interleaved,
    to_markdown,
)
from benchmarks.speed.reference import (
    Batch,
    Size,
    Start,
    TrainingImplementation,
    check_architecture,
    prepare,
    prepare_from,
)
from xsap.encoding.model_folder import REFERENCE_LENGTH
from xsap.page import markdown
from xsap.plots import save
from xsap.terminal import log

VOCABULARY_SIZE = 16_000
FLOAT32_TOLERANCE, TOLERANCE = 1e-4, 5e-2  # of losses and cosines: if both dtypes are float32, otherwise
CURVE_TOLERANCE = 1e-3
CACHED_CHUNK = 512  # names
IMPLEMENTATIONS = {
    "cpu": ("reference float32", "xsap float32", "xsap bfloat16"),
    "cuda": ("reference float16", "xsap bfloat16"),
}
WARM_UP_STEPS = {"cpu": 1, "cuda": 5}  # on CUDA kernels are chosen, and the scaler skips updates


@dataclass(frozen=True, slots=True)
class Agreement:
    """Loss without dropout; relative difference from the first loss; maximum difference from the first cosines."""

    loss: float
    loss_difference: float
    cosine_difference: float


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One implementation's step. linear_flops, peak_fraction: for real tokens, and for all positions computed."""

    dtype: str
    parameters: int
    seconds: float
    all_seconds: list[float]
    speedup: float
    pairs_per_second: float
    tokens_per_second: float
    linear_flops: tuple[float, float]
    peak_fraction: tuple[float, float]
    memory: StepMemory


@dataclass(frozen=True, slots=True)
class CachedStep:
    """A larger step with cached gradients."""

    implementation: str
    pairs: int
    chunk: int
    memory: StepMemory


@dataclass(frozen=True, slots=True)
class AblationFigures:
    """Our step without an optimization. slowdown: its time, divided by that of the complete step."""

    seconds: float
    all_seconds: list[float]
    slowdown: float


@dataclass(frozen=True, slots=True)
class TrainingComparison:
    """Result of `compare_training`. model: its name and size. model_hash: of a pretrained model."""

    size: str
    model: str
    model_hash: str | None
    pairs: int
    steps: int
    vocabulary_size: int
    tokens_per_name: float
    padding: float
    product_flops_per_second: dict[str, float]
    agreement: dict[str, Agreement]
    implementations: dict[str, StepFigures]
    cached: CachedStep | None
    ablations: dict[str, AblationFigures] | None
    machine: Machine


@dataclass(frozen=True, slots=True)
class LossCurves:
    """Result of `compare_loss_curves`. losses: implementation → one for each step."""

    size: str
    pairs: int
    steps: int
    target: Target
    losses: dict[str, list[float]]


def check_agreement(implementations: Mapping[str, TrainingImplementation], batch: Batch) -> dict[str, Agreement]:
    """Each one's loss and cosines without dropout, compared with the first one's. An AssertionError if too different.

    Cosines are those of vectors less their mean: an untrained model's vectors are nearly equal, so plain cosines would
    be, too.
    """
    found: dict[str, Agreement] = {}
    first = next(iter(implementations.values()))
    for name, implementation in implementations.items():
        implementation.encoder.eval()
        vectors, tensor = implementation.forward(batch)
        implementation.encoder.train()
        units = F.normalize(vectors.detach().float(), dim=-1)
        centered = F.normalize(units - units.mean(0), dim=-1)
        loss, cosines = float(tensor.detach()), centered @ centered.T
        if not found:
            expected_loss, expected = loss, cosines
        each = Agreement(loss, abs(loss / expected_loss - 1), float((cosines - expected).abs().max()))
        tolerance = FLOAT32_TOLERANCE if first.dtype == implementation.dtype == "float32" else TOLERANCE
        assert max(each.loss_difference, each.cosine_difference) <= tolerance, (
            f"{name} does not compute the same: expected loss {expected_loss}, found {each}"
        )
        found[name] = each
    return found


def compare_training(
    terminology: Path,
    *,
    size: Size,
    pairs: int,
    steps: int,
    device: torch.device,
    base: str | None = None,
    ablations: bool = False,
    cached_pairs: int | None = None,
) -> TrainingComparison:
    """Compare our training step with the reference's.

    Args:
        terminology: Terminology folder; its names are trained on.
        size: Size of a model with random weights.
        pairs: Pairs per step.
        steps: Steps measured, after the warm-up.
        device: Device of the models.
        base: Pretrained model to train instead, a folder or hub id, with its tokenizer.
        ablations: Whether to time our step without each optimization, too.
        cached_pairs: Pairs of a larger step with cached gradients, to be measured as well.

    Returns:
        All figures.

    Raises:
        ConfigError: The terminology cannot fill the batches, or the base is of another architecture.
        ArtifactError: `base` cannot be opened.
    """
    start = prepare_from(terminology, base) if base else prepare(terminology, size, VOCABULARY_SIZE)
    check_architecture(start.size)
    names = IMPLEMENTATIONS[device.type]
    batches, cached = start.batches(pairs, WARM_UP_STEPS[device.type] + steps), None
    if cached_pairs:
        start.batches(cached_pairs, 1)  # so that too few names are an error now
    memory = {name: peak_memory(start, name, pairs=pairs, device=device) for name in names}
    if cached_pairs:
        large = peak_memory(start, names[-1], pairs=cached_pairs, chunk=CACHED_CHUNK, device=device)
        cached = CachedStep(names[-1], cached_pairs, CACHED_CHUNK, large)
    implementations = {name: build(name, start, device) for name in names}
    agreement = check_agreement(implementations, batches[0])
    figures, rates, tokens_per_name = _time_steps(implementations, memory, batches, steps, device)
    model_hash = implementations[names[0]].encoder.content_hash
    del implementations  # to free their memory
    return TrainingComparison(
        size=start.size.name,
        model=str(start.size),
        model_hash=model_hash,
        pairs=pairs,
        steps=steps,
        vocabulary_size=len(start.tokenizer),
        tokens_per_name=tokens_per_name,
        padding=1 - tokens_per_name / REFERENCE_LENGTH,
        product_flops_per_second=rates,
        agreement=agreement,
        implementations=figures,
        cached=cached,
        ablations=time_ablations(start, batches, device) if ablations else None,
        machine=describe_machine(device, ("transformers",)),
    )


def _time_steps(
    implementations: Mapping[str, TrainingImplementation],
    memory: Mapping[str, StepMemory],
    batches: Sequence[Batch],
    steps: int,
    device: torch.device,
) -> tuple[dict[str, StepFigures], dict[str, float], float]:
    """Figures of each implementation, the device's rate of products by dtype, and tokens per name."""
    measured = batches[-steps:]
    tokens, names = mean(len(b.tokens.ids) for b in measured), mean(len(b.tokens) for b in measured)
    hidden = next(iter(implementations.values())).encoder.dimension
    products = ProductRates({each.dtype: None for each in implementations.values()}, round(tokens), hidden, device)
    seconds = _time(implementations, batches, device)
    products.measure()
    rates = products.flops_per_second()
    reference = median(next(iter(seconds.values())))
    figures = {}
    for name, each in implementations.items():
        took, counts = median(seconds[name]), [linear_flops(each, batch) for batch in measured]
        flops = (mean(real for real, _ in counts), mean(computed for _, computed in counts))
        figures[name] = StepFigures(
            dtype=each.dtype,
            parameters=sum(p.numel() for p in each.encoder.parameters()),
            seconds=took,
            all_seconds=seconds[name],
            speedup=reference / took,
            pairs_per_second=names / 2 / took,
            tokens_per_second=tokens / took,
            linear_flops=flops,
            peak_fraction=(flops[0] / took / rates[each.dtype], flops[1] / took / rates[each.dtype]),
            memory=memory[name],
        )
    return figures, rates, tokens / names


def _time(
    implementations: Mapping[str, TrainingImplementation], batches: Sequence[Batch], device: torch.device
) -> dict[str, list[float]]:
    def report(seconds: float, loss: Tensor) -> str:
        return f"{seconds:.3f} s, loss {float(loss):.4f}"

    steps = {name: each.step for name, each in implementations.items()}
    return time_interleaved(steps, batches, device, warm_up=WARM_UP_STEPS[device.type], report=report)


def time_ablations(start: Start, batches: Sequence[Batch], device: torch.device) -> dict[str, AblationFigures]:
    """Our complete step, and without each optimization, interleaved; the first batches are a warm-up."""
    implementations = build_ablations(start, device)
    check_agreement(implementations, batches[0])
    seconds = _time(implementations, batches, device)
    complete = median(seconds[COMPLETE])
    return {name: AblationFigures(median(all_), all_, median(all_) / complete) for name, all_ in seconds.items()}


def compare_loss_curves(terminology: Path, *, size: Size, pairs: int, steps: int, device: torch.device) -> LossCurves:
    """Losses of both recipes in float32 without dropout, from the same start, on the same batches.

    Args:
        terminology: Terminology folder; its names are trained on.
        size: Size of the model.
        pairs: Pairs per step.
        steps: Number of updates.
        device: Device of the models.

    Returns:
        The losses, and the target for their maximum relative difference.
    """
    start = prepare(terminology, size, VOCABULARY_SIZE)
    implementations = {name: build(name, start, device) for name in ("reference float32", "xsap float32")}
    losses: dict[str, list[float]] = {name: [] for name in implementations}
    for each in implementations.values():
        each.encoder.eval()  # no dropout
    for number, batch in enumerate(start.batches(pairs, steps), 1):
        for name, each in implementations.items():
            losses[name].append(float(each.step(batch)))
        log(f"step {number}: " + ", ".join(f"{name} {values[-1]:.6f}" for name, values in losses.items()))
    return LossCurves(size.name, pairs, steps, curve_target(losses), losses)


def curve_target(losses: Mapping[str, Sequence[float]]) -> Target:
    """The target for two loss curves: name → losses, the reference's first."""
    difference = max(abs(ours / theirs - 1) for theirs, ours in zip(*losses.values(), strict=True))
    return target("maximum relative difference of losses", difference, CURVE_TOLERANCE, at_most=True)


def curves_to_text(curves: LossCurves) -> str:
    """The ends of the curves, and whether the target is met."""
    ends = "; ".join(f"{name} from {losses[0]:.6f} to {losses[-1]:.6f}" for name, losses in curves.losses.items())
    return to_markdown([], [f"losses of {curves.steps} updates: {ends}", curves.target])


def to_text(result: TrainingComparison) -> str:
    """Tables for people, with what makes them comparable under them."""
    rows = [["one step", "seconds", "pairs/s", "real tokens/s", "speed-up", "peak memory, GB"]]
    rows[0] += ["fraction of peak rate: real tokens", "all positions"]
    for name, each in result.implementations.items():
        cells = [f"{each.seconds:.3f}", f"{each.pairs_per_second:.1f}", f"{each.tokens_per_second:,.0f}"]
        cells += [f"{each.speedup:.2f}", f"{each.memory.bytes / 1e9:.2f}"]
        rows.append([name, *cells, *(f"{100 * fraction:.0f} %" for fraction in each.peak_fraction)])
    parameters = ", ".join(f"{name} {each.parameters / 1e6:.1f} M" for name, each in result.implementations.items())
    losses = ", ".join(f"{each.loss:.6f}" for each in result.agreement.values())
    origin = "its own" if result.model_hash else "trained on the terminology's names"
    tokenizer = f"a tokenizer of {result.vocabulary_size:,} pieces, {origin}"
    notes = [
        f"{result.model}, {result.pairs} pairs per step, medians of {result.steps} interleaved steps; {result.machine}; {tokenizer}",
        f"parameters in training: {parameters}",
        f"{result.tokens_per_name:.1f} tokens per name; padded to {REFERENCE_LENGTH}, {100 * result.padding:.0f} % is padding",
        f"same loss without dropout: {losses}",
        "peak memory: of a separate process that makes two steps, less what it had before it created the model",
        peak_fraction_note(6, "tokens", result.product_flops_per_second),
    ]
    if cached := result.cached:
        memory = cached.memory
        notes.append(
            f"{cached.implementation}, {cached.pairs:,} pairs per step in chunks of {cached.chunk} names: {memory.bytes / 1e9:.2f} GB "
            f"(the whole process {memory.process_bytes / 1e9:.2f}), {memory.seconds[-1]:.1f} s per step"
        )
    text = to_markdown(rows, notes)
    if result.ablations:
        header = ["ours, one optimization left out", "seconds", "slowdown"]
        slower = [[name, f"{each.seconds:.3f}", f"{each.slowdown:.2f}"] for name, each in result.ablations.items()]
        text += "\n" + "\n".join(["", *markdown([header, *slower])])
    return text


def plot(result: TrainingComparison, path: Path) -> None:
    """Bar charts as a PNG or SVG file: pairs per second, and what leaving out an optimization costs."""
    plots = [
        bar_plot(
            f"Training: pairs per second ({result.model}, {result.pairs} pairs per step, {result.machine.device})",
            {name: each.pairs_per_second for name, each in result.implementations.items()},
            [f"{each.speedup:.2f} ×" for each in result.implementations.values()],
        )
    ]
    if result.ablations:
        plots.append(
            bar_plot(
                "Seconds of our step, one optimization left out",
                {name: each.seconds for name, each in result.ablations.items()},
                [f"{each.slowdown:.2f} ×" for each in result.ablations.values()],
            )
        )
    save(plots, path)
