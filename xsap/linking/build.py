"""Build an index on disk in bounded memory: names stay in Arrow, vectors are written shard by shard.

Which names a shard has follows from the terminology, the model and the memory limit alone, so an interrupted build
resumes with the shards that are complete, and a build by several processes, or in parts on several machines
(`merge_shards`), gives the same files as a single one. Within a shard names are encoded shortest first, so that one
long name does not slow down many short ones. Vectors of an older index are reused for names that the model reads as
the same string.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from xsap.artifacts import check_can_write, file_lock
from xsap.errors import ArtifactError, ConfigError
from xsap.linking.build_memory import check_memory, estimate_memory, shard_bytes, trim_malloc
from xsap.linking.dictionary import Dictionary, NameSource, build_dictionary
from xsap.linking.encoder_spec import Embedder, EncoderSpec, check_model_saved
from xsap.linking.index import Index
from xsap.linking.index_files import INDEX_KIND, VECTORS_PER_WRITE, write_index
from xsap.linking.mention_build import (
    BuiltMentions,
    NamedVectors,
    build_mention_names,
    check_mention_weight,
    vectors_to_reuse,
)
from xsap.linking.mention_names import MentionNames
from xsap.linking.shards import PART_KIND, Plan, Reused, ShardFolder, open_parts, parse_shard, publish_part, shards_of
from xsap.search.approximate import HnswIndex, check_usearch_installed
from xsap.search.vectors import Floats, Rows, VectorDtype, Vectors, check_finite

TIMEOUT = timedelta(hours=24)  # how long a process waits for others that still encode
MIN_BATCH = 64  # names; in smaller batches the rounding of a matrix product depends on their number

# (all names, the rows of each group of names that is encoded together, a working folder) → for each group, in order,
# its rows and its vectors, (m, dimension)
GroupEncoder = Callable[[pa.ChunkedArray, Iterable[Rows], Path], Iterator[tuple[Rows, Floats]]]


@dataclass(frozen=True)
class BuildSizes:
    """How much of a build is done at once."""

    rows_per_shard: int = 1 << 15  # where memory does not limit it
    min_rows_per_shard: int = 1 << 10
    names_per_group: int = 4096  # encoded between two updates of the progress bar
    min_batch: int = MIN_BATCH
    vectors_per_write: int = VECTORS_PER_WRITE

    def fit(self, max_memory: int | None, dimension: int) -> int:
        """Rows per shard, halved until an eighth of the memory holds a shard's copies: the same on every machine."""
        rows = self.rows_per_shard
        while max_memory and rows > self.min_rows_per_shard and 8 * shard_bytes(rows, dimension) > max_memory:
            rows //= 2
        return rows


@dataclass(frozen=True)
class BuildSummary:
    """What was built, and from what."""

    names: int
    concepts: int
    dropped: dict[str, int]  # names left out, by reason
    encoded: int = 0  # names encoded by this build
    resumed: int = 0  # names in shards that were there already
    reused: int = 0  # names of the whole index whose vectors the older index had
    removed: int = 0  # names that only the older index had
    recall: float | None = None  # of the HNSW index, if there is one
    mentions: BuiltMentions | None = None  # the mention names, if there are any


@dataclass(frozen=True)
class Build:
    """The state of a build."""

    out: Path
    model: EncoderSpec
    plan: Plan
    dictionary: Dictionary
    reused: Reused | None = None
    part: tuple[int, int] | None = None  # (i, n) for the i-th of n parts, from 1; None for a whole index
    ann: bool = False
    overwrite: bool = False
    progress: bool = False
    sizes: BuildSizes = BuildSizes()
    make_mentions: Callable[[Vectors], MentionNames] | None = None  # from the vectors of all names

    @property
    def folder(self) -> ShardFolder:
        """Where shards are kept until the index is complete."""
        return ShardFolder(self.out.parent / f".{self.out.name}.part", self.plan)

    def encode(self, encode_groups: GroupEncoder, group: Any) -> tuple[int, int]:
        """Make the missing shards, some in each process of a group. Returns how many names were encoded and resumed."""
        shards = shards_of(self.plan, self.part)
        if group is None or group.is_main_process:
            self.folder.prepare()
        if group is None:
            return self._encode(encode_groups, shards, self.progress)
        group.wait_for_everyone()
        own = shards[group.process_index :: group.num_processes]
        encoded, resumed = _sums(group, *self._encode(encode_groups, own, self.progress and group.is_main_process))
        return encoded, resumed

    def _encode(self, encode_groups: GroupEncoder, shards: Sequence[int], progress: bool) -> tuple[int, int]:
        names, missing = self.dictionary.names["name"], self.folder.missing(shards)
        total = sum(len(self.plan.rows_of(shard)) for shard in shards)
        resumed = total - sum(len(self.plan.rows_of(shard)) for shard in missing)
        known = {shard: self._known(shard) for shard in missing}
        reused = sum(int((rows >= 0).sum()) for rows in known.values())
        groups = (group for shard in missing for group in self._groups(shard, known[shard] < 0))
        encoded = encode_groups(names, groups, self.folder.path)
        with tqdm(
            total=total, initial=resumed + reused, desc="encode", unit=" names", unit_scale=True, disable=not progress
        ) as bar:
            origins = ((resumed, "from an earlier run"), (reused, "from the reused index"))
            bar.set_postfix_str(", ".join(f"{n:,} {origin}" for n, origin in origins if n))
            for shard, rows in known.items():
                vectors = np.empty((len(rows), self.plan.dimension), np.float32)
                new = int((rows < 0).sum())
                if self.reused is not None and new < len(rows):
                    vectors[rows >= 0] = self.reused.take(rows[rows >= 0])
                while new:
                    group, group_vectors = next(encoded)
                    positions = group - self.plan.rows_of(shard).start
                    assert 0 <= positions.min() <= positions.max() < len(rows), "a group of another shard"
                    vectors[positions] = group_vectors
                    new -= len(group)
                    bar.update(len(group))
                check_finite(vectors, "vectors")
                self.folder.write(shard, vectors)
        return total - resumed - reused, resumed

    def _known(self, shard: int) -> Rows:
        """(m,) the row of each name of a shard in the reused index, -1 for a name that has to be encoded."""
        rows = self.plan.rows_of(shard)
        return np.full(len(rows), -1) if self.reused is None else self.reused.rows[rows.start : rows.stop]

    def _groups(self, shard: int, wanted: NDArray[np.bool_]) -> Iterator[Rows]:
        """The wanted rows of a shard, shortest names first, in groups."""
        names = self.plan.rows_of(shard)
        lengths = pc.utf8_length(self.dictionary.names["name"].slice(names.start, len(names))).to_numpy()
        rows = np.flatnonzero(wanted)
        rows = names.start + rows[np.argsort(lengths[rows], kind="stable")]
        for start in range(0, len(rows), self.sizes.names_per_group):
            yield rows[start : start + self.sizes.names_per_group]

    def finish(self) -> float | None:
        """Write the index, or the part; returns the recall of the HNSW index, if there is one."""
        recall = None
        if self.part is None:
            recall = self.assemble(dict.fromkeys(range(self.plan.shards), self.folder))
        else:
            publish_part(self.out, self.model, self.dictionary, self.folder, self.part, overwrite=self.overwrite)
        shutil.rmtree(self.folder.path)
        return recall

    def assemble(self, folders: Mapping[int, ShardFolder]) -> float | None:
        """Write the index of all shards, each in its folder; returns the recall of the HNSW index, if there is one."""

        def blocks() -> Iterator[Floats]:
            for shard in range(self.plan.shards):
                vectors = folders[shard].read(shard)
                if vectors is None:
                    raise ArtifactError(
                        f"{folders[shard].file(shard)}: missing or damaged since it was made; create it again"
                    )
                for start in range(0, len(vectors), self.sizes.vectors_per_write):
                    yield vectors[start : start + self.sizes.vectors_per_write]

        hnsw = write_index(
            self.out,
            self.dictionary,
            self.model,
            blocks(),
            terminology_hash=self.plan.terminology_hash,
            languages=self.plan.languages,
            dimension=self.plan.dimension,
            vector_dtype=self.plan.vector_dtype,
            build_hnsw=partial(HnswIndex.build, progress=self.progress) if self.ann else None,
            make_mentions=self.make_mentions,
            overwrite=self.overwrite,
        )
        return None if hnsw is None else hnsw.recall


def build_index(
    terminology: Path | str,
    encoder: Embedder,
    out: Path | str,
    *,
    model_path: Path | str | None = None,
    languages: Collection[str] | None = None,
    vector_dtype: VectorDtype = "float32",
    max_memory: int | None = None,
    reuse: Path | str | None = None,
    shard: tuple[int, int] | None = None,
    ann: bool = False,
    mentions: pa.Table | None = None,
    mention_weight: float | None = None,
    seed: int = 0,
    encode_groups: GroupEncoder | None = None,
    overwrite: bool = False,
    progress: bool = False,
    sizes: BuildSizes = BuildSizes(),
) -> BuildSummary | None:
    """Embed a terminology's names into an index's folder; an interrupted build resumes when it is called again.

    Where Accelerate has launched several processes, each encodes a part of the names.

    Args:
        terminology: A terminology's folder.
        encoder: Embeds the names.
        out: The folder to make.
        model_path: The encoder's folder or hub id, where `Linker.load` will look for it.
        languages: ISO codes of the names to embed; None for all.
        vector_dtype: How vectors are stored: float32, float16 or int8.
        max_memory: Bytes that the process may take; None for no limit.
        reuse: Folder of an index of the same model, whose vectors are reused.
        shard: (i, n) to make the i-th of n parts, from 1, for `merge_shards`; None for a whole index.
        ann: Whether to build an HNSW index, too.
        mentions: Annotated mentions, a table of `terms.mentions.SCHEMA`, that become names of a weight of their own.
        mention_weight: That weight, 0 to 1; None to learn it on the mentions.
        seed: Of the folds on which it is learned.
        encode_groups: What encodes the names, if not this process.
        overwrite: Whether to replace a folder that is there.
        progress: Whether to show progress bars.
        sizes: How much is done at once.

    Returns:
        What was built; None in all processes but the first.

    Raises:
        ConfigError: Too little memory, an HNSW index or mentions of a part, no usearch, or another process builds there.
        DataError: There is no name in these languages, a vector is not finite, or no mention has a concept of the terminology.
        ArtifactError: A folder is damaged, does not fit, or exists and may not be replaced.
    """
    out, model, group = Path(out).absolute(), EncoderSpec.from_encoder(encoder, model_path), process_group()
    _check(out, model, shard, ann=ann, overwrite=overwrite, mentions=mentions, mention_weight=mention_weight)
    if group is not None and encode_groups is not None:
        raise ConfigError("found both accelerate launch and a cluster for one build; use accelerate launch or --ray")
    source, rows = NameSource.from_folder(terminology), sizes.fit(max_memory, encoder.dimension)
    if max_memory is not None:
        check_memory(max_memory, estimate_memory(terminology, languages, encoder.dimension, rows, ann=ann))
    dictionary = build_dictionary(source, languages, encoder.policy)
    names = dictionary.names["name"]
    reused = None if reuse is None else Reused.from_index(reuse, model, names, vector_dtype)
    plan = Plan(
        str(source.content_hash),
        model.metadata(),
        None if languages is None else sorted(languages),
        reused.content_hash if reused else None,
        len(names),
        encoder.dimension,
        rows,
        vector_dtype,
    )
    added: list[BuiltMentions] = []

    def make_mentions(vectors: Vectors) -> MentionNames:
        known = [] if reuse is None else _vectors_of_index(reuse, vector_dtype)
        added.append(
            build_mention_names(
                mentions, dictionary, vectors, encoder, known=known, weight=mention_weight, seed=seed, progress=progress
            )
        )
        return added[0].names

    make = None if mentions is None else make_mentions
    build = Build(out, model, plan, dictionary, reused, shard, ann, overwrite, progress, sizes, make)
    first, lock = group is None or group.is_main_process, out.parent / f".{out.name}.lock"
    busy = f"another build is making {out}; wait for it, or choose another --out"
    with file_lock(lock, busy) if first else nullcontext():
        local = partial(encode_locally, encoder, min_batch=sizes.min_batch)
        encoded, resumed = build.encode(encode_groups or local, group)
        if not first:
            return None
        recall = build.finish()
        lock.unlink(missing_ok=True)
    counts = (reused.reused, reused.removed) if reused else (0, 0)
    built = (len(names), dictionary.concepts.num_rows, dictionary.dropped, encoded, resumed, *counts, recall)
    return BuildSummary(*built, added[0] if added else None)


def _vectors_of_index(path: Path | str, vector_dtype: VectorDtype) -> list[NamedVectors]:
    """What of a reused index serves mention names beside the new index's own names: its names, and its mention names."""
    old = Index.load(path)
    return [NamedVectors(old.names["name"], old.vectors), *vectors_to_reuse(old.mention_names, vector_dtype)]


def _check(
    out: Path,
    model: EncoderSpec,
    shard: tuple[int, int] | None,
    *,
    ann: bool,
    overwrite: bool,
    mentions: pa.Table | None,
    mention_weight: float | None,
) -> None:
    """Raise ConfigError or ArtifactError for what can't be built."""
    check_mention_weight(mention_weight)
    if mention_weight is not None and mentions is None:
        raise ConfigError("found a weight of mention names, but no mentions; add --mentions FILE")
    if mentions is not None and shard is not None:
        raise ConfigError(
            "mentions are added to a whole index, found a part; merge the parts, then build with --reuse and --mentions"
        )
    check_can_write(out, overwrite=overwrite, kind=INDEX_KIND if shard is None else PART_KIND)
    check_model_saved(model)
    if shard is not None:
        parse_shard(f"{shard[0]}/{shard[1]}")
    if ann:
        check_usearch_installed()
        if shard is not None:
            raise ConfigError("--ann needs a whole index, found a part; add it to xsap merge instead")


def merge_shards(
    parts: Sequence[Path | str],
    out: Path | str,
    *,
    ann: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> BuildSummary:
    """Merge all parts of one build, in any order, into the index that a single build gives.

    Args:
        parts: Folders of parts.
        out: The folder to make.
        ann: Whether to build an HNSW index, too.
        overwrite: Whether to replace a folder that is there.
        progress: Whether to show a progress bar.

    Raises:
        ArtifactError: A part is damaged, of another build, given twice or missing.
        ConfigError: `ann` without usearch, or no part is given.
    """
    check_can_write(out, overwrite=overwrite, kind=INDEX_KIND)
    if ann:
        check_usearch_installed()
    model, plan, dictionary, folders = open_parts(parts)
    build = Build(Path(out), model, plan, dictionary, ann=ann, overwrite=overwrite, progress=progress)
    recall, concepts = build.assemble(folders), dictionary.concepts.num_rows
    return BuildSummary(plan.names, concepts, dictionary.dropped, resumed=plan.names, recall=recall)


def process_group() -> Any:
    """Accelerate's PartialState if several processes were launched, or None. Raises ConfigError if some are absent."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched < 2:
        return None
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
    if state.num_processes != launched:
        raise ConfigError(
            f"{launched} processes were launched, but Accelerate sees {state.num_processes}; "
            "launch them with accelerate launch"
        )
    return state


def _sums(group: Any, *counts: int) -> list[int]:
    """Sums over all processes, each of which waits for the others."""
    import torch
    from accelerate.utils import reduce

    sums: list[int] = reduce(torch.tensor(counts, device=group.device), "sum").tolist()
    return sums


def encode_locally(
    encoder: Embedder, names: pa.ChunkedArray, groups: Iterable[Rows], _: Path, *, min_batch: int = MIN_BATCH
) -> Iterator[tuple[Rows, Floats]]:
    """A `GroupEncoder` in this process, for an encoder."""
    for group in groups:
        yield group, encode_group(names_at(names, group), encoder, min_batch=min_batch)


def encode_group(names: list[str], encoder: Embedder, *, min_batch: int = MIN_BATCH) -> Floats:
    """(n, dimension) vectors of a group of names, the same in each process."""
    vectors = encoder.encode(names + names[-1:] * (min_batch - len(names)))[: len(names)]
    trim_malloc()
    return vectors


def names_at(names: pa.ChunkedArray, rows: Rows) -> list[str]:
    """Names of (m,) rows that are close together; `take` on the whole column would read too much."""
    first = int(rows.min())
    found: list[str] = names.slice(first, int(rows.max()) + 1 - first).take(pa.array(rows - first)).to_pylist()
    return found
