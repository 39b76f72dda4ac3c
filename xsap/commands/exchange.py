"""`xsap export` and `xsap check`: mappings as files of Usagi, OMOP, SSSOM and FHIR, and what these would refuse."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xsap.artifacts import sha256_of
from xsap.errors import ConfigError
from xsap.output_paths import check_new_file
from xsap.terminal import EXIT_TARGET_MISSED, Overwrite, announce_wait, log, output

if TYPE_CHECKING:
    from xsap.exchange.mapping import Mapping
    from xsap.files import RowCounts


class ExchangeFormat(StrEnum):
    """Formats of `export`."""

    USAGI = "usagi"
    SOURCE_TO_CONCEPT_MAP = "source-to-concept-map"
    SSSOM = "sssom"
    FHIR_R4 = "fhir-r4"
    FHIR_R5 = "fhir-r5"
    WORKBOOK = "workbook"


class SssomVersion(StrEnum):
    """Versions of SSSOM."""

    V1_0 = "1.0"
    V1_1 = "1.1"


MappingsFile = Annotated[
    Path,
    typer.Argument(
        help="Mappings: the output of link --file, a save file of Usagi, SSSOM, a ConceptMap, or a review (.sqlite, .xlsx)."
    ),
]
TermColumn = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="FIELD=HEADER, for columns of link's output: FIELD is name, code, frequency or language. Repeatable.",
    ),
]
AthenaFolder = Annotated[
    Path | None,
    typer.Option(help="Unpacked download from Athena, to map the concepts to OMOP's standard concepts."),
]
MappingsEncoding = Annotated[
    str | None, typer.Option("--encoding", help="Encoding of a text file, such as cp1252; by default UTF-8.")
]
_FHIR = (ExchangeFormat.FHIR_R4, ExchangeFormat.FHIR_R5)


def export_mappings(
    file: MappingsFile,
    to: Annotated[ExchangeFormat, typer.Option(help="Format to write.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    column: TermColumn = None,
    athena: AthenaFolder = None,
    source_vocabulary: Annotated[
        str | None, typer.Option(help="source-to-concept-map: name of the source's codes, at most 20 characters.")
    ] = None,
    unreviewed: Annotated[
        bool, typer.Option("--unreviewed", help="source-to-concept-map: also write mappings that are not reviewed.")
    ] = False,
    cut: Annotated[
        bool, typer.Option("--cut", help="source-to-concept-map: cut descriptions to 255 characters.")
    ] = False,
    vocabulary: Annotated[
        str | None, typer.Option(help="sssom, fhir: vocabulary of concepts that state none, such as OMOP.")
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(help="sssom: VOCABULARY=IRI, for a vocabulary that xsap does not know. Repeatable."),
    ] = None,
    target_system: Annotated[
        list[str] | None,
        typer.Option(help="fhir: VOCABULARY=URI, for a vocabulary that xsap does not know. Repeatable."),
    ] = None,
    source_system: Annotated[str | None, typer.Option(help="fhir: URI of the system of the source's codes.")] = None,
    url: Annotated[str | None, typer.Option(help="sssom, fhir: IRI of the mapping set or ConceptMap.")] = None,
    title: Annotated[str | None, typer.Option(help="sssom, fhir: title.")] = None,
    license_uri: Annotated[str | None, typer.Option("--license", help="sssom: IRI of the license.")] = None,
    sssom_version: Annotated[SssomVersion | None, typer.Option(help="sssom: version to write; by default 1.1.")] = None,
    encoding: MappingsEncoding = None,
    overwrite: Overwrite = False,
) -> None:
    """Write mappings in a format that other tools read.

    The summary says how many mappings were written, and why others were not.
    """
    fhir, omop = _FHIR, (ExchangeFormat.SOURCE_TO_CONCEPT_MAP,)
    sssom = (ExchangeFormat.SSSOM,)
    _check_options(
        to,
        {
            "--source-vocabulary": (source_vocabulary, omop), "--unreviewed": (unreviewed, omop), "--cut": (cut, omop),
            "--vocabulary": (vocabulary, (*sssom, *fhir)), "--prefix": (prefix, sssom), "--target-system": (target_system, fhir),
            "--source-system": (source_system, fhir), "--url": (url, (*sssom, *fhir)), "--title": (title, (*sssom, *fhir)),
            "--license": (license_uri, sssom), "--sssom-version": (sssom_version, sssom),
        },
    )  # fmt: skip
    if to in omop and source_vocabulary is None:
        raise ConfigError(f"--to {to} needs --source-vocabulary, the name of the source's codes in OMOP; add it")
    check_new_file(out, overwrite=overwrite)
    given: dict[str, Any] = {"vocabulary": vocabulary, "title": title}
    if to in omop:
        given = {"source_vocabulary": source_vocabulary, "unreviewed": unreviewed, "cut": cut}
    elif to in sssom:
        given |= {"set_id": url, "license_uri": license_uri, "version": sssom_version and sssom_version.value}
        given["prefixes"] = _uris(prefix, "--prefix")
    elif to in fhir:
        given |= {"url": url, "source_system": source_system, "target_systems": _uris(target_system, "--target-system")}
    elif to is ExchangeFormat.WORKBOOK:
        given = {"identity": {"input_sha256": sha256_of(file)}}
    options = {name: value for name, value in given.items() if value is not None}
    with announce_wait(f"reading {file}"):
        mappings, remarks = _read(file, column, encoding)
        if athena:
            from xsap.exchange.athena import map_to_omop

            targets = map_to_omop(mappings, athena)
            mappings = targets.mappings
            remarks += targets.remarks()
        counts = _writer(to)(mappings, out, **options)
    dropped = [f"{reason}: {n:,}" for reason, n in counts.dropped.items()]
    log("; ".join([f"{out}: {counts.kept:,} of {counts.rows_in:,} mappings", *dropped]))
    if remarks:
        log("; ".join([f"{file}: {remarks[0]}", *remarks[1:]]))


def _check_options(to: ExchangeFormat, given: dict[str, tuple[object, Sequence[ExchangeFormat]]]) -> None:
    """Raise ConfigError for an option that belongs to other formats."""
    for option, (value, formats) in given.items():
        if value not in (None, False, []) and to not in formats:
            raise ConfigError(f"{option} is for --to {' or '.join(formats)}, found --to {to}; remove it")


def _uris(stated: list[str] | None, option: str) -> dict[str, str] | None:
    from xsap.exchange.code_systems import parse_uris

    return parse_uris(stated, option) if stated else None


def _read(file: Path, columns: list[str] | None, encoding: str | None) -> "tuple[list[Mapping], list[str]]":
    from xsap.exchange.mapping_files import read_mappings

    found = read_mappings(file, columns=_parse(columns), encoding=encoding)
    return found.mappings, [*found.remarks]


def _parse(columns: list[str] | None) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for text in columns or ():
        field, equals, header = text.partition("=")
        if not equals:
            field, header = "name", text
        if field in parsed:
            raise ConfigError(f"--column {field}: expected once, found '{parsed[field]}' and '{header}'")
        parsed[field] = header
    return parsed


def _writer(to: ExchangeFormat) -> "Callable[..., RowCounts]":
    """What writes a format: (mappings, path, **options) → counts."""
    if to is ExchangeFormat.USAGI:
        from xsap.exchange.usagi_writer import write_usagi

        return write_usagi
    if to is ExchangeFormat.SOURCE_TO_CONCEPT_MAP:
        from xsap.exchange.omop import write_source_to_concept_map

        return write_source_to_concept_map
    if to is ExchangeFormat.SSSOM:
        from xsap.exchange.sssom import write_sssom

        return write_sssom
    if to in _FHIR:
        from functools import partial

        from xsap.exchange.fhir import write_concept_map

        return partial(write_concept_map, release="r4" if to is ExchangeFormat.FHIR_R4 else "r5")
    return _write_workbook


def _write_workbook(mappings: "Sequence[Mapping]", out: Path, *, identity: dict[str, str]) -> "RowCounts":
    from xsap.exchange.review_workbook import write_workbook
    from xsap.files import RowCounts

    write_workbook(mappings, out, identity=identity)
    return RowCounts(len(mappings), len(mappings))


def check(
    file: MappingsFile,
    column: TermColumn = None,
    athena: AthenaFolder = None,
    encoding: MappingsEncoding = None,
) -> None:
    """Check whether Usagi and an OMOP database accept a file.

    Prints one line for each kind of problem, including those with the rules of FinOMOP. The exit code is 3 if Usagi or
    the database would refuse something.
    """
    with announce_wait(f"reading {file}"):
        from xsap.exchange.athena import map_to_omop
        from xsap.exchange.checks import REFUSERS, check_mapping_file
        from xsap.exchange.mapping_files import read_mappings

        found = read_mappings(file, columns=_parse(column), encoding=encoding)
        targets = map_to_omop(found.mappings, athena) if athena else None
    findings = check_mapping_file(found, targets)
    with output(None) as stream:
        stream.writelines(f"{each.by}: {each.what}: {each.number:,} ({each.example})\n" for each in findings)
    refused = sum(each.by in REFUSERS for each in findings)
    log(f"{file}: {found.kind}, {len(found.mappings):,} mappings; kinds of faults: {len(findings):,}")
    if refused:
        raise typer.Exit(EXIT_TARGET_MISSED)
