"""General-domain translations as a terminology: MUSE dictionaries, pairs of Wikipedia titles, any file of two columns.

Each line is a word or phrase and its translation, and becomes a concept of two names, so training can use the pairs as auxiliary data
(setting `auxiliary`), as in Liu et al. (ACL 2021, §2.2). MUSE separates by a space or a tab (https://github.com/facebookresearch/MUSE), title
lists by a tab, the original SapBERT code by `||` with an identifier before.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.accounting import Rejects, reject, rejected_rows
from data_prep.assemble import Assembly
from xsap.artifacts import sha256_of
from xsap.errors import ConfigError, DataError
from xsap.files import RowCounts, read_lines
from xsap.languages import to_iso
from xsap.terms.terminology import NAMES_SCHEMA
from xsap.text import EXACT_MATCH, TextPolicy, normalize

NAMES_PER_BATCH = 100_000


def read_bitext(
    files: Sequence[Path],
    assembly: Assembly,
    *,
    languages: str,
    source: str | None = None,
    rejects: Rejects | None = None,
) -> tuple[RowCounts, dict[str, Any]]:
    """Add the pairs of files to a terminology; a pair of equal strings (under EXACT_MATCH) and a repeated pair are dropped.

    Args:
        files: The files.
        assembly: Takes the names.
        languages: Of the first and the second column, such as `en,de`.
        source: The source of the names; by default the file's name without suffix.
        rejects: Collects malformed lines, which otherwise are an error.

    Returns:
        What happened to each name, and the manifest's metadata.

    Raises:
        DataError: With file and line.
        ConfigError: `languages` is not two different languages.
    """
    left, right = _two_languages(languages)
    rows_in, kept, dropped, known = 0, 0, Counter[str](), set[tuple[str, str]]()
    for file in files:
        rows: list[tuple[str, str, str]] = []
        for number, pair in _pairs(file, rejects):
            names = tuple(normalize(name, TextPolicy()) for name in pair)
            key = (normalize(pair[0], EXACT_MATCH), normalize(pair[1], EXACT_MATCH))
            rows_in += 2
            reason = (
                "no name"
                if not all(names)
                else "both names equal"
                if key[0] == key[1]
                else "repeated pair"
                if key in known
                else None
            )
            known.add(key)
            if reason:
                dropped[reason] += 2
                continue
            concept = f"{file.stem}:{number}"
            rows += [(concept, left, names[0]), (concept, right, names[1])]
            kept += 2
            if len(rows) >= NAMES_PER_BATCH:
                assembly.add_names(_table(rows, source or file.stem))
                rows = []
        assembly.add_names(_table(rows, source or file.stem))
    metadata = {"reader": "bitext", "languages": [left, right], "files": {file.name: sha256_of(file) for file in files}}
    return RowCounts(rows_in, kept, dropped) + rejected_rows(rejects, files), metadata


def _two_languages(languages: str) -> tuple[str, str]:
    codes = [to_iso(code) for code in languages.split(",") if code.strip()]
    if len(codes) != 2 or codes[0] == codes[1]:
        raise ConfigError(f"expected the languages of the two columns such as en,de, found '{languages}'")
    return codes[0], codes[1]


def _pairs(file: Path, rejects: Rejects | None) -> Iterator[tuple[int, tuple[str, str]]]:
    """(line number, (first name, second name)) of each line that is not blank. Raises DataError with line."""
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        parts = line.split("||") if "||" in line else line.split("\t") if "\t" in line else line.split()
        pair = parts[1:] if "||" in line and len(parts) == 3 else parts
        if len(pair) == 2:
            yield number, (pair[0], pair[1])
        else:
            expected = "expected two columns separated by a tab, a space or ||"
            error = DataError(f"{file}:{number}: {expected}, found {len(parts)}; separate phrases by a tab")
            reject(rejects, file, number, error)


def _table(rows: list[tuple[str, str, str]], source: str) -> pa.Table:
    concepts, languages, names = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {
        "concept_id": concepts,
        "language": languages,
        "name": names,
        "kind": ["synonym"] * len(rows),
        "source": [source] * len(rows),
    }
    return pa.table({f.name: pa.array(columns.get(f.name, [None] * len(rows)), f.type) for f in NAMES_SCHEMA})
