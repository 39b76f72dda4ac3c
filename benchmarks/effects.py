"""What case and cosine do: a model's Acc@1 with mention and dictionary as they stand or lower-cased, by cosine or by dot product.

The original evaluation lower-cases one side only, and compares raw vectors; its users ask what that costs. Each of the eight cells gives the model
the text as the cell says, past its own text policy, and counts concepts.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy import by_language
from benchmarks.baselines import NameLinker, Names, Search
from benchmarks.models import AS_IT_STANDS, LOWER, Model
from benchmarks.tasks import Task
from xsap.artifacts import open_artifact, publish
from xsap.linking.evaluation import concept_ranks
from xsap.linking.metrics import hits, macro_mean
from xsap.linking.ranking import Find
from xsap.linking.search import Floats, search
from xsap.text import TextPolicy, normalise_all

CASES = {"cased": AS_IT_STANDS, "lower": LOWER}
PRODUCTS = ("cosine", "dot")
_FILE = "effects.json"


def kept_effects(task: Task, model: Model, place: Path) -> list[dict[str, Any]]:
    """`effects_of`, out of a folder where an earlier run has left them, or else left there."""
    if not place.is_dir():
        rows = effects_of(task, model)
        with publish(place, "effects", {"task": task.name}) as aside:
            (aside / _FILE).write_text(json.dumps(rows), encoding="utf-8")
    open_artifact(place, "effects")
    kept: list[dict[str, Any]] = json.loads((place / _FILE).read_text(encoding="utf-8"))
    return kept


def effects_of(task: Task, model: Model) -> list[dict[str, Any]]:
    """Eight rows: mention, dictionary, product, and the mean Acc@1 over languages."""
    rows = []
    asked = {mention: _vectors_of(task, model, policy) for mention, policy in CASES.items()}
    for dictionary, policy in CASES.items():
        names = Names.of(task.space, policy)
        raw = model.vectors(normalise_all(names.texts, policy), unit=False, policy=AS_IT_STANDS)
        for product in PRODUCTS:
            vectors = _unit(raw) if product == "cosine" else raw
            for mention, queries in asked.items():
                find = _comparing(vectors, queries)
                linker = NameLinker(task.space, names, find, find, -np.inf)
                ranks = np.array(concept_ranks(linker, task.mentions, 1, composite=task.composite)[0])
                score = macro_mean([hits(ranks[chosen], 1) for chosen in by_language(task).values()])
                rows.append({"mention": mention, "dictionary": dictionary, "product": product, "acc@1": score})
    return rows


def _vectors_of(task: Task, model: Model, policy: TextPolicy) -> dict[str, Floats]:
    """Of each mention, and of each part of a composite one."""
    wholes = task.mentions["mention"].to_pylist()
    texts = list(dict.fromkeys(part for whole in wholes for part in (whole.split("|") if task.composite else [whole])))
    return dict(zip(texts, model.encoder.encode(texts, unit=False, policy=policy), strict=True))


def _comparing(vectors: Floats, queries: dict[str, Floats]) -> Search:
    def find(mentions: Sequence[str]) -> Find:
        asked = np.stack([queries[mention] for mention in mentions])
        return lambda part, k: search(vectors, asked[part], k)

    return find


def _unit(vectors: Floats) -> Floats:
    """Of length 1. Dividing the dictionary's is enough: a query's length does not change the order of its candidates."""
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return unit
