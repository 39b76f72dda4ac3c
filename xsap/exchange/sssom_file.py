"""SSSOM/TSV files (https://mapping-commons.github.io/sssom/spec-formats-tsv/): a block of YAML metadata and a table with a column for each slot.

Files are written in the canonical form of the specification, so that two writers of the same mappings write the same bytes. They are read as people
have them: with tabs that a spreadsheet program appended to the metadata lines, metadata in a file of its own, one value where a list belongs, slots
of versions before 1.0, and quotes that are not doubled. What was repaired is counted.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import yaml

from xsap.artifacts import write_atomically
from xsap.errors import DataError
from xsap.exchange.sssom_slots import (
    BUILT_IN,
    MULTIVALUED,
    PROPAGATED,
    REFERENCES,
    SET_ONLY_1_1,
    SET_SLOTS,
    SLOTS,
)
from xsap.files import text_lines
from xsap.tabular.delimited_text import open_delimited

TRAILING_TABS = "tabs or commas at the end of metadata lines, removed"
QUOTED_METADATA = "metadata lines in quotes, unquoted"
BLANK_METADATA = "blank lines between metadata lines, skipped"
STRAY_QUOTES = "quotes that are not closed or doubled, read as characters"
SCALARS = "single values where a list belongs"
OLD_SLOTS = "slots of a version before 1.0, renamed"
UNDECLARED = "CURIEs with a prefix that curie_map does not declare"
UNKNOWN_KEYS = "unknown keys in the metadata, ignored"

_RENAMED = {
    "match_type": "mapping_justification",
    "semantic_similarity_score": "similarity_score",
    "semantic_similarity_measure": "similarity_measure",
}
_MATCH_TYPES = {
    "Lexical": "semapv:LexicalMatching",
    "Logical": "semapv:LogicalReasoning",
    "HumanCurated": "semapv:ManualMappingCuration",
    "Complex": "semapv:CompositeMatching",
    "Unspecified": "semapv:UnspecifiedMatching",
    "SemanticSimilarity": "semapv:SemanticSimilarityThresholdMatching",
}
_MATCH_TERM_TYPES = {
    "ConceptMatch": "skos concept",
    "ClassMatch": "owl class",
    "ObjectPropertyMatch": "owl object property",
    "IndividualMatch": "owl named individual",
    "DataPropertyMatch": "owl data property",
    "TermMatch": "rdfs literal",
}
_STRIPPED = REFERENCES | {
    *("mapping_date", "publication_date", "review_date", "confidence", "reviewer_agreement", "similarity_score"),
    *("predicate_modifier", "subject_type", "object_type", "predicate_type", "mapping_cardinality"),
}
_NEEDED = {"subject_id", "subject_label", "object_id", "object_label"}
_QUOTED = re.compile('[\t\n\r"]')
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")

SlotRow = dict[str, str]


@dataclass
class SlotTable:
    """The content of an SSSOM file.

    Attributes:
        metadata: The slots of the set: texts, lists of texts, and curie_map as a dictionary.
        rows: Slot → text of each mapping, with the set's own values where they hold for each mapping; lists as in the file, joined by bars.
        extensions: Slot name → property of the columns that are no slots of SSSOM.
    """

    metadata: dict[str, Any]
    rows: list[SlotRow]
    extensions: dict[str, str] = field(default_factory=dict)


# Values


def join_values(values: Iterable[str]) -> str:
    """The values of a multi-valued slot as one cell."""
    return "|".join(value.replace("\\", "\\\\").replace("|", "\\|") for value in values if value)


def split_values(cell: str) -> list[str]:
    """The values of a cell of a multi-valued slot."""
    parts = [""]
    for token in re.findall(r"\\\\|\\\||\||[^\\|]+|\\", cell):
        if token == "|":
            parts.append("")
        else:
            parts[-1] += token[1] if token in ("\\\\", "\\|") else token
    return [part for part in parts if part]


def number_text(number: float) -> str:
    """A number with up to three decimals, as the canonical form has it."""
    rounded = Decimal(repr(float(number))).quantize(Decimal("0.001"), ROUND_HALF_UP).normalize()
    return f"{rounded + 0:f}"  # 0 is added because Decimal has a negative zero


# Writing


def write_slot_table(
    path: Path | str,
    metadata: Mapping[str, Any],
    rows: Iterable[SlotRow],
    prefixes: Mapping[str, str],
    extensions: Mapping[str, tuple[str, str]],
    *,
    version: str = "1.1",
) -> int:
    """Write an SSSOM file in canonical form.

    Args:
        path: The file.
        metadata: The slots of the set, except curie_map and extension_definitions.
        rows: The slots of each mapping.
        prefixes: Prefix → IRI of every CURIE in it; those that are not used are not written.
        extensions: Slot name → CURIE of its property and of its type, of the columns that are no slots of SSSOM.
        version: 1.0 or 1.1.

    Returns:
        The number of rows: equal ones are written once.
    """
    kept = sorted(
        {tuple(sorted((slot, text) for slot, text in row.items() if text)) for row in rows},
        key=lambda items: [dict(items).get(slot, "") for slot in (*SLOTS, *sorted(extensions))],
    )
    table = [dict(items) for items in kept]
    own = dict(metadata)
    for slot in PROPAGATED - (SET_ONLY_1_1 if version == "1.0" else frozenset()):
        values = {row.get(slot, "") for row in table}
        if len(values) == 1 and (value := values.pop()):
            own[slot] = split_values(value) if slot in MULTIVALUED else value
            for row in table:
                del row[slot]
    used = {slot for row in table for slot in row}
    added = sorted(used - set(SLOTS), key=lambda slot: extensions[slot][0])
    columns = [slot for slot in SLOTS if slot in used] + added
    own["curie_map"] = {name: prefixes[name] for name in sorted(_prefixes(own, table, added, extensions))}
    own["extension_definitions"] = [
        {"slot_name": slot, "property": extensions[slot][0], "type_hint": extensions[slot][1]} for slot in added
    ]
    with write_atomically(path) as stream:
        stream.writelines(f"#{line}\n" for line in _yaml_lines(own))
        stream.write(_tab_line(columns or ["subject_id", "predicate_id", "object_id", "mapping_justification"]))
        stream.writelines(_tab_line(row.get(slot, "") for slot in columns) for row in table)
    return len(table)


def _tab_line(cells: Iterable[str]) -> str:
    """A line of the table. Python's own writer leaves a carriage return without quotes."""
    quoted = ('"' + cell.replace('"', '""') + '"' if _QUOTED.search(cell) else cell for cell in cells)
    return "\t".join(quoted) + "\n"


def _prefixes(
    metadata: Mapping[str, Any], rows: list[SlotRow], added: list[str], extensions: Mapping[str, tuple[str, str]]
) -> set[str]:
    """The prefixes of all CURIEs, except the built-in ones."""
    found = {name for slot in added for name in (extensions[slot][0], extensions[slot][1])}
    for slot in REFERENCES:
        value = metadata.get(slot, [])
        found.update([value] if isinstance(value, str) else value)
        for row in rows:
            if cell := row.get(slot):
                found.update(split_values(cell) if slot in MULTIVALUED else [cell])
    return {curie.partition(":")[0] for curie in found if curie} - set(BUILT_IN)


def _yaml_lines(metadata: Mapping[str, Any]) -> Iterable[str]:
    for slot in SET_SLOTS:
        value = metadata.get(slot)
        if not value:
            continue
        if isinstance(value, str):
            yield f"{slot}: {_yaml_scalar(value)}"
            continue
        yield f"{slot}:"
        if isinstance(value, dict):
            yield from (f"  {name}: {_yaml_scalar(text)}" for name, text in value.items())
            continue
        for each in value:
            if isinstance(each, str):
                yield f"  - {_yaml_scalar(each)}"
            else:
                items = [f"{key}: {_yaml_scalar(text)}" for key, text in each.items()]
                yield from (f"  {'- ' if i == 0 else '  '}{item}" for i, item in enumerate(items))


def _yaml_scalar(text: str) -> str:
    """Plain if YAML reads it back as this text, else in double quotes."""
    if _DATE.fullmatch(text) or (text.isprintable() and text == text.strip() and _is_plain(text)):
        return text  # a date is a text in YAML 1.2
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _is_plain(text: str) -> bool:
    try:
        return bool(yaml.safe_load(f"k: {text}") == {"k": text} and yaml.safe_load(f"- {text}") == [text])
    except (yaml.YAMLError, ValueError):
        return False


# Reading


def read_slot_table(path: Path | str, repairs: Counter[str], *, metadata: Path | str | None = None) -> SlotTable:
    """Read an SSSOM file.

    Args:
        path: The file.
        repairs: Filled with what was repaired: reason → how often.
        metadata: The file of its metadata, if the lines are not in the file itself; by default one with the same name that ends in .yml.

    Raises:
        DataError: It is no SSSOM file.
    """
    path = Path(path)
    lines = _metadata_lines(path, repairs)
    outside = Path(metadata) if metadata else None if any(text for _, text in lines) else _metadata_beside(path)
    if outside is not None:
        own = _read_yaml(list(text_lines(outside)), outside, repairs)
    else:
        own = _read_yaml(lines, path, repairs)
    header, cells = _read_rows(path, len(lines) + 1, repairs)
    header = [name.strip() for name in header]
    renamed = [new for name in header for new in _new_names(name)]
    names = list(dict.fromkeys(name for name in renamed if name))
    if not _NEEDED & set(names) or "predicate_id" not in names:
        raise DataError(
            f"{path}: expected an SSSOM table with the columns subject_id, predicate_id and object_id, "
            f"found the columns {', '.join(names[:9]) or 'of an empty file'}. Is it another table?"
        )
    rows = _renamed(header, [dict(zip(header, row, strict=True)) for row in cells], path, repairs)
    curies = own.get("curie_map", {})
    _propagate(own, rows)
    _count_undeclared(rows, {*curies, *BUILT_IN}, repairs)
    return SlotTable(own, rows, _extension_properties(own, [name for name in names if name not in SLOTS], curies))


def _metadata_lines(path: Path, repairs: Counter[str]) -> list[tuple[int, str]]:
    """The lines before the table, without the number sign; blank ones are empty."""
    found: list[tuple[int, str]] = []
    for number, raw in text_lines(path):
        line = raw.rstrip("\r\n")
        if line.startswith('"#'):
            line = next(csv.reader([line], delimiter="\t"), [""])[0]
            repairs[QUOTED_METADATA] += 1
        if line.startswith("#"):
            text = line[1:].rstrip(" \t")
            if line.endswith("\t"):
                repairs[TRAILING_TABS] += 1
            elif text.endswith(",,"):
                text = text.rstrip(",")
                repairs[TRAILING_TABS] += 1
            found.append((number, text))
        elif not line.strip():
            found.append((number, ""))
        else:
            break
    last = max((at for at, (_, text) in enumerate(found) if text), default=-1)
    repairs[BLANK_METADATA] += sum(not text for _, text in found[: last + 1])
    return found


def _metadata_beside(path: Path) -> Path | None:
    """A file of metadata with the name of the table."""
    bare = path.name.removesuffix(".gz").removesuffix(path.suffixes[-1] if path.suffixes else "")
    names = [f"{stem}.{ending}" for stem in (bare, bare.removesuffix(".sssom")) for ending in ("yml", "yaml")]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def _read_yaml(lines: list[tuple[int, str]], path: Path, repairs: Counter[str]) -> dict[str, Any]:
    """The slots of the set. Every value is a text: YAML's own types would change versions and dates."""
    texts = [text.rstrip("\r\n") for _, text in lines]
    indent = next((len(text) - len(text.lstrip(" ")) for text in texts if text.strip()), 0)
    try:
        read = yaml.load("\n".join(re.sub(rf"^ {{0,{indent}}}", "", text) for text in texts), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{lines[min(mark.line, len(lines) - 1)][0]}" if mark and lines else str(path)
        problem = getattr(error, "problem", None) or "it can't be read"
        raise DataError(f"{where}: expected metadata in YAML, such as 'license: https://…', found: {problem}") from None
    if read in (None, ""):
        return {}
    if not isinstance(read, dict):
        raise DataError(f"{path}: expected metadata as 'slot: value' in its first lines, found {str(read)[:60]!r}")
    own: dict[str, Any] = {}
    for key, value in read.items():
        if key not in SET_SLOTS and key != "mappings" and key not in SLOTS:
            repairs[UNKNOWN_KEYS] += 1
        elif key in ("curie_map", "extension_definitions"):
            own[key] = _checked(key, value, path)
        elif key in MULTIVALUED:
            repairs[SCALARS] += isinstance(value, str) and bool(value)
            own[key] = [str(each) for each in value] if isinstance(value, list) else [str(value)] if value else []
        elif value:
            own[key] = str(value)
    return own


def _checked(key: str, value: Any, path: Path) -> Any:
    """curie_map as prefix → IRI, or the usable extension_definitions."""
    if key == "curie_map":
        if value and not isinstance(value, dict):
            raise DataError(f"{path}: expected curie_map as 'prefix: IRI' lines, found {str(value)[:60]!r}")
        return {str(name): str(iri) for name, iri in (value or {}).items() if isinstance(iri, str)}
    listed = value if isinstance(value, list) else []
    return [each for each in listed if isinstance(each, dict) and isinstance(each.get("slot_name"), str)]


def _read_rows(path: Path, header_row: int, repairs: Counter[str]) -> tuple[list[str], list[list[str]]]:
    """The header and the rows. Quotes are first read as the specification has them, then as many programs write them."""
    for standard_quotes in (True, False):
        table = open_delimited(path, header_row=header_row, standard_quotes=standard_quotes)
        try:
            header = next(table.rows, (0, []))[1]
            rows = [row for _, row in table.rows]
        except DataError:
            if standard_quotes:
                continue
            raise
        repairs.update(table.repairs)
        repairs[STRAY_QUOTES] += not standard_quotes
        return header, rows
    raise AssertionError("a table is read or refused")


def _new_names(name: str) -> tuple[str, ...]:
    """The slots of SSSOM 1.0 that a column of an older version became."""
    return ("subject_type", "object_type") if name == "match_term_type" else (_RENAMED.get(name, name),)


def _renamed(header: list[str], rows: list[SlotRow], path: Path, repairs: Counter[str]) -> list[SlotRow]:
    """Rows without empty cells, with the slots of SSSOM 1.0."""
    old = [name for name in header if _new_names(name) != (name,)]
    repairs[OLD_SLOTS] += len(old)
    kept = [{name: cell for name, cell in row.items() if name and cell} for row in rows]
    for row in kept:
        for slot in _STRIPPED & set(row):
            row[slot] = row[slot].strip()
    for name in old:
        table = {"match_type": _MATCH_TYPES, "match_term_type": _MATCH_TERM_TYPES}.get(name)
        for row in kept:
            cell = row.pop(name, None)
            if cell is None:
                continue
            if table is not None and cell not in table:
                raise DataError(f"{path}: expected one of {', '.join(table)} in the column {name}, found '{cell}'")
            for slot in _new_names(name):
                row.setdefault(slot, table[cell] if table else cell)
    return [{slot: cell for slot, cell in row.items() if cell} for row in kept]


def _propagate(own: dict[str, Any], rows: list[SlotRow]) -> None:
    """Give each mapping the set's values of slots that none of them has."""
    for slot in PROPAGATED & set(own):
        if not any(slot in row for row in rows) and own[slot]:
            for row in rows:
                row[slot] = join_values(own[slot]) if slot in MULTIVALUED else own[slot]
            del own[slot]


def _count_undeclared(rows: list[SlotRow], declared: set[str], repairs: Counter[str]) -> None:
    for row in rows:
        for slot in ("subject_id", "object_id"):
            if slot in row and row[slot].partition(":")[0] not in declared:
                repairs[UNDECLARED] += 1


def _extension_properties(own: dict[str, Any], names: list[str], curies: Mapping[str, str]) -> dict[str, str]:
    """Slot name → the IRI of its property, of the columns that are no slots of SSSOM."""
    stated = {}
    for each in own.pop("extension_definitions", []):
        prefix, _, local = str(each.get("property", "")).partition(":")
        if prefix in {**BUILT_IN, **curies} and local:
            stated[each["slot_name"]] = {**BUILT_IN, **curies}[prefix] + local
    return {name: stated.get(name, f"http://sssom.invalid/{name}") for name in names}
