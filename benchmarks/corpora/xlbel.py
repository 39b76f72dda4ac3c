"""XL-BEL: mentions from Wikipedia in ten languages, each with the UMLS concepts that it links to.

Liu et al., ACL 2021 (Learning Domain-Specialised Representations for Cross-Lingual Biomedical Entity Linking); files at
https://github.com/cambridgeltl/sapbert/tree/main/evaluation_data/xlbel_v1.0 and in xlbel.zip (v0.0). A line of v0.0 is
`CUI||mention`; v1.0 appends `||context`, with `<tgt>` and `</tgt>` around the mention. `CUI|CUI` means that either is
right. A file holds one language, named only in the file's name (`de_1k_test_query.txt`). English v0.0 and v1.0 have
different mentions.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from xsap.errors import DataError
from xsap.files import read_lines
from xsap.languages import to_iso
from xsap.terms.corpus import Row, collapse, to_table

_FORMAT = "an XL-BEL line CUI[|CUI…]||mention or CUI[|CUI…]||mention||context"
_IDS = re.compile(r"[A-Z]{0,2}\d+(\|[A-Z]{0,2}\d+)*")  # a few ids are local (CL508424, CN029274) or bare numbers
_OPEN, _CLOSE = "<tgt>", "</tgt>"


def read_xlbel(files: Sequence[Path], *, language: str | None = None) -> pa.Table:
    """Mentions (terms.mentions' SCHEMA) of one or more files, in order, none dropped.

    Args:
        files: Files of v0.0 or v1.0.
        language: The language of files whose names do not begin with it.

    Raises:
        DataError: With file and line, if a line has another format.
    """
    rows: list[Row] = []
    for file in files:
        code = to_iso(language) if language else _language_of(file)
        lines = read_lines(file)
        if not lines:
            raise DataError(f"{file}: expected lines, each {_FORMAT}; found an empty file")
        rows += [_parse(line, code, f"{file}:{number}") for number, line in enumerate(lines, start=1)]
    return to_table(rows, with_groups=False)


def read_xlbel_version(path: Path, *, contexts: bool) -> pa.Table:
    """Mentions of all languages of one version, from a folder or a single file.

    Args:
        path: A folder with the files in it or below it, or one file.
        contexts: True for v1.0, whose lines have a context; False for v0.0.

    Raises:
        DataError: If the files are of the other version, whose English mentions are different.
    """
    mentions = read_xlbel(find_xlbel_files(path, contexts=contexts))
    without = mentions["context"].null_count
    if without != (0 if contexts else mentions.num_rows):
        expected = "v1.0, whose lines all have a context" if contexts else "v0.0, whose lines have no context"
        found = f"found {without:,} of {mentions.num_rows:,} lines without. Is it the other version?"
        raise DataError(f"{path}: expected XL-BEL {expected}; {found}")
    return mentions


def find_xlbel_files(path: Path, *, contexts: bool) -> list[Path]:
    """The files of v1.0 (with contexts) or v0.0, one per language, anywhere in a folder; a single file is returned as it is."""
    if path.is_file():
        return [path]
    ending = "_1k_test_query_with_context.txt" if contexts else "_1k_test_query.txt"
    files = [file for file in sorted(path.rglob(f"*{ending}")) if _is_language(file.name.removesuffix(ending))]
    if not files or len({file.name for file in files}) < len(files):
        found = "none" if not files else "several of one name"
        raise DataError(f"{path}: expected a folder with files of XL-BEL such as de{ending}, each once; found {found}")
    return files


def _is_language(code: str) -> bool:
    try:
        return bool(to_iso(code))
    except DataError:
        return False  # all_1k_test_query.txt has the mentions of all other files


def _language_of(file: Path) -> str:
    try:
        return to_iso(file.name.split("_")[0])
    except DataError:
        expected = "its name doesn't begin with a language, as expected of XL-BEL (de_1k_test_query.txt)"
        raise DataError(f"{file}: {expected}; rename it, or give the language: `mentions xlbel --language`") from None


def _parse(line: str, language: str, where: str) -> Row:
    ids, _, rest = line.partition("||")
    mention, has_context, marked = rest.partition("||")
    mention = mention.strip()
    if not _IDS.fullmatch(ids) or not mention or mention.startswith("|"):
        raise DataError(f"{where}: expected {_FORMAT}; found '{line[:60]}'")
    row = Row(mention, language, ids.split("|"))
    if not has_context:
        return row
    before, opened, rest = marked.partition(_OPEN)
    inside, closed, after = rest.partition(_CLOSE)
    if not opened or not closed:
        raise DataError(f"{where}: expected {_OPEN}mention{_CLOSE} in the context; found '{marked[:60]}'")
    text = before + inside + after
    if inside != mention:  # one German line marks nothing: the context is kept, the offsets are unknown
        return row._replace(context=" ".join(text.split()))
    context, start, end = collapse(text, len(before), len(before) + len(inside))
    return row._replace(context=context, start=start, end=end)
