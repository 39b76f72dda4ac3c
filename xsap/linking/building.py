"""An index built on disk, in little memory: names stand in memory as Arrow has them, vectors go to disk shard by shard.

A build that was killed goes on with the shards that are there. Which rows a shard has follows from the terminology, the model and the memory
alone, so a build in several sittings, by several processes, or in parts on several machines gives the same files as one at a stretch. Within a
shard names are encoded shortest first: so one long name makes no short ones wait.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from xsap.artifacts import refuse_to_replace
from xsap.errors import ConfigError
from xsap.languages import ENGLISH
from xsap.linking.contents import Contents
from xsap.linking.index import Embedder, Model
from xsap.linking.memory import check_memory, rows_a_shard
from xsap.linking.parts import Built, assemble, seal
from xsap.linking.search import check_finite
from xsap.linking.shards import Floats, Plan, missing, open_shards, write_shard
from xsap.linking.unique import contents_of, on_disk
from xsap.linking.updating import Old
from xsap.linking.vectors import Storage

_AT_ONCE = 4096  # names encoded between two moves of the bar
_FEWEST = 64  # names encoded at once: with fewer, how a product is rounded depends on their number
_PATIENCE = timedelta(hours=24)  # with processes that still encode


def build_index(
    terminology: Path | str,
    encoder: Embedder,
    out: Path | str,
    *,
    model_path: Path | str | None = None,
    languages: Collection[str] | None = (ENGLISH,),
    storage: Storage = "float32",
    memory: int | None = None,
    update: Path | str | None = None,
    shard: tuple[int, int] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Built | None:
    """Embed the names that a terminology's folder has in these ISO languages (None: all), into an index's folder.

    memory: bytes that the process may take. update: an index of the same model, whose vectors are taken over. shard: (i, N) makes only the
    i-th of N parts, from 1, for `merge_shards`. Where Accelerate has launched several processes each encodes its share, and all but the
    first return None. Raises ConfigError for too little memory, DataError if there is no such name or a vector isn't finite, ArtifactError
    if something is damaged, doesn't fit or is in the way.
    """
    out = Path(out).absolute()
    refuse_to_replace(out, overwrite=overwrite)
    model = Model.of(encoder, model_path)
    if model.content is None:
        raise ConfigError("an index is bound to a model folder, but this one's model was never saved; save it, load it, build again")
    if shard is not None:
        parse_shard(f"{shard[0]}/{shard[1]}")
    source = on_disk(terminology)
    dimension = encoder.encode(["name"] * _FEWEST).shape[1]
    if memory is not None:
        check_memory(memory, terminology, languages, dimension)
    contents = contents_of(source, languages, encoder.policy)
    old = Old.open(update, encoder, contents.names["name"], storage) if update is not None else None
    chosen = None if languages is None else sorted(languages)
    content, names = str(source.content), contents.names.num_rows
    plan = Plan(content, model.facts(), chosen, old.content if old else None, names, dimension, rows_a_shard(memory, dimension), storage)
    folder, group = out.parent / f".{out.name}.part", together()
    first = group is None or group.is_main_process
    own = list(range(plan.shards) if shard is None else range(shard[0] - 1, plan.shards, shard[1]))
    if first:
        open_shards(folder, plan)
    if group is not None:
        group.wait_for_everyone()
    mine = own if group is None else own[group.process_index :: group.num_processes]
    encoded, found = _encode(contents, encoder, plan, folder, mine, old, progress and first)
    if group is not None:
        encoded, found = _sums(group, encoded, found)
    if not first:
        return None
    if shard is None:
        assemble(out, model, plan, contents, lambda _: folder, overwrite=overwrite)
    else:
        seal(out, model, plan, contents, folder, own, shard, overwrite=overwrite)
    shutil.rmtree(folder)
    return Built(names, contents.concepts.num_rows, contents.dropped, encoded, found, *((old.kept, old.lost) if old else ()))


def together() -> Any:
    """Accelerate's PartialState where several processes were launched; None where this one is alone. Raises ConfigError if they don't meet."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched < 2:
        return None
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
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


def _encode(
    contents: Contents, encoder: Embedder, plan: Plan, folder: Path, shards: Sequence[int], old: Old | None, progress: bool
) -> tuple[int, int]:
    """Make those of the shards that are missing; how many names were encoded, and how many stood in the others."""
    wanted = missing(folder, plan, shards)
    sizes = {shard: plan.of(shard).stop - plan.of(shard).start for shard in shards}
    found = sum(sizes.values()) - sum(sizes[shard] for shard in wanted)
    taken = {shard: np.full(sizes[shard], -1) if old is None else old.rows[plan.of(shard)] for shard in wanted}
    kept = sum(int((rows >= 0).sum()) for rows in taken.values())
    total = sum(sizes.values())
    with tqdm(total=total, initial=found + kept, desc="encode", unit=" names", unit_scale=True, disable=not progress) as bar:
        bar.set_postfix_str(", ".join(f"{n:,} {what}" for n, what in ((found, "from an earlier run"), (kept, "from the old index")) if n))
        for shard in wanted:
            rows, vectors = taken[shard], np.empty((sizes[shard], plan.dimension), np.float32)
            new = np.flatnonzero(rows < 0)
            if old is not None and len(new) < len(rows):
                vectors[rows >= 0] = old.take(rows[rows >= 0])
            names = contents.names["name"].slice(plan.of(shard).start, sizes[shard]).to_pylist()
            vectors[new] = _vectors([names[row] for row in new.tolist()], encoder, plan.dimension, bar.update)
            check_finite(vectors, "vectors")
            write_shard(folder, plan, shard, vectors)
    return total - found - kept, found


def _vectors(names: list[str], encoder: Embedder, dimension: int, tell: Callable[[int], object]) -> Floats:
    """(n, dimension). tell: how many more are done."""
    order = sorted(range(len(names)), key=lambda row: len(names[row]))
    vectors = np.empty((len(names), dimension), np.float32)
    for start in range(0, len(order), _AT_ONCE):
        part = order[start : start + _AT_ONCE]
        asked = part + part[-1:] * (_FEWEST - len(part))
        vectors[part] = encoder.encode([names[row] for row in asked])[: len(part)]
        tell(len(part))
    return vectors
