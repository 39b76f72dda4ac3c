"""COMETA: laypeople's terms from Reddit, with SNOMED CT concepts for their literal and their contextual meaning.

Basaldella et al., EMNLP 2020 (COMETA: A Corpus for Medical Entity Linking in the Social Media);
https://github.com/cambridgeltl/cometa. The splits are in
`splits/<stratified|zeroshot>_<general|specific>/{train,dev,test}.csv`, tab-separated, written by pandas (data/Split
Generator.ipynb there): cells with a quote, tab or newline are in double quotes. Columns, read by name: an unnamed
index, ID, Term, General SNOMED Label, General SNOMED ID, Specific SNOMED Label, Specific SNOMED ID, Example, Example
Link, Origin_Sheet. The example is a tokenized post that contains the term or a variant of it; the corpus does not say
where. Tested on a hand-written fragment in the published format, not on the real files.
"""

import re
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa

from xsap.errors import DataError
from xsap.files import read_lines
from xsap.languages import ENGLISH
from xsap.terms.corpus import Row, parse_ids, to_table, tsv_rows

Meaning: TypeAlias = Literal["general", "specific"]

_ID = {"general": "General SNOMED ID", "specific": "Specific SNOMED ID"}
_SCTID = re.compile(r"[0-9]{6,18}")  # SNOMED CT's own limits


def read_cometa(path: Path, meaning: Meaning = "general") -> pa.Table:
    """Mentions (terms.mentions' SCHEMA) in the file's order, none dropped.

    Args:
        path: The folder of a split, such as stratified_general, for its test.csv; or one of its files.
        meaning: Whose concept is the gold; SapBERT's evaluation reads the general one.

    Returns:
        A table whose `document_id` is the link to the post.

    Raises:
        DataError: With file and line.
    """
    file = path / "test.csv" if path.is_dir() else path
    (_, header), *body = tsv_rows("\n".join(read_lines(file)), str(file)) or [(1, [])]
    wanted = ("Term", _ID[meaning], "Example", "Example Link")
    if missing := [name for name in wanted if header.count(name) != 1]:
        expected = f"expected COMETA's tab-separated columns, {', '.join(wanted)} among them"
        raise DataError(f"{file}:1: {expected}; found no '{missing[0]}'")
    if not body:
        raise DataError(f"{file}: expected one mention per line after the header, found none")
    columns = [header.index(name) for name in wanted]
    rows: list[Row] = []
    for number, cells in body:
        if len(cells) != len(header):
            raise DataError(f"{file}:{number}: expected {len(header)} tab-separated cells, found {len(cells)}")
        rows.append(_row([cells[column] for column in columns], f"{file}:{number}"))
    return to_table(rows, with_groups=False)


def _row(cells: list[str], where: str) -> Row:
    term, code, example, link = cells
    ids = parse_ids(code)
    if not term.strip() or not all(map(_SCTID.fullmatch, ids)):
        raise DataError(f"{where}: expected a term and a SNOMED CT identifier; found '{term[:60]}' and '{code[:60]}'")
    return Row(term.strip(), ENGLISH, ids, " ".join(example.split()) or None, document_id=link.strip() or None)
