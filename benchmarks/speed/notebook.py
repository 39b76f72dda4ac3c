"""What the original SapBERT notebook does with a UMLS release, rewritten from its description.

`xsap-prepare umls` is compared with it. It reads MRCONSO and MRREL into lists of lines, lower-cases every name, takes
every language and every suppressed row, makes a set of `id||name` strings, gives a concept the names of the last of its
trade-name relations, and writes at most 50 pairs per concept, drawn at random without a seed. Source:
data/generate_pretraining_data.ipynb of github.com/cambridgeltl/sapbert, with all languages taken. It is a program of
its own (`python -m benchmarks.speed.notebook META OUT [--tradenames]`), so that its memory can be measured alone.
"""

import random
import sys
from itertools import combinations
from pathlib import Path

PAIRS_PER_CONCEPT = 50


def training_pairs(meta: Path, *, tradenames: bool) -> list[str]:
    """The lines `id||name||name` of a release."""
    rows = _read_lines(meta / "MRCONSO.RRF")
    names = []
    for row in rows:
        cells = row.split("|")
        names.append(f"{cells[0]}||{cells[14].lower()}")
    names = list(set(names))
    if tradenames:
        names = list(set(names + _tradenames(_read_lines(meta / "MRREL.RRF"), _by_concept(names))))
    pairs = []
    for concept, own in _by_concept(names).items():
        both = list(combinations(own, 2))
        if len(both) > PAIRS_PER_CONCEPT:
            both = random.sample(both, PAIRS_PER_CONCEPT)
        pairs += [f"{concept}||{left}||{right}" for left, right in both]
    return pairs


def _read_lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        return stream.readlines()


def _by_concept(rows: list[str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for row in rows:
        concept, _, name = row.partition("||")
        names.setdefault(concept, []).append(name)
    return names


def _tradenames(relations: list[str], by_concept: dict[str, list[str]]) -> list[str]:
    """`id||name` for the names of the last concept that each one has a trade-name relation with."""
    last = {}
    for row in relations:
        if "has_tradename" in row or "tradename_of" in row:
            cells = row.split("|")
            if cells[4] in by_concept:
                last[cells[0]] = by_concept[cells[4]]
    return [f"{concept}||{name}" for concept, names in last.items() for name in names]


if __name__ == "__main__":
    release, out = map(Path, sys.argv[1:3])
    with out.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{line}\n" for line in training_pairs(release, tradenames="--tradenames" in sys.argv))
