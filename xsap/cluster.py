"""Encode names and link mentions on a Ray cluster (https://docs.ray.io), where one machine is too small.

Every worker opens the model, and for linking the index, by its path, so all nodes must have them at this path; their
hashes are compared. Workers encode and link in the same batches as a single machine, so the results are equal.

Names of an index go through Ray Data: row numbers out, vectors back, in order, and only as fast as they are written. A
table is linked by actors instead, because Ray Data reads all of its input first, but what a chunk asks depends on the
chunks before it; and the chunk of a dead node has to go to another actor at once, because later rows wait for it.

`encode_dataset` and `link_dataset` are for Ray's own datasets, between its own readers and writers:

    ray.data.read_parquet("notes/") → link_dataset(…, "index", column="term") → .write_parquet("linked/")

Each block of rows is linked separately, so a mention is linked once per block; `xsap link --ray` links it only once.
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
from xsap.linking.encoder_spec import EncoderSpec, short_hash
from xsap.linking.index_files import INDEX_KIND, index_hash
from xsap.linking.linker import Linker
from xsap.linking.ranking import Filter
from xsap.linking.rerank_choice import LATE, NO_RERANKING, choice_identity
from xsap.search.vectors import Floats, Rows
from xsap.tabular.answers import Answer, with_answers
from xsap.tabular.link_file import Query, answers_to, queries_of

if TYPE_CHECKING:
    from ray.data import Dataset

ROWS_PER_BATCH = 4096  # of a dataset
_CPUS_PER_WORKER = 4  # where a node has as many: each worker has its own copy of the model
_ATTEMPTS = 20  # with a chunk, a second apart, while workers die or restart
_START_SECONDS = 600  # that the first worker may take to start
_CONNECT_SECONDS = 10
_NAMES = "names.arrow"
_RERUN = "run the same command again to resume"


class WorkerSpec(NamedTuple):
    """What each of a cluster's workers has, and how many there are."""

    cpus: int
    gpus: int
    workers: int
    version: str = __version__

    def resources(self) -> dict[str, float]:
        """What Ray reserves for a worker."""
        return {"num_gpus": self.gpus} if self.gpus else {"num_cpus": self.cpus}

    def start_worker(self) -> str | None:
        """Make this process a worker; returns its model's device, None for the best. Raises ConfigError."""
        if self.version != __version__:
            raise ConfigError(
                f"node {socket.gethostname()} has xsap {__version__}, found {self.version} here; "
                "install the same version everywhere"
            )
        torch.set_num_threads(self.cpus)
        return None if self.gpus else "cpu"


def connect(address: str) -> WorkerSpec:
    """Connect to a cluster: "auto" for that of this machine, host:port, or "local" to start one on this machine.

    Raises ConfigError if Ray is not installed, or there is no such cluster.
    """
    found = re.fullmatch(r"([^/]+):([0-9]{1,5})", address)
    if found is None and address not in ("auto", "local"):
        raise ConfigError(
            f"expected auto, local or host:port of a Ray cluster, found {address}; "
            "run the command on one of its machines"
        )
    ray = find_ray()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        if found:  # Ray itself would try for minutes
            socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=_CONNECT_SECONDS).close()
        ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False, ignore_reinit_error=True, **options)
    except (OSError, OverflowError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"can't connect to a Ray cluster at {address} ({error}); start one with: ray start --head"
        ) from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    return worker_spec(ray)


def find_ray() -> Any:
    """The module ray, with ray.data. Raises ConfigError if it is not installed."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("a cluster needs Ray; install it here and on every node: pip install 'xsap[ray]'") from None
    return ray


def worker_spec(ray: Any) -> WorkerSpec:
    """A worker for each GPU, or without any for every few CPUs of a node. Raises ConfigError if there are neither."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return WorkerSpec(1, 1, gpus)
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ConfigError("the Ray cluster has no CPU and no GPU; add a node: ray start --address=HOST:PORT")
    per_worker = min(_CPUS_PER_WORKER, *cpus)
    return WorkerSpec(per_worker, 0, sum(n // per_worker for n in cpus))


def model_location(model: Path | str) -> str:
    """A folder's absolute path; a hub id as it is."""
    return str(Path(model).absolute()) if Path(model).exists() else str(model)


class IndexLocation(NamedTuple):
    """An index as workers open it.

    Attributes:
        path: Its absolute path.
        content_hash: Of the index.
        options: Of `Linker.load`, with the absolute paths of the model and the re-ranker.
        reranker: Its content hash, or its name, if the options name one.
    """

    path: str
    content_hash: str
    options: dict[str, Any]
    reranker: str | None


def index_location(index: Path | str, options: Mapping[str, Any]) -> IndexLocation:
    """An index, by its folder and options of `Linker.load`. Raises ArtifactError if it is none, or the re-ranker is none."""
    places = {
        name: options[name] for name in ("model", "rerank") if options.get(name) not in (None, LATE, NO_RERANKING)
    }
    located = dict(options) | {name: model_location(given) for name, given in places.items()}
    content_hash = index_hash(read_manifest(index, INDEX_KIND))
    return IndexLocation(str(Path(index).absolute()), content_hash, located, _reranker(located))


def _reranker(options: Mapping[str, Any]) -> str | None:
    return (choice_identity(options.get("rerank")) or {}).get("reranker")


def check_hash(kind: str, path: str, found: str | None, expected: str | None) -> None:
    """Raise ArtifactError if what a node has at a path is not what the others have."""
    if found != expected:
        raise ArtifactError(
            f"{path} on node {socket.gethostname()} is another {kind} ({short_hash(found)}) than here "
            f"({short_hash(expected)}); use the same {kind} on all nodes"
        )


@contextmanager
def short_errors(ray: Any) -> Iterator[None]:
    """Raise a worker's XsapError as it was raised there, without Ray's report, and a failure of the cluster as OSError.

    The error of a dead actor is not changed.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and type(cause).__module__ != XsapError.__module__:
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise type(cause)(str(cause)) from None
        failed = isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError)
        if failed and not isinstance(error, ray.exceptions.RayActorError):
            raise OSError(f"the Ray cluster failed: {str(error).splitlines()[0]}; {_RERUN}") from None
        raise


def encode_groups(workers: WorkerSpec, model: Path | str, spec: EncoderSpec) -> GroupEncoder:
    """What `build_index` encodes with.

    Args:
        workers: Of the cluster.
        model: The model's folder, which all nodes must have, or its hub id.
        spec: The encoder of the index.
    """

    def encode(names: pa.ChunkedArray, groups: Iterable[Rows], folder: Path) -> Iterator[tuple[Rows, Floats]]:
        ray, table = find_ray(), pa.table({"name": names})
        tables = [pa.table({"rows": pa.array([group.astype(np.int32)], pa.list_(pa.int32()))}) for group in groups]
        if not tables:
            return
        with write_atomically(folder / _NAMES, binary=True) as stream, pa.ipc.new_file(stream, table.schema) as writer:
            writer.write_table(table)
        dataset = ray.data.from_arrow(tables).map_batches(
            EncodeWorker,
            fn_constructor_args=(workers, model_location(model), spec, folder / _NAMES),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(workers.workers, len(tables))),
            **workers.resources(),
        )
        dataset.context.execution_options.preserve_order = True  # so that one shard is in memory here, not many
        dataset.context.raise_original_map_exception = True
        with short_errors(ray):
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                vectors = batch["vector"].combine_chunks()
                yield batch["row"].to_numpy().astype(np.int64), vectors.flatten().to_numpy().reshape(len(vectors), -1)

    return encode


class EncodeWorker:
    """Encodes groups of an index's names. Opens all with the first group, as Ray reports only errors of calls."""

    def __init__(self, workers: WorkerSpec, model: str, spec: EncoderSpec, names: Path) -> None:
        self._workers, self._model, self._spec, self._file = workers, model, spec, names

    @cached_property
    def _opened(self) -> tuple[Encoder, pa.ChunkedArray]:
        spec, device = self._spec, self._workers.start_worker()
        options: dict[str, Any] = {"pooling": spec.pooling, "max_length": spec.max_length, "policy": spec.policy}
        options |= {"prompt": spec.prompts, "revision": spec.revision}
        encoder = Encoder.from_pretrained(self._model, device=device, **options | {"dtype": spec.dtype})
        check_hash("model", self._model, encoder.content_hash, spec.content_hash)
        if not self._file.is_file():
            raise ConfigError(
                f"{self._file} is missing on node {socket.gethostname()}; choose a folder for --out that all nodes have"
            )
        return encoder, pa.ipc.open_file(pa.memory_map(str(self._file))).read_all()["name"]

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A table of rows (lists of int32) → a table of row (int32) and vector (lists of float32)."""
        encoder, names = self._opened
        rows = np.concatenate([group.values.to_numpy() for group in batch["rows"]])
        vectors = encode_group(names_at(names, rows.astype(np.int64)), encoder)
        return pa.table({"row": rows, "vector": _to_lists(vectors)})


class RayLinkers:
    """The linkers of a cluster, for `link_file`."""

    def __init__(self, workers: WorkerSpec, index: Path | str, **options: Any) -> None:
        """Start the workers.

        Args:
            workers: The cluster's workers.
            index: The index's folder, which all nodes must have.
            options: Of `Linker.load`.

        Raises:
            ArtifactError: There is no index.
        """
        self._ray, self.at_once = find_ray(), workers.workers
        location = index_location(index, options)
        self.content_hash = location.content_hash
        kind = self._ray.remote(LinkWorker).options(max_restarts=-1, **workers.resources())
        actors = [kind.remote(workers, location) for _ in range(workers.workers)]
        self._starting = {actor.ready.remote(): actor for actor in actors}
        self._idle: SimpleQueue[Any] = SimpleQueue()

    def answers_to(
        self, queries: list[Query], top_k: int, *, by_language: bool, options: Mapping[str, Any]
    ) -> list[Answer]:
        """What `xsap.tabular.link_file.answers_to` returns, from the first free worker, or from others if it dies.

        Several threads may call it.
        """
        if not queries:
            return []
        for _ in range(_ATTEMPTS):
            actor = self._next_idle()
            try:
                with short_errors(self._ray):
                    call = actor.answers_to.remote(queries, top_k, by_language, dict(options))
                    answers: list[Answer] = self._ray.get(call)
                return answers
            except self._ray.exceptions.RayActorError:
                sleep(1)
            finally:
                self._idle.put(actor)
        raise OSError(f"workers of the Ray cluster died {_ATTEMPTS} times with the same mentions; {_RERUN}")

    def _next_idle(self) -> Any:
        """The next idle worker. One that never starts, because the cluster has no room for it, is never returned."""
        began = monotonic()
        while True:
            for reference, actor in list(self._starting.items()):
                if self._ray.wait([reference], timeout=0)[0] and self._starting.pop(reference, None):
                    self._idle.put(actor)
            try:
                return self._idle.get(timeout=0.2)
            except Empty:
                if len(self._starting) == self.at_once and monotonic() - began > _START_SECONDS:
                    raise OSError(
                        f"no worker of the Ray cluster started in {_START_SECONDS} s; is it busy? {_RERUN.capitalize()}"
                    ) from None


class LinkWorker:
    """A linker on a worker, opened with the first queries; its index and its re-ranker must have the given content hashes."""

    def __init__(self, workers: WorkerSpec, location: IndexLocation) -> None:
        self._workers, self._location = workers, location

    @cached_property
    def _linker(self) -> Linker:
        where = self._location
        linker = Linker.load(where.path, **({"device": self._workers.start_worker()} | where.options))
        check_hash("index", where.path, linker.index.content_hash, where.content_hash)
        check_hash("re-ranker", str(where.options.get("rerank")), _reranker(where.options), where.reranker)
        return linker

    def ready(self) -> None:
        """Returns once the worker has started."""

    def answers_to(self, queries: list[Query], top_k: int, by_language: bool, options: dict[str, Any]) -> list[Answer]:
        """The linker's answers to queries."""
        return answers_to(self._linker, queries, top_k, by_language=by_language, options=options)


def encode_dataset(
    dataset: "Dataset", model: Path | str, *, column: str, into: str = "vector", **options: Any
) -> "Dataset":
    """Add a column of unit vectors to a dataset.

    Args:
        dataset: A dataset of Ray.
        model: The model's folder, which all nodes must have, or its hub id.
        column: The column of names.
        into: The column to add, of lists of float32.
        options: Of `Encoder.from_pretrained`.
    """
    return _map_batches(dataset, DatasetEncoder, model_location(model), column, into, options)


def link_dataset(
    dataset: "Dataset",
    index: Path | str,
    *,
    column: str,
    language_column: str | None = None,
    top_k: int = 5,
    wide: bool = False,
    filter: Filter | None = None,  # noqa: A002
    min_confidence: float | None = None,
    min_precision: float | None = None,
    **options: Any,
) -> "Dataset":
    """Add the columns that `xsap link` writes to a dataset.

    Args:
        dataset: A dataset of Ray.
        index: The index's folder, which all nodes must have.
        column: The column of mentions.
        language_column: The column of their languages.
        top_k: Candidates of a mention.
        wide: Whether each mention has one row, and not one for each candidate.
        filter: As `Linker.link` has it.
        min_confidence: As `Linker.link` has it.
        min_precision: As `Linker.link` has it.
        options: Of `Linker.load`.

    Raises:
        ArtifactError: There is no index.
    """
    query = {"filter": filter, "min_confidence": min_confidence, "min_precision": min_precision}
    location = index_location(index, options)
    return _map_batches(dataset, DatasetLinker, location, column, language_column, top_k, wide, query)


def _map_batches(dataset: "Dataset", worker: type, *arguments: Any) -> "Dataset":
    ray = find_ray()
    workers = worker_spec(ray)
    mapped: Dataset = dataset.map_batches(
        worker,
        fn_constructor_args=(workers, *arguments),
        batch_size=ROWS_PER_BATCH,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers.workers),  # readers and writers need CPUs, too
        **workers.resources(),
    )
    return mapped


class DatasetEncoder:
    """An encoder on a worker, opened with the first batch."""

    def __init__(self, workers: WorkerSpec, model: str, column: str, into: str, options: Mapping[str, Any]) -> None:
        self._workers, self._model, self._column, self._into, self._options = workers, model, column, into, options

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder.from_pretrained(self._model, **({"device": self._workers.start_worker()} | dict(self._options)))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with their vectors."""
        names = [query.mention for query in queries_of(batch[self._column], None)]
        return batch.append_column(self._into, _to_lists(self._encoder.encode(names)))


class DatasetLinker:
    """A linker on a worker, opened with the first batch; `location` is an `index_location`."""

    def __init__(
        self,
        workers: WorkerSpec,
        location: IndexLocation,
        column: str,
        language_column: str | None,
        top_k: int,
        wide: bool,
        options: dict[str, Any],
    ) -> None:
        self._worker, self._column, self._language_column = LinkWorker(workers, location), column, language_column
        self._top_k, self._wide, self._options = top_k, wide, options

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows, or several of each, with their answers."""
        languages = None if self._language_column is None else batch[self._language_column]
        queries = queries_of(batch[self._column], languages)
        distinct = list(dict.fromkeys(queries))
        found = self._worker.answers_to(distinct, self._top_k, languages is not None, self._options)
        answers = dict(zip(distinct, found, strict=True))
        return with_answers(batch, [answers[query] for query in queries], wide=self._top_k if self._wide else None)


def _to_lists(vectors: Floats) -> pa.FixedSizeListArray:
    """(n, d) → n lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
