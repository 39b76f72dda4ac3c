"""Commands of `xsap-prepare` that read a source into a terminology folder, or download one."""

from pathlib import Path
from typing import Annotated

import typer

from data_prep.accounting import check_choice, parse_values
from data_prep.assemble import Assembly
from data_prep.bitext import read_bitext
from data_prep.command import (
    MEMORY,
    SCOPES_TEXT,
    Languages,
    MaxRejects,
    Memory,
    Out,
    Scopes,
    SourceName,
    Statuses,
    Translations,
    rejects_of,
    save_assembly,
    save_terminology,
)
from data_prep.download import SOURCES, download
from data_prep.icd import read_icd
from data_prep.lists import read_list
from data_prep.omop import read_omop
from data_prep.ontology import read_hpo, read_ontology
from data_prep.snomed import read_snomed
from data_prep.umls import RowSelection, UmlsFiles, read_umls
from data_prep.wikidata import WIKIDATA_PROPERTIES, Vocabulary, read_wikidata
from xsap.artifacts import check_can_write
from xsap.errors import ConfigError
from xsap.languages import parse_languages, to_name
from xsap.terminal import HeaderRow, Overwrite, Sheet, TextEncoding, parse_size, print_lines


def umls(
    meta: Annotated[Path, typer.Argument(help="The META folder of a release, or its MRCONSO.RRF or .RRF.gz.")],
    out: Out,
    mrsty: Annotated[Path | None, typer.Option(help="MRSTY.RRF, if it is in another folder.")] = None,
    mrrel: Annotated[Path | None, typer.Option(help="MRREL.RRF, if it is in another folder.")] = None,
    languages: Annotated[str, typer.Option(help="Languages to keep, such as ENG,SPA or en,es; or all.")] = "all",
    sources: Annotated[str, typer.Option(help="Sources to keep, such as SNOMEDCT_US,MSH; or all.")] = "all",
    term_types: Annotated[str, typer.Option(help="Term types to keep, such as PT,SY; or all.")] = "all",
    types: Annotated[
        str, typer.Option(help="Semantic types to keep, by TUI, name or group: 'T047,Sign or Symptom,CHEM'; or all.")
    ] = "all",
    suppress: Annotated[str, typer.Option(help="SUPPRESS values to keep, or all; N: not suppressed.")] = "N",
    tradenames: Annotated[bool, typer.Option("--tradenames", help="Add trade names as names (needs MRREL).")] = False,
    hierarchy: Annotated[bool, typer.Option("--hierarchy", help="Add broader concepts (needs MRREL).")] = False,
    max_rejects: MaxRejects = 0,
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Read the UMLS Metathesaurus (RRF files)."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    memory = parse_size(max_memory)
    files = UmlsFiles.find(meta, mrsty=mrsty, mrrel=mrrel)
    choices = [parse_values(text) for text in (sources, term_types, types, suppress)]
    selection = RowSelection(parse_languages(languages), *choices)
    with Assembly(memory) as assembly, rejects_of(out, max_rejects) as rejects:
        read = read_umls(files, assembly, selection, tradenames=tradenames, hierarchy=hierarchy, rejects=rejects)
        save_assembly(assembly, *read, out, overwrite)


def omop(
    folder: Annotated[Path, typer.Argument(help="An unpacked OHDSI Athena download; its files may be .gz.")],
    out: Out,
    languages: Languages = "all",
    vocabularies: Annotated[str, typer.Option(help="Vocabularies to keep, such as SNOMED,ICD10CM; or all.")] = "all",
    domains: Annotated[str, typer.Option(help="Domains of concepts to keep, such as Condition,Drug; or all.")] = "all",
    max_rejects: MaxRejects = 0,
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Read the standard concepts of the OMOP vocabularies."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly(parse_size(max_memory)) as assembly, rejects_of(out, max_rejects) as rejects:
        read = read_omop(
            folder,
            assembly,
            languages=parse_languages(languages),
            sources=parse_values(vocabularies),
            domains=parse_values(domains),
            rejects=rejects,
        )
        save_assembly(assembly, *read, out, overwrite)


def snomed(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders with RF2 snapshot files: a release and its extensions, if any.")
    ],
    out: Out,
    languages: Languages = "all",
    refsets: Annotated[str, typer.Option(help="Identifiers of language reference sets to use; or all.")] = "all",
    max_rejects: MaxRejects = 0,
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Read SNOMED CT (RF2 snapshot files), with its extensions."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly(parse_size(max_memory)) as assembly, rejects_of(out, max_rejects) as rejects:
        codes, sets = parse_languages(languages), parse_values(refsets)
        read = read_snomed(folders, assembly, languages=codes, refsets=sets, rejects=rejects)
        save_assembly(assembly, *read, out, overwrite)


def hpo(
    obo: Annotated[Path, typer.Option(help="The ontology: hp.obo, hp.owl or hp.json, or one of them as .gz.")],
    out: Out,
    translations: Translations = None,
    status: Statuses = "all",
    scopes: Scopes = SCOPES_TEXT,
    max_rejects: MaxRejects = 0,
    overwrite: Overwrite = False,
) -> None:
    """Read the Human Phenotype Ontology, with its translations."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    choices = {"statuses": parse_values(status), "scopes": parse_values(scopes)}
    with rejects_of(out, max_rejects) as rejects:
        read = read_hpo(obo, translations, **choices, rejects=rejects)
    save_terminology(*read, out, overwrite)


def ontology(
    file: Annotated[Path, typer.Argument(help="An ontology: .obo, .owl (RDF/XML) or .json (obographs), or .gz.")],
    out: Out,
    translations: Translations = None,
    source: SourceName = None,
    prefixes: Annotated[str, typer.Option(help="Prefixes of identifiers to keep, such as MONDO; or all.")] = "all",
    status: Statuses = "all",
    scopes: Scopes = SCOPES_TEXT,
    max_rejects: MaxRejects = 0,
    overwrite: Overwrite = False,
) -> None:
    """Read an ontology such as Mondo, with its translations."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    choices = {"statuses": parse_values(status), "scopes": parse_values(scopes), "prefixes": parse_values(prefixes)}
    with rejects_of(out, max_rejects) as rejects:
        read = read_ontology(file, translations, source=source, **choices, rejects=rejects)
    save_terminology(*read, out, overwrite)


def icd(
    file: Annotated[
        Path,
        typer.Argument(
            help="ICD-10-CM's tabular list, or an ICD-10 in ClaML: .xml, .xml.gz, or a .zip with one of them in it."
        ),
    ],
    out: Out,
    language: Annotated[
        str | None, typer.Option(help="Language of names for which a ClaML file states none, such as de.")
    ] = None,
    source: SourceName = None,
    overwrite: Overwrite = False,
) -> None:
    """Read ICD-10-CM, or a national edition of ICD-10 in ClaML.

    Codes with a seventh character or a modifier, which the files do not list,
    are spelled out. "Pain, unspecified" gets the plain term "Pain" as a synonym.
    """
    check_can_write(out, overwrite=overwrite, kind="terminology")
    save_terminology(*read_icd(file, source=source, language=language), out, overwrite)


def table(
    file: Annotated[
        Path, typer.Argument(help="A .tsv, .csv, .jsonl, .xlsx, .ods or .parquet file, or lines id||name.")
    ],
    out: Out,
    column: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=HEADER for a column with another header, such as name=term. Repeatable."),
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of rows without one, such as en.")] = None,
    source: SourceName = None,
    sheet: Sheet = None,
    encoding: TextEncoding = None,
    header_row: HeaderRow = 1,
    max_rejects: MaxRejects = 0,
    overwrite: Overwrite = False,
) -> None:
    """Read your own list of names.

    The columns are concept_id and name, optionally language, kind, source, code, semantic_types, cross_references,
    definition and parents; one name per row. JSONL may also have one concept per line, as in the
    dictionaries of scispaCy and xMEN.
    """
    check_can_write(out, overwrite=overwrite, kind="terminology")
    columns = dict(_parse_column(text) for text in column or [])
    with rejects_of(out, max_rejects) as rejects:
        read = read_list(
            file,
            columns=columns,
            language=language,
            source=source,
            sheet=sheet,
            encoding=encoding,
            header_row=header_row,
            rejects=rejects,
        )
    save_terminology(*read, out, overwrite)


def wikidata(
    file: Annotated[Path, typer.Argument(help="A dump (latest-all.json.gz or .bz2) or a SPARQL result as JSON.")],
    out: Out,
    key: Annotated[str, typer.Option(help=f"Vocabulary of the concept identifiers: {', '.join(WIKIDATA_PROPERTIES)}.")],
    languages: Languages = "all",
    max_rejects: MaxRejects = 0,
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Read labels and aliases of Wikidata.

    They are a source of names to merge into another terminology.
    """
    check_can_write(out, overwrite=overwrite, kind="terminology")
    check_choice([key], WIKIDATA_PROPERTIES, "key", "xsap-prepare wikidata")
    with Assembly(parse_size(max_memory)) as assembly, rejects_of(out, max_rejects) as rejects:
        read = read_wikidata(file, assembly, key=Vocabulary(key), languages=parse_languages(languages), rejects=rejects)
        found = read[1]["in_all_languages"]
        details = [f"names for all languages (mul): {n:,} kept as {to_name(code)}" for code, n in sorted(found.items())]
        save_assembly(assembly, *read, out, overwrite, details)


def bitext(
    files: Annotated[
        list[Path], typer.Argument(help="Files of two columns, separated by a tab, a space (MUSE) or ||.")
    ],
    languages: Annotated[str, typer.Option(help="Languages of the first and second column, such as en,de.")],
    out: Out,
    source: SourceName = None,
    max_rejects: MaxRejects = 0,
    overwrite: Overwrite = False,
) -> None:
    """Read translation pairs, as auxiliary training data."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly, rejects_of(out, max_rejects) as rejects:
        read = read_bitext(files, assembly, languages=languages, source=source, rejects=rejects)
        save_assembly(assembly, *read, out, overwrite)


def fetch(
    name: Annotated[str, typer.Argument(help=f"The data set: {', '.join(SOURCES)}.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Download an open data set.

    Each file is checked by its SHA-256 hash.
    """
    source = download(name, out, overwrite=overwrite)
    files = [f"  {file.relative_to(out)}" for file in sorted(out.rglob("*")) if file.is_file()]
    print_lines([f"{out}: {source.title}", f"license: {source.license}", f"from: {source.home}", *files])


def _parse_column(text: str) -> tuple[str, str]:
    field, equals, header = text.partition("=")
    if not (field and equals and header):
        raise ConfigError(f"expected --column FIELD=HEADER such as name=term, found '{text}'")
    return field, header
