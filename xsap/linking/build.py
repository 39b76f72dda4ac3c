"""How much memory building an index takes: asked before it begins, so that a cap that is too small costs nobody an hour.

What counts is the names' bytes and rows, which the terminology's own metadata give. The factors were measured as peak resident memory, on
terminologies of invented names with 35 characters each: 9.3 million names took 2.1 GB beyond what the process had before.

An index's vectors while they are being made: in files of as many rows each, so that none is encoded twice.

A file holds float32 numbers, row by row, and ends with an XXH3-128 over them, their place and the plan that they follow from. So a file that
is cut short, damaged, of another build or in another's place is none. Files are written aside and renamed: a build may be killed at any
time, and several processes may fill one folder.

Shards → an index; and folders that have a part of an index's shards, made on one machine of several.

The first part brings the names and concepts along, so that merging needs neither the terminology nor the model.

What a new index takes over from an old one: the vectors of names that the model reads as the same string.

Vectors are taken as they are stored. From float32, and from the storage that the new index has itself, they are to the last bit those that
the old build computed; int8 stores them anew, which may move a component by the rounding of its scale.

An index built on disk, in little memory: names stand in memory as Arrow has them, vectors go to disk shard by shard.

A build that was killed goes on with the shards that are there. Which rows a shard has follows from the terminology, the model and the memory
alone, so a build in several sittings, by several processes, or in parts on several machines gives the same files as one at a stretch. Within a
shard names are encoded shortest first: so one long name makes no short ones wait.
"""

import ctypes
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray
from tqdm import tqdm

from xsap.artifacts import check_can_write, file_lock, open_artifact, publish, read_manifest, write_atomically
from xsap.errors import ArtifactError, ConfigError
from xsap.languages import ENGLISH
from xsap.linking.dictionary import Dictionary, build_dictionary, hashes_of, on_disk, open_dictionary, write_dictionary
from xsap.linking.index import GRAPH, KIND, WRITTEN, Embedder, EncoderSpec, Index, writing
from xsap.search.approximate import SLICE, HnswIndex, check_usearch_installed
from xsap.search.exact import check_finite
from xsap.search.vectors import VectorDtype, Vectors, write_vectors
from xsap.text import TextPolicy

_ROWS = 1 << 15  # of a shard
_LEAST = 1 << 10  # powers of two, both
_A_BYTE = 2.0  # bytes in memory for each byte of a name and a code: what was read, and what is built from it
_A_ROW = 100  # bytes for hashes, numbers and lists
_AT_LEAST = 100_000_000  # what reading takes of any terminology, and libraries that are loaded late
_A_COMPONENT = 8192 * 48  # bytes for each component of a vector while 8,192 tokens are encoded
_A_LINKED = 200  # bytes of a row in a graph, beside its code
_READ = 5  # bytes of a component that are read again to measure the graph's recall: the code, and the number
_COPIES = 3  # of a shard: encoded, written, and read again
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([kMGT])(i?)B")


def parse_size(text: str) -> int:
    """'4GB' → bytes; kB, MB, GB and TB are powers of 1000, kiB, MiB, GiB and TiB of 1024. Raises ConfigError."""
    amount = _AMOUNT.fullmatch(text.strip())
    size = (
        0 if amount is None else int(float(amount[1]) * (1024 if amount[3] else 1000) ** ("kMGT".index(amount[2]) + 1))
    )
    if size < 1:
        raise ConfigError(f"expected an amount of memory such as 4GB or 500MB, found '{text}'")
    return size


def rows_per_shard(max_memory: int | None, dimension: int) -> int:
    """How many vectors a shard has: an eighth of the memory holds its copies. It follows from these two alone, alike on every machine."""
    rows = _ROWS
    while max_memory is not None and rows > _LEAST and 8 * _COPIES * 4 * dimension * rows > max_memory:
        rows //= 2
    return rows


def check_memory(
    max_memory: int,
    terminology: Path | str,
    languages: Collection[str] | None,
    dimension: int,
    *,
    ann: bool = False,
) -> None:
    """Raise ConfigError if the process, as it is now, would need more than so many bytes to build an index of these languages' names.

    approximate: with a graph.
    """
    counts = read_manifest(terminology, "terminology")["languages"]
    chosen = sum(n for language, n in counts.items() if languages is None or language in languages)
    share = chosen / max(1, sum(counts.values()))
    names, text = _bytes(Path(terminology) / "names.parquet", "name", "code")
    _, references = _bytes(Path(terminology) / "concepts.parquet", "cross_references")
    tables = _AT_LEAST + share * (_A_BYTE * text + _A_ROW * names) + _A_BYTE * references
    graph = chosen * (dimension + _A_LINKED) + _READ * min(chosen * dimension, SLICE) if ann else 0
    working = _A_COMPONENT * dimension + _COPIES * 4 * dimension * rows_per_shard(max_memory, dimension)
    needed = device_copy() + int(tables + working + graph)
    if needed > max_memory:
        of_these = f" (its graph {graph / 1e9:.1f}GB)" if ann else ""
        raise ConfigError(
            f"an index of {chosen:,} names of {dimension} components{of_these} takes about {needed / 1e9:.1f}GB of memory, of which the model has "
            f"{device_copy() / 1e9:.1f}GB already; found {max_memory / 1e9:.1f}GB. Allow more with --max-memory, or choose fewer --languages"
        )


def _bytes(file: Path, *columns: str) -> tuple[int, int]:
    """How many rows a Parquet file has, and bytes in these columns."""
    metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    there = [group.column(i) for group in groups for i in range(group.num_columns)]
    return metadata.num_rows, sum(
        one.total_uncompressed_size for one in there if one.path_in_schema.split(".")[0] in columns
    )


def trim_malloc() -> None:
    """Let the C library return what it holds free: batches of ever new shapes leave holes that took as much memory again as all else.

    malloc_trim of glibc (https://man7.org/linux/man-pages/man3/malloc_trim.3.html), some 25 ms; other libraries have nothing like it.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def device_copy() -> int:
    """Bytes that the process has in memory; where the system doesn't say, the most that it ever had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


_DIGEST = 16  # bytes
_PLAN = "plan.json"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """All that vectors follow from. terminology, update: content hashes. model: `Model.metadata()`. languages: None for all.

    names: how many vectors of `dimension` components; rows: how many of them a shard has. storage: how they will be stored.
    """

    terminology: str
    model: dict[str, Any]
    languages: list[str] | None
    update: str | None
    names: int
    dimension: int
    rows: int
    vector_dtype: VectorDtype

    @property
    def shards(self) -> int:
        """How many there are."""
        return -(-self.names // self.rows)

    def of(self, shard: int) -> slice:
        """The rows of a shard, which are numbered from 0."""
        return slice(shard * self.rows, min(self.names, (shard + 1) * self.rows))

    def metadata(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def fingerprint(self) -> bytes:
        """The sha256 of all of it."""
        return hashlib.sha256(json.dumps(self.metadata(), sort_keys=True).encode()).digest()


def file_of(folder: Path, shard: int) -> Path:
    """Where a shard is."""
    return folder / f"{shard:05}.shard"


def open_shards(folder: Path, plan: Plan) -> None:
    """Make a folder ready for a plan: one of another plan is emptied, and half-written files go."""
    file = folder / _PLAN
    text = json.dumps(plan.metadata(), indent=1) + "\n"
    if not (file.is_file() and file.read_bytes() == text.encode()):
        shutil.rmtree(folder, ignore_errors=True)
        with write_atomically(file) as stream:
            stream.write(text)
    for aside in folder.glob(".*.new"):
        aside.unlink()


def write_shard(folder: Path, plan: Plan, shard: int, vectors: Floats) -> None:
    """vectors: the shard's rows, (m, dimension)."""
    rows = plan.of(shard)
    assert vectors.shape == (rows.stop - rows.start, plan.dimension), f"shard {shard} of {vectors.shape}"
    data = np.ascontiguousarray(vectors, "<f4").tobytes()
    with write_atomically(file_of(folder, shard), binary=True) as stream:
        stream.write(data)
        stream.write(_digest(plan, shard, data))


def read_shard(folder: Path, plan: Plan, shard: int) -> Floats | None:
    """(m, dimension); None if the shard isn't there, or isn't whole."""
    file, rows = file_of(folder, shard), plan.of(shard)
    size = (rows.stop - rows.start) * plan.dimension * 4
    if not file.is_file() or file.stat().st_size != size + _DIGEST:
        return None
    with file.open("rb") as stream:
        data = np.fromfile(stream, "<f4", size // 4)
        digest = stream.read()
    return data.reshape(-1, plan.dimension) if digest == _digest(plan, shard, data.data) else None


def missing(folder: Path, plan: Plan, shards: Iterable[int]) -> list[int]:
    """Those that are still to be made."""
    return [shard for shard in shards if read_shard(folder, plan, shard) is None]


def _digest(plan: Plan, shard: int, data: bytes | memoryview) -> bytes:
    digest = xxhash.xxh3_128(plan.fingerprint() + shard.to_bytes(8, "little"))
    digest.update(data)
    return digest.digest()


PART_KIND = "index-shards"


@dataclass(frozen=True)
class BuildSummary:
    """What was built. dropped: names left out, by reason. encoded: names encoded now; found: in shards that were there already. kept: names of
    the whole index whose vectors an old one had; lost: names that only the old one had. recall: of the graph, if there is one."""

    names: int
    concepts: int
    dropped: dict[str, int]
    encoded: int = 0
    found: int = 0
    kept: int = 0
    lost: int = 0
    recall: float | None = None


def assemble(
    out: Path,
    model: EncoderSpec,
    plan: Plan,
    dictionary: Dictionary,
    place: Callable[[int], Path],
    *,
    ann: bool,
    overwrite: bool,
    progress: bool = False,
) -> float | None:
    """Write the index of all shards, with a graph if `ann` → the graph's recall. place: the folder of each shard.

    Raises ArtifactError for a shard that isn't whole.
    """
    chosen = None if plan.languages is None else tuple(plan.languages)
    with writing(out, model, plan.terminology, chosen, dictionary, overwrite=overwrite) as (folder, metadata):
        with write_vectors(folder, plan.names, plan.dimension, plan.vector_dtype) as put:
            for shard in range(plan.shards):
                vectors = read_shard(place(shard), plan, shard)
                if vectors is None:
                    raise ArtifactError(
                        f"{file_of(place(shard), shard)}: missing or damaged since it was made; make it again"
                    )
                for start in range(0, len(vectors), WRITTEN):
                    put(vectors[start : start + WRITTEN])
        written = Vectors.open(folder)
        metadata |= written.metadata()
        if not ann:
            return None
        graph = HnswIndex.build(written, progress=progress)
        metadata["graph"] = graph.save(folder / GRAPH)
        return graph.recall


def seal(
    out: Path,
    model: EncoderSpec,
    plan: Plan,
    dictionary: Dictionary,
    source: Path,
    shards: Sequence[int],
    part: tuple[int, int],
    *,
    overwrite: bool,
) -> None:
    """Publish some shards, which lie in the folder `source`, as the i-th of N parts: `part`, from 1."""
    path = model.path if model.path is None or not Path(model.path).exists() else str(Path(model.path).resolve())
    metadata = {
        "part": part,
        "plan": plan.metadata(),
        "shards": list(shards),
        "model_path": path,
        "dropped": dictionary.dropped,
    }
    with publish(out, PART_KIND, metadata, overwrite=overwrite) as folder:
        for shard in shards:
            shutil.copyfile(file_of(source, shard), file_of(folder, shard))
        if part[0] == 1:
            write_dictionary(folder, dictionary)


def merge_shards(
    parts: Sequence[Path | str],
    out: Path | str,
    *,
    ann: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> BuildSummary:
    """All parts of one build, in any order → the index that one build gives; approximate: and a graph.

    Raises ArtifactError if one is damaged, of another build, twice or not there; ConfigError for a graph without usearch.
    """
    check_can_write(out, overwrite=overwrite, kind=KIND)
    if ann:
        check_usearch_installed()
    if not parts:
        raise ConfigError("merge needs the folders of all parts of an index, found none")
    manifests = {Path(part): open_artifact(part, PART_KIND) for part in parts}
    if len(manifests) < len(parts):
        raise ConfigError("merge needs each part once, found one of the folders twice")
    first = next(iter(manifests))
    metadata = manifests[first]["plan"]
    number = manifests[first]["part"][1]
    owners: dict[int, Path] = {}
    for folder, manifest in manifests.items():
        if differing := [key for key, value in manifest["plan"].items() if value != metadata[key]]:
            raise ArtifactError(
                f"{folder} is not of the same build as {first}: they differ in {', '.join(differing)}; build all parts alike"
            )
        for shard in manifest["shards"]:
            if shard in owners:
                raise ArtifactError(
                    f"{folder} has vectors that {owners[shard]} has, too (shard {shard}); give each part once"
                )
            owners[shard] = folder
    plan = Plan(**metadata)
    if gaps := [shard for shard in range(plan.shards) if shard not in owners]:
        there = {manifest["part"][0] for manifest in manifests.values() if manifest["part"][1] == number}
        absent = ", ".join(f"{i}/{number}" for i in range(1, number + 1) if i not in there)
        raise ArtifactError(
            f"{len(gaps):,} of {plan.shards:,} shards are in none of the parts given; those of {absent} are missing"
        )
    home = manifests[owners[0]]
    dictionary = open_dictionary(owners[0], home["dropped"])
    model = EncoderSpec.read(plan.model, home["model_path"])
    recall = assemble(
        Path(out),
        model,
        plan,
        dictionary,
        owners.__getitem__,
        ann=ann,
        overwrite=overwrite,
        progress=progress,
    )
    return BuildSummary(plan.names, dictionary.concepts.num_rows, dictionary.dropped, found=plan.names, recall=recall)


_REUSED_AT_ONCE = 1 << 16  # names hashed at once


@dataclass(frozen=True)
class Reused:
    """An index whose vectors are taken over. rows: (n,) where each new name is in it, -1 where it isn't. content: its hash.

    kept: how many new names it has. lost: how many of its names no new one is.
    """

    path: Path
    content_hash: str
    rows: NDArray[np.int64]
    kept: int
    lost: int

    @classmethod
    def open(cls, path: Path | str, encoder: Embedder, names: pa.ChunkedArray, vector_dtype: VectorDtype) -> "Reused":
        """Look new names up in an index. Raises ArtifactError if it is damaged or of another model, ConfigError if it is stored coarser."""
        index = Index.load(path)
        if EncoderSpec.of(encoder).metadata() != index.model.metadata():
            raise ArtifactError(
                f"{path} was built with another model, or with this one used differently; build afresh, without --reuse"
            )
        found = index.vectors.vector_dtype
        if found not in ("float32", vector_dtype):
            raise ConfigError(
                f"{path} stores {found}, from which {vector_dtype} can't be had again; add --vector-dtype {found}, or build afresh"
            )
        assert index.content_hash is not None
        rows = _find(_hashes(names, encoder.policy), _hashes(index.names["name"], encoder.policy))
        kept = int((rows >= 0).sum())
        return cls(Path(path), index.content_hash, rows, kept, index.names.num_rows - kept)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(m, d): its vectors. Opened for this alone, for what is read of a memory map counts as the process's memory until it is closed."""
        return Vectors.open(self.path).take(rows)


def _hashes(names: pa.ChunkedArray, policy: TextPolicy) -> NDArray[np.uint64]:
    slices = (names.slice(start, _REUSED_AT_ONCE) for start in range(0, len(names), _REUSED_AT_ONCE))
    return np.concatenate([hashes_of(part.combine_chunks(), policy) for part in slices])


def _find(wanted: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n,) the row of `known` that equals each of `wanted`, else -1. Both (…, 2), each row once; two that share the first half may be missed."""
    order = np.argsort(known[:, 0])
    halves = known[order, 0]
    at = np.minimum(np.searchsorted(halves, wanted[:, 0]), len(order) - 1)
    rows = order[at]
    return np.where((known[rows] == wanted).all(1), rows, -1)


_AT_ONCE = 4096  # names encoded between two moves of the bar
_FEWEST = 64  # names encoded at once: with fewer, how a product is rounded depends on their number
TIMEOUT = timedelta(hours=24)  # with processes that still encode

Rows = NDArray[np.int64]
# all names, the rows of each group of them that is encoded together, a folder for what is needed meanwhile → these groups, in their order,
# each with its vectors, (n, dimension)
GroupEncoder = Callable[[pa.ChunkedArray, Iterable[Rows], Path], Iterator[tuple[Rows, Floats]]]


def build_index(
    terminology: Path | str,
    encoder: Embedder,
    out: Path | str,
    *,
    model_path: Path | str | None = None,
    languages: Collection[str] | None = (ENGLISH,),
    vector_dtype: VectorDtype = "float32",
    max_memory: int | None = None,
    update: Path | str | None = None,
    shard: tuple[int, int] | None = None,
    ann: bool = False,
    encode_groups: GroupEncoder | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> BuildSummary | None:
    """Embed the names that a terminology's folder has in these ISO languages (None: all), into an index's folder.

    memory: bytes that the process may take. update: an index of the same model, whose vectors are taken over. shard: (i, N) makes only the
    i-th of N parts, from 1, for `merge_shards`. approximate: with a graph. spread: what encodes, if not this process alone.
    Where Accelerate has launched several processes each encodes its share, and all but the first return None. Raises ConfigError for too
    little memory, for a graph of a part or without usearch, and while another process builds there; DataError if there is no such name or a
    vector isn't finite; ArtifactError if something is damaged, doesn't fit or is in the way.
    """
    out, model = Path(out).absolute(), EncoderSpec.of(encoder, model_path)
    _check(out, model, shard, ann=ann, overwrite=overwrite)
    source = on_disk(terminology)
    dimension = encoder.encode(["name"] * _FEWEST).shape[1]
    if max_memory is not None:
        check_memory(max_memory, terminology, languages, dimension, ann=ann)
    dictionary = build_dictionary(source, languages, encoder.policy)
    old = Reused.open(update, encoder, dictionary.names["name"], vector_dtype) if update is not None else None
    chosen = None if languages is None else sorted(languages)
    content_hash, names = str(source.content_hash), dictionary.names.num_rows
    plan = Plan(
        content_hash,
        model.metadata(),
        chosen,
        old.content_hash if old else None,
        names,
        dimension,
        rows_per_shard(max_memory, dimension),
        vector_dtype,
    )
    group = process_group()
    if group is not None and encode_groups is not None:
        raise ConfigError(
            "several processes were launched for a build that a cluster does; choose accelerate launch or --ray, not both"
        )
    first = group is None or group.is_main_process
    lock = out.parent / f".{out.name}.lock"
    with (
        file_lock(lock, f"another build is making {out}; wait for it, or choose another --out")
        if first
        else nullcontext()
    ):
        own = list(range(plan.shards) if shard is None else range(shard[0] - 1, plan.shards, shard[1]))
        folder = out.parent / f".{out.name}.part"
        encoded, found = _shared(
            dictionary,
            encode_groups or partial(encode_locally, encoder),
            plan,
            folder,
            own,
            old,
            group,
            progress and first,
        )
        if not first:
            return None
        recall = None
        if shard is None:
            recall = assemble(
                out,
                model,
                plan,
                dictionary,
                lambda _: folder,
                ann=ann,
                overwrite=overwrite,
                progress=progress,
            )
        else:
            seal(out, model, plan, dictionary, folder, own, shard, overwrite=overwrite)
        shutil.rmtree(folder)
        lock.unlink(missing_ok=True)
    return BuildSummary(
        names,
        dictionary.concepts.num_rows,
        dictionary.dropped,
        encoded,
        found,
        *((old.kept, old.lost) if old else (0, 0)),
        recall,
    )


def _check(out: Path, model: EncoderSpec, shard: tuple[int, int] | None, *, ann: bool, overwrite: bool) -> None:
    """Raise ConfigError or ArtifactError for what can't be built there."""
    check_can_write(out, overwrite=overwrite, kind=KIND if shard is None else PART_KIND)
    if model.content_hash is None:
        raise ConfigError(
            "an index is bound to a model folder, but this one's model was never saved; save it, load it, build again"
        )
    if shard is not None:
        parse_shard(f"{shard[0]}/{shard[1]}")
    if ann and shard is not None:
        raise ConfigError(
            "a graph for approximate search is of a whole index, not of a part; leave --ann to xsap merge"
        )
    if ann:
        check_usearch_installed()


def _shared(
    dictionary: Dictionary,
    encode_groups: GroupEncoder,
    plan: Plan,
    folder: Path,
    own: list[int],
    old: Reused | None,
    group: Any,
    progress: bool,
) -> tuple[int, int]:
    """`_encode` these shards, each process of a group its share; the sums over all of them."""
    if group is None:
        open_shards(folder, plan)
        return _encode(dictionary, encode_groups, plan, folder, own, old, progress)
    if group.is_main_process:
        open_shards(folder, plan)
    group.wait_for_everyone()
    encoded, found = _sums(
        group,
        *_encode(
            dictionary, encode_groups, plan, folder, own[group.process_index :: group.num_processes], old, progress
        ),
    )
    return encoded, found


def process_group() -> Any:
    """Accelerate's PartialState where several processes were launched; None where this one is alone. Raises ConfigError if they don't meet."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched < 2:
        return None
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
    if state.num_processes != launched:
        raise ConfigError(
            f"{launched} processes were launched, but Accelerate sees {state.num_processes}; launch them with accelerate launch"
        )
    return state


def _sums(group: Any, *counts: int) -> list[int]:
    """Over all processes, once each of them is here."""
    import torch
    from accelerate.utils import reduce

    sums: list[int] = reduce(torch.tensor(counts, device=group.device), "sum").tolist()
    return sums


def parse_shard(text: str) -> tuple[int, int]:
    """'2/5' → (2, 5). Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ConfigError(f"expected a shard as i/N, such as 2/5 for the second of five, found '{text}'")
    return int(found[1]), int(found[2])


def encode_group(names: list[str], encoder: Embedder) -> Floats:
    """(n, dimension), the same in each process."""
    vectors = encoder.encode(names + names[-1:] * (_FEWEST - len(names)))[: len(names)]
    trim_malloc()
    return vectors


def names_at(names: pa.ChunkedArray, rows: Rows) -> list[str]:
    """Names of rows that lie near one another; of a whole column `take` reads too much."""
    first = int(rows.min())
    found: list[str] = names.slice(first, int(rows.max()) + 1 - first).take(pa.array(rows - first)).to_pylist()
    return found


def _encode(
    dictionary: Dictionary,
    encode_groups: GroupEncoder,
    plan: Plan,
    folder: Path,
    shards: Sequence[int],
    old: Reused | None,
    progress: bool,
) -> tuple[int, int]:
    """Make those of the shards that are missing; how many names were encoded, and how many stood in the others."""
    wanted = missing(folder, plan, shards)
    sizes = {shard: plan.of(shard).stop - plan.of(shard).start for shard in shards}
    found = sum(sizes.values()) - sum(sizes[shard] for shard in wanted)
    taken = {shard: np.full(sizes[shard], -1) if old is None else old.rows[plan.of(shard)] for shard in wanted}
    kept = sum(int((rows >= 0).sum()) for rows in taken.values())
    total, names = sum(sizes.values()), dictionary.names["name"]
    encoded = encode_groups(
        names, (group for shard in wanted for group in _groups(names, plan.of(shard), taken[shard] < 0)), folder
    )
    with tqdm(
        total=total, initial=found + kept, desc="encode", unit=" names", unit_scale=True, disable=not progress
    ) as bar:
        bar.set_postfix_str(
            ", ".join(
                f"{n:,} {what}" for n, what in ((found, "from an earlier run"), (kept, "from the old index")) if n
            )
        )
        for shard in wanted:
            rows, vectors = taken[shard], np.empty((sizes[shard], plan.dimension), np.float32)
            new = int((rows < 0).sum())
            if old is not None and new < len(rows):
                vectors[rows >= 0] = old.take(rows[rows >= 0])
            while new:
                group, of_group = next(encoded)
                places = group - plan.of(shard).start
                assert places.min() >= 0 and places.max() < len(rows), "a group of another shard"  # noqa: PT018
                vectors[places] = of_group
                new -= len(group)
                bar.update(len(group))
            check_finite(vectors, "vectors")
            write_shard(folder, plan, shard, vectors)
    return total - found - kept, found


def _groups(names: pa.ChunkedArray, of: slice, wanted: NDArray[np.bool_]) -> Iterator[Rows]:
    """The rows of a shard that are wanted, shortest names first, as many as are encoded between two moves of the bar."""
    lengths = pc.utf8_length(names.slice(of.start, of.stop - of.start)).to_numpy()
    rows = np.flatnonzero(wanted)
    rows = of.start + rows[np.argsort(lengths[rows], kind="stable")]
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]


def encode_locally(
    encoder: Embedder, names: pa.ChunkedArray, groups: Iterable[Rows], _: Path
) -> Iterator[tuple[Rows, Floats]]:
    for group in groups:
        yield group, encode_group(names_at(names, group), encoder)
