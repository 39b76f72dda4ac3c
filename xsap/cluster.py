"""A Ray cluster joined: what there is to work with, and its failures in one line (https://docs.ray.io; the extra `xsap[ray]`).

Names encoded and mentions linked on a Ray cluster, where one machine is too small.

Every worker opens the model, and for linking the index, by its path, so these must lie where all nodes find them; hashes show that they find
the same. What is encoded or linked together is what one machine takes together, so the results are the same, too.

An index's names stream through Ray Data: rows' numbers go out, vectors come back, in order, and only as fast as they are written. Linking a
file goes past Ray Data, to actors of our own. Ray Data takes all of its input before it begins, but what a chunk asks follows from the
chunks before it, and is put down beside the output when it is answered; and a dead node's chunk has to go to another actor at once,
for the rows after it wait. For Ray's own datasets there is `datasets.py`.

Datasets of Ray encoded and linked, between Ray's own readers and writers: nothing comes through the process that asks for it.

    ray.data.read_parquet("notes/") → link_dataset(…, "index", column="term") → .write_parquet("linked/")

Each block of rows is taken by itself, so a mention that stands in many blocks is linked as often; `xsap link --ray` links it once.
"""

import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from xsap import __version__
from xsap.artifacts import read_manifest, write_atomically
from xsap.encoding.encoder import Encoder
from xsap.errors import ArtifactError, ConfigError, XsapError
from xsap.linking.build import GroupEncoder, encode_group, names_at
from xsap.linking.index import KIND, EncoderSpec, index_hash, short_hash
from xsap.linking.linker import Linker
from xsap.linking.ranking import Filter
from xsap.search.vectors import Floats, Rows
from xsap.tabular.link_file import Query, answers_to, queries_of
from xsap.tabular.readers import Chunk
from xsap.tabular.writers import added, decode_answer, with_answers
from xsap.text import TextPolicy

if TYPE_CHECKING:
    from ray.data import Dataset


_THREADS = 4  # of a worker, where a node has as many: each has its own copy of the model


class WorkerSpec(NamedTuple):
    """What each of a cluster's workers has, and how many there are. device: as torch names it, None for the best."""

    cpus: int
    gpus: int
    workers: int
    version: str = __version__

    def resources(self) -> dict[str, float]:
        """Of Ray."""
        return {"num_gpus": self.gpus} if self.gpus else {"num_cpus": self.cpus}

    def start_worker(self) -> str | None:
        """Make this process one of the workers; the device that its model belongs on, None for the best. Raises ConfigError."""
        if self.version != __version__:
            raise ConfigError(
                f"node {socket.gethostname()} has xsap {__version__}; install the same everywhere, here it is {self.version}"
            )
        torch.set_num_threads(self.cpus)
        return None if self.gpus else "cpu"


def connect(address: str) -> WorkerSpec:
    """Join a cluster, quietly: 'auto' for the one that this machine belongs to, host:port, or 'local' to start one on this machine alone.

    Raises ConfigError if Ray isn't installed, or no cluster is there.
    """
    found = re.fullmatch(r"([^/]+):([0-9]{1,5})", address)
    if found is None and address not in ("auto", "local"):
        raise ConfigError(
            f"expected auto, local or host:port of a Ray cluster, found {address}; run the command on one of its machines"
        )
    ray = find_ray()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        if found:
            socket.create_connection(
                (found[1].strip("[]"), int(found[2])), timeout=10
            ).close()  # Ray would try for minutes
        ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False, ignore_reinit_error=True, **own)
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"no Ray cluster can be joined at {address} ({error}); start one with: ray start --head"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    return worker_spec(ray)


def find_ray() -> Any:
    """The module, with ray.data. Raises ConfigError."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("a cluster needs Ray; install it here and on every node: pip install 'xsap[ray]'") from None
    return ray


def worker_spec(ray: Any) -> WorkerSpec:
    """A worker for each GPU, or without any for every few CPUs of a node. Raises ConfigError for a cluster that has neither."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return WorkerSpec(1, 1, gpus)
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ConfigError(
            "the Ray cluster has no CPU and no GPU to work with; add a node: ray start --address=HOST:PORT"
        )
    own = min(_THREADS, *cpus)
    return WorkerSpec(own, 0, sum(n // own for n in cpus))


def model_location(model: Path | str) -> str:
    """A folder's path from anywhere; a hub id as it is."""
    return str(Path(model).absolute()) if Path(model).exists() else str(model)


@contextmanager
def short_errors(ray: Any) -> Iterator[None]:
    """A worker's XsapError as it was raised there, without Ray's account of it; a failure of the cluster as OSError, but for a dead actor's."""
    try:
        yield
    except Exception as error:
        told: BaseException | None = error
        while told is not None and type(told).__module__ != XsapError.__module__:
            told = getattr(told, "cause", None) or told.__cause__
        if told is not None:
            raise type(told)(str(told)) from None
        failed = isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError)
        if failed and not isinstance(error, ray.exceptions.RayActorError):
            raise OSError(
                f"the Ray cluster failed: {str(error).splitlines()[0]}; run the same command again, it goes on"
            ) from None
        raise


_TRIES = 20  # with a chunk, a second apart, while workers die or start again
_START = 600  # seconds that the first worker may take to start
_NAMES = "names.arrow"


def encode_groups(share: WorkerSpec, model: Path | str, metadata: Mapping[str, Any]) -> GroupEncoder:
    """What `build_index` encodes with. model: where every node has it, or its hub id. facts: `Model.metadata()` of it."""

    def encoded(names: pa.ChunkedArray, groups: Iterable[Rows], folder: Path) -> Iterator[tuple[Rows, Floats]]:
        ray, table = find_ray(), pa.table({"name": names})
        tables = [pa.table({"rows": pa.array([group.astype(np.int32)], pa.list_(pa.int32()))}) for group in groups]
        if not tables:
            return
        with write_atomically(folder / _NAMES, binary=True) as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
        dataset = ray.data.from_arrow(tables).map_batches(
            EncodeWorker,
            fn_constructor_args=(share, model_location(model), dict(metadata), folder / _NAMES),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(share.workers, len(tables))),
            **share.resources(),
        )
        dataset.context.execution_options.preserve_order = True  # so that one shard is under way here, not many
        dataset.context.raise_original_map_exception = True
        with short_errors(ray):
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                vectors = batch["vector"].combine_chunks()
                yield batch["row"].to_numpy().astype(np.int64), vectors.flatten().to_numpy().reshape(len(vectors), -1)

    return encoded


class RayLinkers:
    """A cluster's linkers for `link_file`. options: of `Linker.load`. Raises ArtifactError for what is no index."""

    def __init__(self, share: WorkerSpec, index: Path | str, **options: Any) -> None:
        self._ray, self.at_once = find_ray(), share.workers
        place, self.content_hash, placed = index_of(index, options)
        kind = self._ray.remote(LinkWorker).options(max_restarts=-1, **share.resources())
        actors = [kind.remote(share, place, self.content_hash, placed) for _ in range(share.workers)]
        self._starting = {actor.ready.remote(): actor for actor in actors}
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def answers_to(
        self, keys: list[Query], top_k: int, *, by_language: bool, options: Mapping[str, Any]
    ) -> list[bytes]:
        """By the first worker that is free; by another if it dies. Several threads may call it."""
        if not keys:
            return []
        for _ in range(_TRIES):
            actor = self._free()
            try:
                with short_errors(self._ray):
                    lines: list[bytes] = self._ray.get(actor.answers_to.remote(keys, top_k, by_language, dict(options)))
                return lines
            except self._ray.exceptions.RayActorError:
                sleep(1)
            finally:
                self._idle.put(actor)
        raise OSError(
            f"workers of the Ray cluster died {_TRIES} times with the same mentions; run the same command again, it goes on"
        )

    def _free(self) -> Any:
        """The next worker that has nothing to do. One that can't start, for want of room, is never asked."""
        waited = monotonic()
        while True:
            for reference, actor in list(self._starting.items()):
                if self._ray.wait([reference], timeout=0)[0] and self._starting.pop(reference, None):
                    self._idle.put(actor)
            try:
                return self._idle.get(timeout=0.2)
            except Empty:
                if len(self._starting) == self.at_once and monotonic() - waited > _START:
                    raise OSError(
                        f"no worker of the Ray cluster could start in {_START} s; has it room? Run the same command again"
                    ) from None


class EncodeWorker:
    """Encodes groups of an index's names, on a worker. facts: of the model that it is built with. names: the file that has them.

    What it needs is opened with the first group: Ray tells what goes wrong in a call, but not in the making of a worker.
    """

    def __init__(self, share: WorkerSpec, model: str, metadata: Mapping[str, Any], names: Path) -> None:
        self._share, self._model, self._metadata, self._file = share, model, metadata, names

    @cached_property
    def _opened(self) -> tuple[Encoder, pa.ChunkedArray]:
        here, metadata = f"on node {socket.gethostname()}", self._metadata
        described = {
            "pooling": metadata["pooling"],
            "max_length": metadata["max_length"],
            "policy": TextPolicy(**metadata["text"]),
            "dtype": metadata["dtype"],
        }
        encoder = Encoder.from_pretrained(self._model, device=self._share.start_worker(), **described)
        if encoder.content_hash != metadata["content"]:
            raise ArtifactError(
                f"{self._model} {here} is another model ({short(encoder.content_hash)}) than here ({short(metadata['content'])})"
            )
        if not self._file.is_file():
            raise ConfigError(f"{self._file} is not there {here}; choose a place for --out that all nodes have")
        return encoder, pa.ipc.open_file(pa.memory_map(str(self._file))).read_all()["name"]

    def __call__(self, batch: pa.Table) -> pa.Table:
        """rows: lists of int32. Returns row: int32, vector: lists of float32."""
        encoder, names = self._opened
        rows = np.concatenate([group.values.to_numpy() for group in batch["rows"]])
        return pa.table(
            {"row": rows, "vector": lists_of(encode_group(names_at(names, rows.astype(np.int64)), encoder))}
        )


class LinkWorker:
    """A linker on a worker, opened with the first question. content: the hash that its index must have. options: of `Linker.load`."""

    def __init__(self, share: WorkerSpec, index: str, content_hash: str, options: Mapping[str, Any]) -> None:
        self._share, self._index, self._content_hash, self._options = share, index, content_hash, options

    @cached_property
    def _linker(self) -> Linker:
        linker = Linker.load(self._index, **({"device": self._share.start_worker()} | dict(self._options)))
        if linker.index.content_hash != self._content_hash:
            found, node = short(linker.index.content_hash), socket.gethostname()
            raise ArtifactError(
                f"{self._index} on node {node} is another index ({found}) than here ({short(self._content_hash)})"
            )
        return linker

    def ready(self) -> None:
        """Returns once the worker is there."""

    def answers_to(self, keys: list[Query], top_k: int, by_language: bool, options: dict[str, Any]) -> list[bytes]:
        """As asking.py has it."""
        return answers_to(self._linker, keys, top_k, by_language=by_language, options=options)


def index_of(index: Path | str, options: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """An index's place, its content hash, and options of `Linker.load`, as a worker takes them. Raises ArtifactError."""
    placed = dict(options) | ({"model": model_location(options["model"])} if options.get("model") is not None else {})
    return str(Path(index).absolute()), hash_of_index(read_manifest(index, KIND)), placed


def lists_of(vectors: Floats) -> pa.FixedSizeListArray:
    """(n, d) → n lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


_AT_ONCE = 4096  # rows


def encode_dataset(
    dataset: "Dataset", model: Path | str, *, column: str, into: str = "vector", **options: Any
) -> "Dataset":
    """A dataset with unit vectors, as lists of float32, beside a column of names. options: of `Encoder.from_pretrained`."""
    return _mapped(dataset, DatasetEncoder, model_location(model), column, into, options)


def link_dataset(
    dataset: "Dataset",
    index: Path | str,
    *,
    column: str,
    language_column: str | None = None,
    top_k: int = 5,
    wide: bool = False,
    filter: Filter | None = None,
    min_confidence: float | None = None,
    min_precision: float | None = None,
    **options: Any,
) -> "Dataset":
    """A dataset with concepts beside a column of mentions, in the columns that `xsap link` writes.

    wide: a row for each mention, not for each candidate. keep, threshold, min_precision: as `Linker.link` has them. options: of `Linker.load`.
    Raises ArtifactError for what is no index.
    """
    asked = {"keep": filter, "threshold": min_confidence, "min_precision": min_precision}
    return _mapped(dataset, DatasetLinker, *index_of(index, options), column, language_column, top_k, wide, asked)


def _mapped(dataset: "Dataset", work: type, *arguments: Any) -> "Dataset":
    ray = find_ray()
    share = worker_spec(ray)
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=share.workers)  # what reads and writes needs room, too
    mapped: Dataset = dataset.map_batches(
        work,
        fn_constructor_args=(share, *arguments),
        batch_size=_AT_ONCE,
        batch_format="pyarrow",
        compute=pool,
        **share.resources(),
    )
    return mapped


class DatasetEncoder:
    """An encoder on a worker, opened with the first batch."""

    def __init__(self, share: WorkerSpec, model: str, column: str, into: str, options: Mapping[str, Any]) -> None:
        self._share, self._model, self._column, self._into, self._options = share, model, column, into, options

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder.from_pretrained(self._model, **({"device": self._share.start_worker()} | dict(self._options)))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with their vectors."""
        names = [name for name, _ in queries_of(batch[self._column], None)]
        return batch.append_column(self._into, lists_of(self._encoder.encode(names)))


class DatasetLinker:
    """A linker on a worker. linker: as `LinkWorker` is told of it."""

    def __init__(
        self,
        share: WorkerSpec,
        index: str,
        content_hash: str,
        options: Mapping[str, Any],
        column: str,
        language_column: str | None,
        top_k: int,
        wide: bool,
        asked: dict[str, Any],
    ) -> None:
        self._linking = LinkWorker(share, index, content_hash, options)
        self._column, self._language_column, self._top_k, self._wide, self._asked = (
            column,
            language_column,
            top_k,
            wide,
            asked,
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows, or several of each, with their answers."""
        languages = None if self._language_column is None else batch[self._language_column]
        keys = queries_of(batch[self._column], languages)
        distinct = list(dict.fromkeys(keys))
        lines = self._linking.answers_to(distinct, self._top_k, languages is not None, self._asked)
        answers = dict(zip(distinct, map(decode_answer, lines), strict=True))
        wide = self._top_k if self._wide else None
        sheet = with_answers(Chunk(batch.column_names, batch.columns), [answers[key] for key in keys], wide=wide)
        types = [*batch.schema.types, *added(batch.column_names, wide=wide)[1]]
        columns = [
            pa.array(column, of) if isinstance(column, list) else column
            for column, of in zip(sheet.columns, types, strict=True)
        ]
        return pa.table(columns, names=sheet.header)
