"""Speed of encoding names: the original's procedure, SentenceTransformer's, and ours, with the same weights.

Weights are random by default, because speed does not depend on them, only on the size. For a pretrained model, all
encode the same texts, its prompt and normalization included, in at most 25 tokens and with its pooling, and
onnxruntime is compared, too, where it is installed.

What 16 or 8 bits cost in accuracy depends on the weights, so it is measured on a trained model, if one is given, and
only a dtype that keeps its accuracy can reach the targets, which are for a CPU. The fraction of the device's own rate
of matrix products, measured before and after, shows how much room is left: for real tokens, and for all positions
computed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch

from benchmarks.speed.ablations import linear_weights
from benchmarks.speed.encode_implementations import (
    ONNX,
    EncodingImplementation,
    check_agreement,
    count_positions,
    open_implementations,
    supported_names,
)
from benchmarks.speed.harness import (
    OURS,
    Machine,
    ProductRates,
    Target,
    bar_plot,
    describe_machine,
    format_figure,
    peak_fraction_note,
    target,
    time_interleaved,
    to_markdown,
)
from benchmarks.speed.onnx_export import missing_packages
from benchmarks.speed.reference import ENCODER_CONFIG, Size, check_architecture, prepare, size_of
from xsap.artifacts import manifest_hash, read_manifest, sha256_of
from xsap.encoding.encoder import Dtype, Encoder
from xsap.encoding.model_folder import REFERENCE_LENGTH, EncoderConfig
from xsap.encoding.packing import tokenize_names
from xsap.errors import ConfigError
from xsap.evaluation.protocols import concept_ranks, read_queries
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.plots import save
from xsap.search.vectors import Floats
from xsap.terminal import log
from xsap.terms.terminology import Terminology
from xsap.text import normalize_all

PRODUCT_ROWS = 8192  # as many as tokens in a batch of ours in 16 bits and more
VOCABULARY_SIZE = 16_000
NAMES = {"cpu": 1024, "cuda": 65_536}
WARM_UP_ROUNDS = {"cpu": 0, "cuda": 1}  # on CUDA kernels are chosen
NAMES_CHECKED, SEED = 64, 0

TARGET_SIZE = "base"  # the size at which targets hold, on a CPU
TARGET_SPEEDUPS = {"reference float32": 8.0, "SentenceTransformer float32": 2.0}
MAX_ACCURACY_DIFFERENCE, MIN_AGREEMENT = 0.3, 99.0  # points of Acc@1; percent of mentions with the same first concept


@dataclass(frozen=True, slots=True)
class EncodingFigures:
    """One implementation. linear_flops, peak_fraction: for real tokens, and for all positions computed."""

    dtype: str
    all_seconds: list[float]
    names_per_second: float
    speedups: dict[str, float]
    positions: int
    linear_flops: tuple[int, int]
    peak_fraction: tuple[float, float]


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """The model to measure. prepare: names → the texts that all implementations encode."""

    encoder: Encoder
    size: Size
    content_hash: str | None
    prepare: Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True, slots=True)
class DtypeAccuracy:
    """Percent: Acc@1, and mentions with the same first concept as in float32."""

    accuracy: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Result of `measure_accuracy`; model, terminology and mentions are hashes."""

    n: int
    model: str | None
    terminology: str
    mentions: str
    dtypes: dict[str, DtypeAccuracy]


@dataclass(frozen=True, slots=True)
class EncodingComparison:
    """Result of `compare_encoding`. model: its name and size. model_hash: of a pretrained model. remarks: what was left out."""

    size: str
    model: str
    model_hash: str | None
    names: int
    rounds: int
    seed: int
    tokens_per_name: float
    agreement: dict[str, float]
    product_flops_per_second: dict[str, float]
    implementations: dict[str, EncodingFigures]
    accuracy: Accuracy | None
    targets: list[Target]
    remarks: list[str]
    machine: Machine

    @property
    def has_targets(self) -> bool:
        """Whether it is of the size that targets are for, with random weights."""
        return self.model_hash is None and self.size == TARGET_SIZE

    def with_accuracy(self, accuracy: Accuracy, *, on_cpu: bool) -> "EncodingComparison":
        """The same with a trained model's accuracy, and with targets if they hold for this size and device."""
        judged = on_cpu and self.has_targets
        return replace(
            self, accuracy=accuracy, targets=targets_of(self.implementations, accuracy.dtypes) if judged else []
        )


def compare_encoding(
    terminology: Path,
    *,
    size: Size,
    names: int | None,
    rounds: int,
    device: torch.device,
    model: str | None = None,
    implementations: Sequence[str] | None = None,
) -> EncodingComparison:
    """Compare the speed of encoding names.

    Args:
        terminology: Terminology folder, whose names are drawn from.
        size: Size of a model with random weights.
        names: Number of names; None for as many as the device needs.
        rounds: How often each implementation encodes all names.
        device: Device of the models.
        model: Pretrained model to measure instead, a folder or hub id; on a CPU it is compared with onnxruntime, too.
        implementations: Names of implementations; None for those of the device.

    Returns:
        All figures, without accuracy and targets.

    Raises:
        AssertionError: The implementations do not compute the same.
        ArtifactError: `model` cannot be opened.
        ConfigError: `model` is of another architecture or pooling.
    """
    texts = [str(name) for name in Terminology.load(terminology).names["name"].to_pylist()]
    order = np.random.default_rng(SEED).permutation(len(texts))[: names or NAMES[device.type]]
    measured = _pretrained(model) if model else _random_weights(terminology, size)
    chosen = measured.prepare([texts[i] for i in order])
    missing = missing_packages() if model and device.type == "cpu" else []
    wanted = implementations or supported_names(device.type, with_onnx=bool(model) and not missing)
    with TemporaryDirectory(prefix="xsap-encode-") as work:
        folder = Path(work) / "model"
        measured.encoder.save_pretrained(folder)
        exact = Encoder.from_pretrained(folder, device=device)
        built = open_implementations(exact, folder, device, wanted)
    agreement = check_agreement(built, chosen[:NAMES_CHECKED])
    tokens = int(tokenize_names(chosen, exact.tokenizer, exact.max_length).lengths.sum())
    figures, rates = _time_implementations(exact, built, chosen, tokens, rounds, device)
    without = f"without onnxruntime, because not installed: {', '.join(missing)}; pip install {' '.join(missing)}"
    return EncodingComparison(
        size=measured.size.name,
        model=str(measured.size),
        model_hash=measured.content_hash,
        names=len(chosen),
        rounds=rounds,
        seed=SEED,
        tokens_per_name=tokens / len(chosen),
        agreement=agreement,
        product_flops_per_second=rates,
        implementations=figures,
        accuracy=None,
        targets=[],
        remarks=[without] if missing else [],
        machine=describe_machine(device, ("transformers", "sentence-transformers")),
    )


def _random_weights(terminology: Path, size: Size) -> MeasuredModel:
    encoder = prepare(terminology, size, VOCABULARY_SIZE).encoder()
    return MeasuredModel(encoder, size, None, list)


def _pretrained(model: str) -> MeasuredModel:
    """A pretrained model; names get its normalization and prompt before the clock starts, so that all encode the same texts."""
    opened = Encoder.from_pretrained(model, device="cpu")
    size = size_of(opened, model)
    check_architecture(size)
    if opened.dense is not None or opened.pooling not in ("cls", "mean"):
        found = "Dense layers after pooling" if opened.dense is not None else f"pooling {opened.pooling}"
        raise ConfigError(f"{model}: expected a transformer with pooling cls or mean alone, found {found}")
    config = EncoderConfig(opened.pooling, REFERENCE_LENGTH, ENCODER_CONFIG.policy)

    def prepare_names(names: Sequence[str]) -> list[str]:
        return [opened.prompts[0] + name for name in normalize_all(names, opened.policy)]

    return MeasuredModel(
        Encoder(opened.transformer, opened.tokenizer, config), size, opened.content_hash, prepare_names
    )


def _baselines(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith(OURS)]


def linear_flops(implementation: EncodingImplementation, encoder: Encoder, names: int, positions: int) -> int:
    """Operations of the linear layers, 2 · weights for each position, counted as by `ablations.linear_flops`.

    Args:
        implementation: What encodes.
        encoder: The encoder in float32, because others may keep their weights elsewhere.
        names: Number of names.
        positions: Number of positions.

    Returns:
        The number of operations.
    """
    per_token, per_name = linear_weights(encoder, first_only=implementation.first_only)
    return 2 * (per_token * positions + per_name * names)


def _time_implementations(
    exact: Encoder,
    implementations: Mapping[str, EncodingImplementation],
    names: Sequence[str],
    tokens: int,
    rounds: int,
    device: torch.device,
) -> tuple[dict[str, EncodingFigures], dict[str, float]]:
    """Figures of each implementation, and the device's rate of products by dtype."""
    positions: dict[str, int] = {}

    def counting(name: str) -> Callable[[Sequence[str]], Floats]:
        def encode(texts: Sequence[str]) -> Floats:
            with count_positions(implementations[name]) as counts:
                vectors = implementations[name].encode(texts)
            positions[name] = sum(counts)
            return vectors

        return encode

    products = ProductRates(
        dict.fromkeys(each.dtype for each in implementations.values()), PRODUCT_ROWS, exact.dimension, device
    )
    warm_up = WARM_UP_ROUNDS[device.type]
    seconds = time_interleaved(
        {name: counting(name) for name in implementations},
        [names] * (warm_up + rounds),
        device,
        warm_up=warm_up,
        report=lambda took, vectors: f"{len(vectors) / took:.1f} names/s",
    )
    products.measure()
    rates = products.flops_per_second()
    figures = {}
    for name, each in implementations.items():
        took, n = median(seconds[name]), len(names)
        flops = (linear_flops(each, exact, n, tokens), linear_flops(each, exact, n, positions[name]))
        figures[name] = EncodingFigures(
            dtype=each.dtype,
            all_seconds=seconds[name],
            names_per_second=n / took,
            speedups={baseline: median(seconds[baseline]) / took for baseline in _baselines(implementations)},
            positions=positions[name],
            linear_flops=flops,
            peak_fraction=(flops[0] / took / rates[each.dtype], flops[1] / took / rates[each.dtype]),
        )
    return figures, rates


def measure_accuracy(
    model: str, terminology: Path, mentions: Path, dtypes: Iterable[str], device: torch.device
) -> Accuracy:
    """Acc@1 of a trained model in float32 and in other dtypes, of names and mentions alike.

    Args:
        model: Model folder or hub id.
        terminology: Terminology folder to link into.
        mentions: File of mentions with concepts of the terminology.
        dtypes: Dtypes beside float32.
        device: Device of the model.

    Returns:
        Accuracy by dtype, float32 first.
    """
    queries, names, found = read_queries(mentions), Terminology.load(terminology), dict[str, DtypeAccuracy]()
    for dtype in dict.fromkeys(["float32", *dtypes]):
        encoder = Encoder.from_pretrained(model, device=device, dtype=cast(Dtype, dtype))
        ranks, results = concept_ranks(Linker(encoder, Index.build(names, encoder, languages={"en"})), queries, 2)
        first = [result.candidates[0].concept_id if result.candidates else None for result in results]
        if not found:
            expected = first
        same = np.mean([one == other for one, other in zip(first, expected, strict=True)])
        found[dtype] = DtypeAccuracy(100 * float((np.array(ranks) == 0).mean()), 100 * float(same))
        log(f"{dtype}: Acc@1 {found[dtype].accuracy:.2f}")
    return Accuracy(
        n=queries.num_rows,
        model=encoder.content_hash,
        terminology=manifest_hash(read_manifest(terminology, "terminology")),
        mentions=sha256_of(mentions),
        dtypes=found,
    )


def targets_of(implementations: Mapping[str, EncodingFigures], dtypes: Mapping[str, DtypeAccuracy]) -> list[Target]:
    """Targets: for each dtype its accuracy, and for the fastest dtype that keeps its accuracy the speed-up."""
    targets, kept = [], []
    for dtype, each in dtypes.items():
        difference = round(abs(each.accuracy - dtypes["float32"].accuracy), 6)  # without float noise
        own = [
            target(f"{dtype}: Acc@1 distance from float32, points", difference, MAX_ACCURACY_DIFFERENCE, at_most=True),
            target(f"{dtype}: same first concept as float32, %", each.agreement, MIN_AGREEMENT),
        ]
        targets += [] if dtype == "float32" else own
        kept += [dtype] if all(each.met for each in own) else []
    accurate = {name: each for name, each in implementations.items() if name.startswith(OURS) and each.dtype in kept}
    fastest = max(accurate, key=lambda name: accurate[name].names_per_second)
    speedups = accurate[fastest].speedups
    fast = [
        target(f"{fastest}: speed-up over {name}", speedups[name], limit) for name, limit in TARGET_SPEEDUPS.items()
    ]
    return [*fast, *targets]


def to_text(result: EncodingComparison) -> str:
    """A table for people, with what makes it comparable under it."""
    baselines = _baselines(result.implementations)
    rows = [["encoding", "names/s", *(f"speed-up over {baseline}" for baseline in baselines)]]
    rows[0] += ["fraction of peak rate: real tokens", "all positions"]
    for name, each in result.implementations.items():
        cells = [f"{each.names_per_second:,.1f}", *(f"{each.speedups[baseline]:.1f}" for baseline in baselines)]
        # torch's rate of int8 products says nothing about those of onnxruntime
        fractions = ["–", "–"] if name == ONNX[1] else [f"{100 * fraction:.0f} %" for fraction in each.peak_fraction]
        rows.append([name, *cells, *fractions])
    notes = [
        f"{result.model}, {result.names:,} names of {result.tokens_per_name:.1f} tokens, drawn with seed {result.seed}; medians of "
        f"{result.rounds} interleaved rounds; {result.machine}",
        *result.remarks,
        peak_fraction_note(2, f"{PRODUCT_ROWS:,}", result.product_flops_per_second),
    ]
    if result.model_hash:
        apart = ", ".join(f"{name} {format_figure(distance)}" for name, distance in result.agreement.items())
        notes.append(
            f"largest distance of a name's vector from the first one's, in mean distances from their mean: {apart}"
        )
    if result.accuracy:
        found = ", ".join(
            f"{dtype} {each.accuracy:.2f} ({each.agreement:.2f})" for dtype, each in result.accuracy.dtypes.items()
        )
        notes.append(f"Acc@1 on {result.accuracy.n:,} mentions (and same first concept as float32), %: {found}")
    elif result.has_targets:
        notes.append(
            "no targets: they need --size base with --model and --mentions, to see which dtype keeps its accuracy"
        )
    return to_markdown(rows, [*notes, *result.targets])


def plot(result: EncodingComparison, path: Path) -> None:
    """A bar chart of names per second as a PNG or SVG file, with the speed-up over each of TARGET_SPEEDUPS."""
    title = f"Names encoded per second, {result.model}, {result.machine.device}"
    rates = {name: each.names_per_second for name, each in result.implementations.items()}
    labels = [
        f"{format_figure(each.names_per_second)} ({', '.join(f'{each.speedups[baseline]:.1f} ×' for baseline in TARGET_SPEEDUPS)})"
        for each in result.implementations.values()
    ]
    save(bar_plot(f"{title}\n(speed-up over {' and '.join(TARGET_SPEEDUPS)})", rates, labels), path)
