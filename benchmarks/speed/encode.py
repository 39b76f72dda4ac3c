"""Speed of encoding names: the original's procedure, SentenceTransformer's, and ours, with the same weights.

The original pads every name to 25 tokens and takes [CLS] (https://github.com/cambridgeltl/sapbert, README and
src/model_wrapper.py), on CUDA in batches of 2,048. SentenceTransformer sorts names by length and pads each batch of 32,
its default, to its longest; in float16 it gets batches of 2,048, too, because small ones keep a GPU waiting. Ours packs
names without padding.

Weights are random, because speed does not depend on them. What 16 or 8 bits cost in accuracy does, so it is measured on
a trained model, if one is given, and only a dtype that keeps its accuracy can reach the targets, which are for a CPU.
The fraction of the device's own rate of matrix products, measured before and after, shows how much room is left: for
real tokens, and for all positions computed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from torch import nn

from benchmarks.speed.ablations import linear_weights
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
from benchmarks.speed.reference import Size, autocast, pad, prepare
from xsap.artifacts import manifest_hash, read_manifest, sha256_of
from xsap.encoding.encoder import Dtype, Encoder
from xsap.encoding.int8 import int8_is_faster
from xsap.encoding.model_folder import quiet
from xsap.encoding.packing import tokenize_names
from xsap.evaluation.protocols import concept_ranks, read_queries
from xsap.linking.index import Index
from xsap.linking.linker import Linker
from xsap.plots import save
from xsap.search.vectors import Floats
from xsap.terminal import log
from xsap.terms.terminology import Terminology

IMPLEMENTATIONS = {
    "cpu": ("reference float32", "SentenceTransformer float32", "xsap float32", "xsap bfloat16", "xsap int8"),
    "cuda": (
        "reference float32",
        "reference float16",
        "SentenceTransformer float32",
        "SentenceTransformer float16",
        "xsap float32",
        "xsap bfloat16",
    ),
}
REFERENCE_BATCH = {"cpu": 256, "cuda": 2048}  # names; more is no faster on a CPU
SENTENCE_TRANSFORMER_BATCH = {"float32": 32, "float16": 2048}
PRODUCT_ROWS = 8192  # as many as tokens in a batch of ours in 16 bits and more
VOCABULARY_SIZE = 16_000
NAMES = {"cpu": 1024, "cuda": 65_536}
WARM_UP_ROUNDS = {"cpu": 0, "cuda": 1}  # on CUDA kernels are chosen
NAMES_CHECKED, SEED = 64, 0

TARGET_SIZE = "base"  # the size at which targets hold, on a CPU
TARGET_SPEEDUPS = {"reference float32": 8.0, "SentenceTransformer float32": 2.0}
MAX_ACCURACY_DIFFERENCE, MIN_AGREEMENT = 0.3, 99.0  # points of Acc@1; percent of mentions with the same first concept
FLOAT32_TOLERANCE, TOLERANCE = 1e-3, 0.5  # of `check_agreement`: for float32, otherwise


@dataclass(frozen=True, slots=True)
class EncodingImplementation:
    """One way to encode. encode: n names → (n, hidden) vectors of any length. model: embeds every position computed.

    first_only: whether the last layer is computed for [CLS] alone.
    """

    encode: Callable[[Sequence[str]], Floats]
    model: nn.Module
    dtype: str
    first_only: bool


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
    """Result of `compare_encoding`."""

    size: str
    names: int
    rounds: int
    seed: int
    tokens_per_name: float
    agreement: dict[str, float]
    product_flops_per_second: dict[str, float]
    implementations: dict[str, EncodingFigures]
    accuracy: Accuracy | None
    targets: list[Target]
    machine: Machine

    def with_accuracy(self, accuracy: Accuracy, *, on_cpu: bool) -> "EncodingComparison":
        """The same with a trained model's accuracy, and with targets if they hold for this size and device."""
        judged = on_cpu and self.size == TARGET_SIZE
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
    implementations: Sequence[str] | None = None,
) -> EncodingComparison:
    """Compare the speed of encoding names.

    Args:
        terminology: Terminology folder, whose names are drawn from.
        size: Size of the model.
        names: Number of names; None for as many as the device needs.
        rounds: How often each implementation encodes all names.
        device: Device of the models.
        implementations: Names of implementations; None for those of the device.

    Returns:
        All figures, without accuracy and targets.

    Raises:
        AssertionError: The implementations do not compute the same.
    """
    start = prepare(terminology, size, VOCABULARY_SIZE)
    texts = [str(name) for name in Terminology.load(terminology).names["name"].to_pylist()]
    order = np.random.default_rng(SEED).permutation(len(texts))[: names or NAMES[device.type]]
    chosen = [texts[i] for i in order]
    with TemporaryDirectory(prefix="xsap-encode-") as work:
        folder = Path(work) / "model"
        start.encoder().save_pretrained(folder)
        exact = Encoder.from_pretrained(folder, device=device)
        built = open_implementations(exact, folder, device, implementations or supported_names(device.type))
    agreement = check_agreement(built, chosen[:NAMES_CHECKED])
    tokens = int(tokenize_names(chosen, exact.tokenizer, exact.max_length).lengths.sum())
    figures, rates = _time_implementations(exact, built, chosen, tokens, rounds, device)
    return EncodingComparison(
        size=size.name,
        names=len(chosen),
        rounds=rounds,
        seed=SEED,
        tokens_per_name=tokens / len(chosen),
        agreement=agreement,
        product_flops_per_second=rates,
        implementations=figures,
        accuracy=None,
        targets=[],
        machine=describe_machine(device, ("transformers", "sentence-transformers")),
    )


def _baselines(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith(OURS)]


def supported_names(device_type: str, *, with_int8: bool | None = None) -> list[str]:
    """The implementations that this machine can run well; with_int8: None to find out."""
    with_int8 = int8_is_faster() if with_int8 is None else with_int8
    return [name for name in IMPLEMENTATIONS[device_type] if with_int8 or not name.endswith("int8")]


def open_implementations(
    exact: Encoder, folder: Path, device: torch.device, names: Iterable[str]
) -> dict[str, EncodingImplementation]:
    """Implementations with the weights of a model folder.

    Args:
        exact: The folder's encoder in float32.
        folder: Model folder.
        device: Device of the models.
        names: Kind and dtype of each, such as "xsap bfloat16".

    Returns:
        Name → implementation.
    """
    opened = {}
    for name in names:
        kind, dtype = name.split()
        if kind == "reference":
            opened[name] = _open_reference(exact, dtype)
        elif kind == "SentenceTransformer":
            opened[name] = _open_sentence_transformer(folder, device, dtype)
        else:
            encoder = exact
            if dtype != "float32":
                encoder = Encoder.from_pretrained(folder, device=device, dtype=cast(Dtype, dtype))
            opened[name] = EncodingImplementation(encoder.encode, encoder, dtype, first_only=True)
    return opened


def _open_reference(encoder: Encoder, dtype: str) -> EncodingImplementation:
    device = next(encoder.parameters()).device
    batch, pad_id = REFERENCE_BATCH[device.type], int(encoder.tokenizer.pad_token_id)

    def encode(names: Sequence[str]) -> Floats:
        parts = []
        with torch.inference_mode(), autocast(device, dtype):
            for start in range(0, len(names), batch):
                tokens = tokenize_names(list(names[start : start + batch]), encoder.tokenizer, encoder.max_length)
                ids, mask = (part.to(device) for part in pad(tokens, pad_id))
                states = encoder.transformer(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
                parts.append(states.float().cpu().numpy())
        return np.concatenate(parts)

    return EncodingImplementation(encode, encoder, dtype, first_only=False)


def _open_sentence_transformer(folder: Path, device: torch.device, dtype: str) -> EncodingImplementation:
    from sentence_transformers import SentenceTransformer

    with quiet():
        model = SentenceTransformer(str(folder), device=str(device))
    if dtype == "float16":
        model.half()

    def encode(names: Sequence[str]) -> Floats:
        batch = SENTENCE_TRANSFORMER_BATCH[dtype]
        return np.asarray(model.encode(list(names), batch_size=batch, show_progress_bar=False), np.float32)

    return EncodingImplementation(encode, model, dtype, first_only=False)


def check_agreement(implementations: Mapping[str, EncodingImplementation], names: Sequence[str]) -> dict[str, float]:
    """Largest distance of unit vectors from the first one's, in units of these vectors' mean distance from their mean.

    An AssertionError if it is too large. The unit matters: vectors of an untrained model are nearly equal for all
    names.
    """
    vectors = {name: each.encode(names) for name, each in implementations.items()}
    units = {name: each / np.linalg.norm(each, axis=1, keepdims=True) for name, each in vectors.items()}
    first = next(iter(units.values()))
    spread = float(np.linalg.norm(first - first.mean(0), axis=1).mean())
    distances = {name: float(np.linalg.norm(each - first, axis=1).max()) / spread for name, each in units.items()}
    for name, distance in distances.items():
        tolerance = FLOAT32_TOLERANCE if implementations[name].dtype == "float32" else TOLERANCE
        assert distance <= tolerance, f"{name} does not compute the same: {distances}"
    return distances


@contextmanager
def count_positions(implementation: EncodingImplementation) -> Iterator[list[int]]:
    """Within it, a list grows by the positions of each batch that the implementation computes, padding included."""
    table = next(part for name, part in implementation.model.named_modules() if name.endswith("word_embeddings"))
    counts: list[int] = []
    hook = table.register_forward_pre_hook(lambda _, arguments: counts.append(arguments[0].numel()))
    try:
        yield counts
    finally:
        hook.remove()


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
        rows.append([name, *cells, *(f"{100 * fraction:.0f} %" for fraction in each.peak_fraction)])
    notes = [
        f"XLM-R {result.size}, {result.names:,} names of {result.tokens_per_name:.1f} tokens, drawn with seed {result.seed}; medians of "
        f"{result.rounds} interleaved rounds; {result.machine}",
        peak_fraction_note(2, f"{PRODUCT_ROWS:,}", result.product_flops_per_second),
    ]
    if result.accuracy:
        found = ", ".join(
            f"{dtype} {each.accuracy:.2f} ({each.agreement:.2f})" for dtype, each in result.accuracy.dtypes.items()
        )
        notes.append(f"Acc@1 on {result.accuracy.n:,} mentions (and same first concept as float32), %: {found}")
    elif result.size == TARGET_SIZE:
        notes.append("no targets: they need --model and --mentions, to see which dtype keeps its accuracy")
    return to_markdown(rows, [*notes, *result.targets])


def plot(result: EncodingComparison, path: Path) -> None:
    """A bar chart of names per second as a PNG or SVG file, with the speed-up over each of TARGET_SPEEDUPS."""
    title = f"Names encoded per second, XLM-R {result.size}, {result.machine.device}"
    rates = {name: each.names_per_second for name, each in result.implementations.items()}
    labels = [
        f"{format_figure(each.names_per_second)} ({', '.join(f'{each.speedups[baseline]:.1f} ×' for baseline in TARGET_SPEEDUPS)})"
        for each in result.implementations.values()
    ]
    save(bar_plot(f"{title}\n(speed-up over {' and '.join(TARGET_SPEEDUPS)})", rates, labels), path)
