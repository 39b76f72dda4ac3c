"""XL-BEL: mentions from Wikipedia in ten languages, each with the UMLS concepts that it links to.

Liu et al., ACL 2021 (Learning Domain-Specialised Representations for Cross-Lingual Biomedical Entity Linking); files at
https://github.com/cambridgeltl/sapbert/tree/main/evaluation_data/xlbel_v1.0 and in xlbel.zip (v0.0). A line of v0.0 is
`CUI||mention`; v1.0 appends `||context`, in which `<tgt>` and `</tgt>` stand around the mention. `CUI|CUI` means that either is right.
A file holds one language, and says which only in its name (`de_1k_test_query.txt`). English v0.0 and v1.0 hold different mentions.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from benchmarks.corpora.corpus import collapse
from xsap.artifacts import read_lines
from xsap.errors import DataError
from xsap.languages import to_iso
from xsap.terms.mentions import build_mentions

_FORMAT = "an XL-BEL line CUI[|CUI…]||mention or CUI[|CUI…]||mention||context"
_IDS = re.compile(r"[A-Z]{0,2}\d+(\|[A-Z]{0,2}\d+)*")  # a few ids are local (CL508424, CN029274) or bare numbers
_OPEN, _CLOSE = "<tgt>", "</tgt>"


class _Row(NamedTuple):
    mention: str
    concept_ids: list[str]
    context: str | None = None
    start: int | None = None
    end: int | None = None


def read_xlbel(files: Sequence[Path], *, language: str | None = None) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA) of one or more files, in their order, nothing dropped.

    language: of files whose names don't say it. Raises DataError with file and line where a line is of another format.
    """
    rows: list[_Row] = []
    languages: list[str] = []
    for file in files:
        code = to_iso(language) if language else _language_of(file)
        lines = read_lines(file)
        if not lines:
            raise DataError(f"{file}: expected lines, each {_FORMAT}; found an empty file")
        rows += [_parse(line, f"{file}:{number}") for number, line in enumerate(lines, start=1)]
        languages += [code] * len(lines)
    mentions, concept_ids, *others = (list(column) for column in zip(*rows, strict=True))
    return build_mentions(
        mentions, languages, concept_ids, **dict(zip(("context", "start", "end"), others, strict=True))
    )


def _language_of(file: Path) -> str:
    try:
        return to_iso(file.name.split("_")[0])
    except DataError:
        raise DataError(
            f"{file}: its name doesn't begin with a language, as expected of XL-BEL (de_1k_test_query.txt); name it so, or say which it is: "
            "`mentions xlbel --language`"
        ) from None


def _parse(line: str, where: str) -> _Row:
    ids, _, rest = line.partition("||")
    mention, has_context, marked = rest.partition("||")
    mention = mention.strip()
    if not _IDS.fullmatch(ids) or not mention or mention.startswith("|"):
        raise DataError(f"{where}: expected {_FORMAT}; found '{line[:60]}'")
    if not has_context:
        return _Row(mention, ids.split("|"))
    before, opened, rest = marked.partition(_OPEN)
    inside, closed, after = rest.partition(_CLOSE)
    if not opened or not closed:
        raise DataError(f"{where}: expected {_OPEN}mention{_CLOSE} in the context; found '{marked[:60]}'")
    text = before + inside + after
    if inside != mention:  # one German line marks nothing: the text is kept, the place is unknown
        return _Row(mention, ids.split("|"), " ".join(text.split()))
    return _Row(mention, ids.split("|"), *collapse(text, len(before), len(before) + len(inside)))
