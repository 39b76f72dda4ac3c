"""What races in `benchmarks.speed.encode`: names → vectors by the original's procedure, by SentenceTransformer, and by ours.

All have the same weights. The original pads every name to 25 tokens and takes [CLS] (https://github.com/cambridgeltl/sapbert, README and
src/model_wrapper.py), on CUDA in batches of 2,048. SentenceTransformer sorts names by length and pads each batch of 32, its default, to its
longest; in float16 it gets batches of 2,048, too, for small ones leave a GPU waiting. Ours packs names without padding.

The race of encoding: the original's procedure, SentenceTransformer's, and ours, on the same weights and names, in turns.

Weights are random: speed doesn't depend on them. What 16 or 8 bits cost in accuracy does, so that is measured on a trained model, where one
is given; and only a side that is known to keep its accuracy can reach the bars. A side's share of the device's own rate of matrix products,
taken before and after the race, says how much room is left: of its real tokens, and of all positions that it computes, padding included.

The device is a CPU, where the bars hold, or CUDA. The CUDA part has not been run yet: there was no such device where it was written.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from torch import nn

from benchmarks.speed.ablations import linear_weights, timed
from benchmarks.speed.harness import (
    OURS,
    DeviceName,
    JsonTo,
    PlotTo,
    bar,
    chart,
    check_plot,
    device_of,
    exit_by,
    in_digits,
    machine,
    machine_in_words,
    say,
    verdicts,
    write_json,
)
from benchmarks.speed.reference import autocast, pad
from benchmarks.speed.train import product_seconds
from xsap.artifacts import manifest_hash, read_manifest, sha256_of
from xsap.encoding.encoder import Encoder
from xsap.encoding.int8 import int8_is_faster
from xsap.encoding.model_folder import quiet
from xsap.encoding.packing import tokenize_names
from xsap.errors import ConfigError
from xsap.page import markdown
from xsap.terms.terminology import Terminology

if TYPE_CHECKING:
    import torch

    from xsap.encoding.encoder import Encoder


SIDES = {
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
_REFERENCE_BATCH = {"cpu": 256, "cuda": 2048}  # names at once; more is no faster on a CPU
_PEER_BATCH = {"float32": 32, "float16": 2048}
_ROWS = 8192  # of the product that tells the device's rate: as many as tokens in a batch of ours, in 16 bits and more
_TIMES = 10

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncodingImplementation:
    """One way to encode. encode: n names → (n, hidden), of any length. model: its word embeddings see every position that it computes.

    first_only: the last layer is computed for [CLS] alone.
    """

    encode: Callable[[Sequence[str]], Floats]
    model: nn.Module
    dtype: str
    first_only: bool


def names_of(sides: str) -> list[str]:
    """Those of SIDES that can race on this machine."""
    return [name for name in SIDES[sides] if int8_is_faster() or not name.endswith("int8")]


def open_sides(exact: Encoder, folder: Path, device: torch.device, sides: str) -> dict[str, EncodingImplementation]:
    """SIDES of this key, all of them with a folder's weights, on a device. exact: that folder's encoder in float32."""
    opened = {}
    for name in names_of(sides):
        kind, dtype = name.split()
        if kind == "reference":
            opened[name] = _reference(exact, dtype)
        elif kind == "SentenceTransformer":
            opened[name] = _peer(folder, device, dtype)
        else:
            opened[name] = _ours(exact if dtype == "float32" else open_encoder(folder, device, dtype), dtype)
    return opened


def open_encoder(folder: Path | str, device: torch.device, dtype: Any) -> Encoder:
    """One of ours."""
    return Encoder.from_pretrained(folder, device=device, dtype=dtype)


def _reference(encoder: Encoder, dtype: str) -> EncodingImplementation:
    device = next(encoder.parameters()).device
    batch, pad_id = _REFERENCE_BATCH[device.type], int(encoder.tokenizer.pad_token_id)

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


def _peer(folder: Path, device: torch.device, dtype: str) -> EncodingImplementation:
    with quiet():
        model = SentenceTransformer(str(folder), device=str(device))
    if dtype == "float16":
        model.half()

    def encode(names: Sequence[str]) -> Floats:
        return np.asarray(model.encode(list(names), batch_size=_PEER_BATCH[dtype], show_progress_bar=False), np.float32)

    return EncodingImplementation(encode, model, dtype, first_only=False)


def _ours(encoder: Encoder, dtype: str) -> EncodingImplementation:
    return EncodingImplementation(encoder.encode, encoder, dtype, first_only=True)


@contextmanager
def counted(side: EncodingImplementation) -> Iterator[list[int]]:
    """How many positions a side computes meanwhile, padding included: batch by batch, those of which it asks for the embeddings."""
    table = next(part for name, part in side.model.named_modules() if name.endswith("word_embeddings"))
    found: list[int] = []
    hook = table.register_forward_pre_hook(lambda _, given: found.append(given[0].numel()))
    try:
        yield found
    finally:
        hook.remove()


def linear_flops(side: EncodingImplementation, encoder: Encoder, names: int, places: int) -> int:
    """What the linear layers cost for so many names and places: 2 · weights, a multiplication and an addition, for each.

    Not counted: biases, attention's own products, embeddings, layer norms. encoder: one in float32, for others may keep weights elsewhere.
    """
    wide, narrow = linear_weights(encoder, first_only=side.first_only)
    return 2 * (wide * places + narrow * names)


def rate_seconds(dtype: str, hidden: int, device: torch.device) -> list[float]:
    """Seconds of a product of `rate_flops`, several times, after one that isn't timed. In int8 it is torch's own, into 32 bits."""
    if dtype != "int8":
        return product_seconds(dtype, _ROWS, hidden, device)
    states, weights = (
        torch.randint(-127, 128, (rows, hidden), dtype=torch.int8, device=device) for rows in (_ROWS, 4 * hidden)
    )
    return [timed(lambda right: torch._int_mm(states, right.T), weights, device)[0] for _ in range(_TIMES + 1)][1:]


def rate_flops(hidden: int) -> int:
    """Of that product, (8,192 × hidden) · (hidden × 4 hidden)."""
    return 8 * _ROWS * hidden**2


FULL = "base"  # the size at which the bars hold, on a CPU
BARS = {"reference float32": 8.0, "SentenceTransformer float32": 2.0}  # how many times as fast as each ours is to be
LOST, AGREED = (
    0.3,
    99.0,
)  # points of Acc@1 that a precision may be away from float32, and per cent of mentions with the same first concept
NAMES = {"cpu": 1024, "cuda": 65_536}
_WARM_UP = {"cpu": 0, "cuda": 1}  # rounds that don't count; on CUDA kernels are chosen
_EXACT, _LOOSE = (
    1e-3,
    0.5,
)  # how far a side's vectors may be from the reference's, as `check` has it: in float32, or not
_CHECKED = 64  # names
_SEED = 0


def compare_speed(
    terminology: Path, *, size: str, names: int | None, rounds: int, device: "torch.device", sides: str | None = None
) -> dict[str, Any]:
    """The whole race → its figures. names: as many as the device needs, unless given. sides: the key of encoders.SIDES, else the device's.

    Raises XsapError; an AssertionError if the sides don't compute the same.
    """
    from benchmarks.speed.reference import SIZES, prepare
    from xsap.encoding.encoder import Encoder

    if size not in SIZES:
        raise ConfigError(f"--size must be one of {', '.join(SIZES)}, found '{size}'")
    start = prepare(terminology, SIZES[size], 16_000)
    texts = [str(name) for name in Terminology.load(terminology).names["name"].to_pylist()]
    given = [texts[i] for i in np.random.default_rng(_SEED).permutation(len(texts))[: names or NAMES[device.type]]]
    with TemporaryDirectory(prefix="xsap-race-") as place:
        folder = Path(place) / "model"
        start.encoder().save_pretrained(folder)
        exact = Encoder.from_pretrained(folder, device=device)
        racing = open_sides(exact, folder, device, sides or device.type)
    told = {
        "size": size,
        "names": len(given),
        "rounds": rounds,
        "seed": _SEED,
        "agreement": check(racing, given[:_CHECKED]),
    }
    told |= _time_sides(exact, racing, given, rounds, device)
    return told | {"accuracy": None, "bars": [], **machine(device, ("transformers", "sentence-transformers"))}


def check(sides: "Mapping[str, EncodingImplementation]", names: Sequence[str]) -> dict[str, float]:
    """The greatest distance of a vector from the reference's, both of length 1, by side. An AssertionError if it is too great.

    In units of how far the reference's own vectors are from their mean: those of an untrained model are nearly the same for all names.
    """
    vectors = {name: side.encode(names) for name, side in sides.items()}
    units = {name: each / np.linalg.norm(each, axis=1, keepdims=True) for name, each in vectors.items()}
    first, *_ = units.values()
    spread = float(np.linalg.norm(first - first.mean(0), axis=1).mean())
    apart = {name: float(np.linalg.norm(each - first, axis=1).max()) / spread for name, each in units.items()}
    for name, distance in apart.items():
        assert distance <= (_EXACT if sides[name].dtype == "float32" else _LOOSE), (
            f"{name} doesn't compute the same: {apart}"
        )
    return apart


def _time_sides(
    exact: "Encoder",
    sides: "Mapping[str, EncodingImplementation]",
    given: Sequence[str],
    rounds: int,
    device: "torch.device",
) -> dict[str, Any]:
    """The race, and what follows from its medians and from the device's rates."""
    from benchmarks.speed.ablations import timed
    from xsap.encoding.packing import tokenize_names

    precisions = dict.fromkeys(side.dtype for side in sides.values())
    products = {dtype: rate_seconds(dtype, exact.dimension, device) for dtype in precisions}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    places: dict[str, int] = {}
    for number in range(1 - _WARM_UP[device.type], rounds + 1):
        for name, side in sides.items():
            with counted(side) as found:
                took, _ = timed(side.encode, given, device)
            places[name] = sum(found)
            say(f"{f'round {number}' if number > 0 else 'warm-up'}, {name}: {len(given) / took:.1f} names/s")
            seconds[name] += [took] if number > 0 else []
    for dtype, taken in products.items():
        taken += rate_seconds(dtype, exact.dimension, device)
    rates = {dtype: rate_flops(exact.dimension) / median(taken) for dtype, taken in products.items()}
    tokens = int(tokenize_names(list(given), exact.tokenizer, exact.max_length).lengths.sum())
    figures: dict[str, dict[str, Any]] = {}
    for name, side in sides.items():
        took = median(seconds[name])
        flops = {
            kind: linear_flops(side, exact, len(given), n)
            for kind, n in (("real_tokens", tokens), ("all_positions", places[name]))
        }
        figures[name] = {
            "precision": side.dtype,
            "all_seconds": seconds[name],
            "names_a_second": len(given) / took,
            "times_as_fast": {rival: median(seconds[rival]) / took for rival in _rivals(sides)},
            "positions": places[name],
            "linear_flops": flops,
            "share_of_rate": {kind: count / took / rates[side.dtype] for kind, count in flops.items()},
        }
    return {"tokens_a_name": tokens / len(given), "product_flops_a_second": rates, "sides": figures}


def _rivals(sides: Iterable[str]) -> list[str]:
    return [name for name in sides if not name.startswith(OURS)]


def accuracy(
    model: str, terminology: Path, mentions: Path, precisions: Iterable[str], device: "torch.device"
) -> dict[str, Any]:
    """Acc@1 of a trained model in float32 and in other precisions, of names and mentions alike, and how often each puts the same concept first.

    Both in per cent.
    """
    from xsap.evaluation.protocols import concept_ranks, read_queries
    from xsap.linking.index import Index
    from xsap.linking.linker import Linker

    queries, names = read_queries(mentions), Terminology.load(terminology)
    found: dict[str, dict[str, float]] = {}
    for dtype in dict.fromkeys(["float32", *precisions]):
        encoder = open_encoder(model, device, dtype)
        ranks, results = concept_ranks(Linker(encoder, Index.build(names, encoder)), queries, 2)
        first = [result.candidates[0].concept_id if result.candidates else None for result in results]
        if not found:
            expected = first
        agreed = float(np.mean([one == other for one, other in zip(first, expected, strict=True)]))
        found[dtype] = {"acc@1": 100 * float((np.array(ranks) == 0).mean()), "agreed": 100 * agreed}
        say(f"{dtype}: Acc@1 {found[dtype]['acc@1']:.2f}")
    hashes = {"terminology": manifest_hash(read_manifest(terminology, "terminology")), "mentions": sha256_of(mentions)}
    return {"n": queries.num_rows, "model": encoder.content_hash, **hashes, "precisions": found}


def bars_of(
    sides: Mapping[str, Mapping[str, Any]], precisions: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """What ours are held to: each precision to its accuracy, and the fastest of those that keep it to its speed. precisions: see `accuracy`."""
    bars, kept = [], []
    for dtype, quality in precisions.items():
        away = round(abs(quality["acc@1"] - precisions["float32"]["acc@1"]), 6)  # as near as a sum of hits can be told
        told = [
            bar(f"{dtype}: points of Acc@1 away from float32", away, LOST, most=True),
            bar(f"{dtype}: the same first concept as float32, %", quality["agreed"], AGREED),
        ]
        bars += [] if dtype == "float32" else told
        kept += [dtype] if all(each["met"] for each in told) else []
    fit = {name: side for name, side in sides.items() if name.startswith(OURS) and side["precision"] in kept}
    fastest = max(fit, key=lambda name: float(fit[name]["names_a_second"]))
    return [
        *(
            bar(f"{fastest}: times as fast as {rival}", fit[fastest]["times_as_fast"][rival], least)
            for rival, least in BARS.items()
        ),
        *bars,
    ]


def to_text(result: Mapping[str, Any]) -> str:
    """The race as a table for people, and under it what makes it comparable."""
    sides = result["sides"]
    rivals = _rivals(sides)
    rows = [
        ["encoding", "names/s", *(f"times {rival}" for rival in rivals), "share of rate: real tokens", "all positions"]
    ]
    for name, side in sides.items():
        shares = [f"{100 * share:.0f} %" for share in side["share_of_rate"].values()]
        rows.append(
            [
                name,
                f"{side['names_a_second']:,.1f}",
                *(f"{side['times_as_fast'][rival]:.1f}" for rival in rivals),
                *shares,
            ]
        )
    rates = ", ".join(f"{dtype} {rate / 1e9:,.0f} GFLOP/s" for dtype, rate in result["product_flops_a_second"].items())
    metadata = [
        f"XLM-R {result['size']}, {result['names']:,} names of {result['tokens_a_name']:.1f} tokens, drawn with seed {result['seed']}; medians of "
        f"{result['rounds']} rounds in turns; {machine_in_words(result)}",
        "share of rate: 2 · weights of the linear layers · tokens / seconds / the device's rate, the tokens being real ones, or all positions "
        "computed, and where the last layer is for [CLS] alone most of its weights counting once a name; the rate is that of products "
        f"(8,192 × hidden) · (hidden × 4 hidden) in the same precision, before and after the race: {rates}",
    ]
    if quality := result["accuracy"]:
        found = ", ".join(
            f"{p} {each['acc@1']:.2f} ({each['agreed']:.2f})" for p, each in quality["precisions"].items()
        )
        metadata.append(f"Acc@1 on {quality['n']:,} mentions (and the same first concept as float32), %: {found}")
    elif result["size"] == FULL:
        metadata.append("no verdict: --model and --mentions tell which side keeps its accuracy")
    return "\n".join([*markdown(rows), "", *(f"- {fact}" for fact in [*metadata, *verdicts(result["bars"])])])


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Names a second of each side as bars in a PNG file, and how many times as fast as each of BARS that is."""
    panel = {}
    for name, side in result["sides"].items():
        times = ", ".join(f"{side['times_as_fast'][rival]:.1f} ×" for rival in BARS)
        panel[name] = (side["names_a_second"], f"{in_digits(side['names_a_second'])} ({times})")
    title = f"Names encoded a second, XLM-R {result['size']}, {result['device']}\n(how many times as fast as {' and '.join(BARS)})"
    chart({title: panel}, path)


def command(
    terminology: Annotated[Path, typer.Option(help="A terminology folder, whose names are encoded.")],
    size: Annotated[str, typer.Option(help="base or small.")] = FULL,
    names: Annotated[
        int | None, typer.Option(min=64, help="How many names: 1,024 on a CPU, 65,536 on CUDA, unless given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of all sides, in turns.")] = 3,
    device: Annotated[DeviceName, typer.Option(help="What all encode on; the bars are a CPU's.")] = DeviceName.CPU,
    model: Annotated[str | None, typer.Option(help="A trained model, to see what 16 or 8 bits cost it.")] = None,
    mentions: Annotated[Path | None, typer.Option(help="Mentions for that, with concepts of the terminology.")] = None,
    json_to: JsonTo = None,
    plot_to: PlotTo = None,
) -> None:
    """Encode names by the original's procedure, SentenceTransformer's and ours; exit code 3 if ours misses a bar at full size."""
    check_plot(plot_to)
    if (model is None) != (mentions is None):
        raise ConfigError(
            "--model and --mentions go together: what 16 or 8 bits cost is measured by linking mentions with a trained model"
        )
    on = device_of(device)
    result = compare_speed(terminology, size=size, names=names, rounds=rounds, device=on)
    if model and mentions:
        ours = [side["precision"] for name, side in result["sides"].items() if name.startswith(OURS)]
        result["accuracy"] = accuracy(model, terminology, mentions, ours, on)
        if size == FULL and on.type == "cpu":
            result["bars"] = bars_of(result["sides"], result["accuracy"]["precisions"])
    write_json(result, json_to)
    if plot_to:
        plot(result, plot_to)
    print(to_text(result))
    exit_by(result["bars"])
