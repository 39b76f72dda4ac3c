"""COMETA: layman's terms from Reddit, each with a SNOMED CT concept for its literal and one for its contextual meaning.

Basaldella et al., EMNLP 2020 (COMETA: A Corpus for Medical Entity Linking in the Social Media); https://github.com/cambridgeltl/cometa.
The splits lie in `splits/<stratified|zeroshot>_<general|specific>/{train,dev,test}.csv` and are tab-separated, written by pandas (data/Split
Generator.ipynb there): cells with a quote, tab or newline in them stand in double quotes. Columns, read by name: an unnamed index, ID, Term,
General SNOMED Label, General SNOMED ID, Specific SNOMED Label, Specific SNOMED ID, Example, Example Link, Origin_Sheet. The example is a
tokenized post that holds the term or a spelling of it; where in it, the corpus doesn't say. Tested on a hand-written fragment in the published
format, not on the real files.
"""

import re
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa

from benchmarks.corpora.corpus import Row, ids_in, to_table, tsv_rows
from xsap.artifacts import read_lines
from xsap.errors import DataError
from xsap.languages import ENGLISH

Meaning: TypeAlias = Literal["general", "specific"]

_ID = {"general": "General SNOMED ID", "specific": "Specific SNOMED ID"}
_TERM, _EXAMPLE, _LINK = "Term", "Example", "Example Link"
_SCTID = re.compile(r"[0-9]{6,18}")  # SNOMED CT's own bounds


def read_cometa(path: Path, meaning: Meaning = "general") -> pa.Table:
    """Mentions (terms.mentions' SCHEMA) in the file's order, nothing dropped. document_id: the link to the post.

    path: a split's folder, such as stratified_general, for its test.csv, or one of its files. meaning: whose concept is the gold; SapBERT
    reads the general one. Raises DataError with file and line.
    """
    file = path / "test.csv" if path.is_dir() else path
    (_, header), *body = tsv_rows("\n".join(read_lines(file)), str(file)) or [(1, [])]
    wanted = (_TERM, _ID[meaning], _EXAMPLE, _LINK)
    if missing := [name for name in wanted if header.count(name) != 1]:
        raise DataError(
            f"{file}:1: expected COMETA's tab-separated columns, {', '.join(wanted)} among them; found no '{missing[0]}'"
        )
    if not body:
        raise DataError(f"{file}: expected a mention a line after the header, found none")
    at = [header.index(name) for name in wanted]
    rows: list[Row] = []
    for number, cells in body:
        if len(cells) != len(header):
            raise DataError(f"{file}:{number}: expected {len(header)} tab-separated cells, found {len(cells)}")
        rows.append(_row([cells[column] for column in at], f"{file}:{number}"))
    return to_table(rows, with_groups=False)


def _row(cells: list[str], where: str) -> Row:
    term, code, example, link = cells
    ids = ids_in(code)
    if not term.strip() or not all(map(_SCTID.fullmatch, ids)):
        raise DataError(f"{where}: expected a term and a SNOMED CT identifier; found '{term[:60]}' and '{code[:60]}'")
    return Row(term.strip(), ENGLISH, ids, " ".join(example.split()) or None, document_id=link.strip() or None)
