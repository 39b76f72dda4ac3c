"""What the original SapBERT notebook does with a UMLS release, written anew from its description: the rival of `xsap-prepare umls`.

It reads MRCONSO and MRREL into lists of lines, lower-cases every name, takes whatever language and suppressed row there is, makes a set of
`id||name` strings, gives a concept the names of the last of its trade-name relations, and writes at most 50 pairs a concept, drawn at
random without a seed. Source: data/generate_pretraining_data.ipynb of github.com/cambridgeltl/sapbert, with all languages taken.
A program of its own (`python -m benchmarks.speed.notebook META OUT`), so that its memory can be told from ours.
"""

import random
import sys
from itertools import combinations
from pathlib import Path

MOST_PAIRS = 50


def training_pairs(meta: Path, *, tradenames: bool) -> list[str]:
    """The lines `id||name||name` of a release."""
    rows = _lines(meta / "MRCONSO.RRF")
    named = []
    for row in rows:
        cells = row.split("|")
        named.append(f"{cells[0]}||{cells[14].lower()}")
    named = list(set(named))
    if tradenames:
        named = list(set(named + _inherited(_lines(meta / "MRREL.RRF"), _by_concept(named))))
    pairs = []
    for concept, names in _by_concept(named).items():
        both = list(combinations(names, 2))
        if len(both) > MOST_PAIRS:
            both = random.sample(both, MOST_PAIRS)
        pairs += [f"{concept}||{left}||{right}" for left, right in both]
    return pairs


def _lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="\n") as stream:
        return stream.readlines()


def _by_concept(named: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in named:
        concept, _, name = row.partition("||")
        found.setdefault(concept, []).append(name)
    return found


def _inherited(relations: list[str], by_concept: dict[str, list[str]]) -> list[str]:
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
