"""Link one column of a CSV file and print the best concept of each row.

python examples/link_column.py INDEX terms.csv term
"""

import csv
import sys
from pathlib import Path

from xsap import Linker


def main(index: str, file: str, column: str) -> None:
    """Print term, concept, preferred name and score, separated by tabs."""
    linker = Linker.load(index)
    with Path(file).open(encoding="utf-8", newline="") as stream:
        terms = [row[column] for row in csv.DictReader(stream)]
    for result in linker.link(terms, top_k=1):
        if result.candidates:
            best = result.candidates[0]
            print(result.mention, best.concept_id, best.name, f"{best.score:.3f}", sep="\t")
        else:
            print(result.mention, "-", result.reason, "-", sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
