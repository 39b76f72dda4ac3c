"""The commands of `xsap-prepare` (also `python -m data_prep`): read sources into terminology folders, and work on terminologies.

A command prints on stdout what it read, what it kept and dropped and why, and what the result holds.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from data_prep.accounting import Rejects, Summary, check_choice, parse_values
from data_prep.assemble import Assembly
from data_prep.bitext import read_bitext
from data_prep.describe import check_plot, describe_terminology, description_lines, save_plot
from data_prep.diff import change_lines, diff_terminologies, write_changes
from data_prep.download import SOURCES, download
from data_prep.export import PAIRS_PER_CONCEPT, export_pairs
from data_prep.leakage import build_ledger, hold_out
from data_prep.lists import read_list
from data_prep.merge import map_terminology, merge_terminologies
from data_prep.omop import read_omop
from data_prep.ontology import DEFAULT_SCOPES, read_hpo, read_ontology
from data_prep.retired import update_gold
from data_prep.snomed import read_snomed
from data_prep.split import TERMINOLOGY, overlap_lines, split_terminology
from data_prep.store import StoredTerminology
from data_prep.umls import RowSelection, UmlsFiles, read_umls
from data_prep.wikidata import WIKIDATA_PROPERTIES, Vocabulary, read_wikidata
from xsap.artifacts import check_can_write, sha256_of
from xsap.errors import ConfigError
from xsap.files import RowCounts
from xsap.languages import parse_languages
from xsap.terminal import Overwrite, create_app, parse_size, print_lines, run
from xsap.terms.mentions import read_mentions, write_mentions
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy

TerminologyFolder: TypeAlias = Annotated[Path, typer.Argument(help="A terminology folder.")]
Mentions: TypeAlias = Annotated[Path, typer.Argument(help="Mentions: .tsv or .parquet.")]
Out: TypeAlias = Annotated[Path, typer.Option(help="The terminology folder to write.")]
Languages: TypeAlias = Annotated[str, typer.Option(help="Languages to keep, such as en,es; or all.")]
Memory: TypeAlias = Annotated[str, typer.Option(help="Memory for sorting, such as 500MB or 4GB; then disk is used.")]
Translations: TypeAlias = Annotated[
    Path | None, typer.Option(help="Folder with the tables *.babelon.tsv and *.synonyms.tsv.")
]
Statuses: TypeAlias = Annotated[str, typer.Option(help="Translation statuses to keep, such as OFFICIAL; or all.")]
Scopes: TypeAlias = Annotated[str, typer.Option(help="Synonym scopes to keep: EXACT,NARROW,RELATED,BROAD; or all.")]
SourceName: TypeAlias = Annotated[str | None, typer.Option(help="Source of the names; by default the file's name.")]

MEMORY = "1GB"
_SCOPES = ",".join(DEFAULT_SCOPES)

app = create_app("Build terminologies from UMLS, OMOP, SNOMED CT, HPO and others; merge, compare and split them.")


class Ambiguous(StrEnum):
    """What happens to a concept with several references into the vocabulary."""

    DROP = "drop"
    ALL = "all"


class Case(StrEnum):
    """Letter case of exported names."""

    LOWER = "lower"
    CASED = "cased"


# Sources


@app.command()
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
    max_rejects: Annotated[int, typer.Option(min=0, help="Malformed lines to skip; OUT.rejects.tsv lists them.")] = 0,
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Read the UMLS Metathesaurus (RRF files)."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    memory = parse_size(max_memory)
    files = UmlsFiles.find(meta, mrsty=mrsty, mrrel=mrrel)
    choices = [parse_values(text) for text in (sources, term_types, types, suppress)]
    selection = RowSelection(parse_languages(languages), *choices)
    with Assembly(memory) as assembly, Rejects(out.with_name(f"{out.name}.rejects.tsv"), max_rejects) as rejects:
        read = read_umls(files, assembly, selection, tradenames=tradenames, rejects=rejects)
        _save(assembly, *read, out, overwrite)


@app.command()
def omop(
    folder: Annotated[Path, typer.Argument(help="An unpacked OHDSI Athena download; its files may be .gz.")],
    out: Out,
    languages: Languages = "all",
    vocabularies: Annotated[str, typer.Option(help="Vocabularies to keep, such as SNOMED,ICD10CM; or all.")] = "all",
    domains: Annotated[str, typer.Option(help="Domains of concepts to keep, such as Condition,Drug; or all.")] = "all",
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Read the OMOP Standardized Vocabularies: their standard concepts."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly(parse_size(max_memory)) as assembly:
        read = read_omop(
            folder,
            assembly,
            languages=parse_languages(languages),
            sources=parse_values(vocabularies),
            domains=parse_values(domains),
        )
        _save(assembly, *read, out, overwrite)


@app.command()
def snomed(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders with RF2 snapshot files: a release and its extensions, if any.")
    ],
    out: Out,
    languages: Languages = "all",
    refsets: Annotated[str, typer.Option(help="Identifiers of language reference sets to use; or all.")] = "all",
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Read SNOMED CT (RF2 snapshot files), with its extensions."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly(parse_size(max_memory)) as assembly:
        read = read_snomed(folders, assembly, languages=parse_languages(languages), refsets=parse_values(refsets))
        _save(assembly, *read, out, overwrite)


@app.command()
def hpo(
    obo: Annotated[Path, typer.Option(help="The ontology: hp.obo, hp.owl or hp.json, or one of them as .gz.")],
    out: Out,
    translations: Translations = None,
    status: Statuses = "all",
    scopes: Scopes = _SCOPES,
    overwrite: Overwrite = False,
) -> None:
    """Read the Human Phenotype Ontology, with its translations."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    read = read_hpo(obo, translations, statuses=parse_values(status), scopes=parse_values(scopes))
    _save_terminology(*read, out, overwrite)


@app.command()
def ontology(
    file: Annotated[Path, typer.Argument(help="An ontology: .obo, .owl (RDF/XML) or .json (obographs), or .gz.")],
    out: Out,
    translations: Translations = None,
    source: SourceName = None,
    prefixes: Annotated[str, typer.Option(help="Prefixes of identifiers to keep, such as MONDO; or all.")] = "all",
    status: Statuses = "all",
    scopes: Scopes = _SCOPES,
    overwrite: Overwrite = False,
) -> None:
    """Read any ontology (Mondo, DOID, ...), with its translations."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    choices = {"statuses": parse_values(status), "scopes": parse_values(scopes), "prefixes": parse_values(prefixes)}
    _save_terminology(*read_ontology(file, translations, source=source, **choices), out, overwrite)


@app.command()
def table(
    file: Annotated[Path, typer.Argument(help="A .tsv, .csv or .jsonl file, or lines id||name; or .gz.")],
    out: Out,
    column: Annotated[
        list[str] | None,
        typer.Option(help="FIELD=HEADER for a column with another header, such as name=term. Repeatable."),
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of rows without one, such as en.")] = None,
    source: SourceName = None,
    overwrite: Overwrite = False,
) -> None:
    """Read your own list of names: columns concept_id, name, language, ...

    One name per row. JSONL may also have one concept per line, as in the
    dictionaries of scispaCy and xMEN.
    """
    check_can_write(out, overwrite=overwrite, kind="terminology")
    columns = dict(_parse_column(text) for text in column or [])
    _save_terminology(*read_list(file, columns=columns, language=language, source=source), out, overwrite)


@app.command()
def wikidata(
    file: Annotated[Path, typer.Argument(help="A dump (latest-all.json.gz or .bz2) or a SPARQL result as JSON.")],
    out: Out,
    key: Annotated[str, typer.Option(help=f"Vocabulary of the concept identifiers: {', '.join(WIKIDATA_PROPERTIES)}.")],
    languages: Languages = "all",
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Read Wikidata's labels and aliases, to merge into another terminology."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    check_choice([key], WIKIDATA_PROPERTIES, "key", "xsap-prepare wikidata")
    with Assembly(parse_size(max_memory)) as assembly:
        read = read_wikidata(file, assembly, key=Vocabulary(key), languages=parse_languages(languages))
        _save(assembly, *read, out, overwrite)


@app.command()
def bitext(
    files: Annotated[
        list[Path], typer.Argument(help="Files of two columns, separated by a tab, a space (MUSE) or ||.")
    ],
    languages: Annotated[str, typer.Option(help="Languages of the first and second column, such as en,de.")],
    out: Out,
    source: SourceName = None,
    overwrite: Overwrite = False,
) -> None:
    """Read general-domain translations, as auxiliary training data."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly:
        _save(assembly, *read_bitext(files, assembly, languages=languages, source=source), out, overwrite)


# Terminologies


@app.command()
def merge(
    terminologies: Annotated[list[Path], typer.Argument(help="Terminology folders; the first has precedence.")],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Merge terminologies: one concept per identifier, with all its names."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly:
        merged = merge_terminologies(terminologies, assembly)
        _save(assembly, merged.counts, merged.metadata, out, overwrite, merged.lines())


@app.command("map")
def map_identifiers(
    terminology: TerminologyFolder,
    to: Annotated[str, typer.Option(help="Prefix of the cross-references, such as UMLS.")],
    out: Out,
    ambiguous: Annotated[
        Ambiguous, typer.Option(help="A concept with several references: drop it, or copy its names to all.")
    ] = Ambiguous.DROP,
    keep_prefix: Annotated[bool, typer.Option("--keep-prefix", help="Keep the prefix, as in HP:0001945.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Replace identifiers by cross-references, such as UMLS:C0015967."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly:
        mapped = map_terminology(
            terminology, to, assembly, keep_ambiguous=ambiguous is Ambiguous.ALL, keep_prefix=keep_prefix
        )
        _save(assembly, mapped.counts, mapped.metadata, out, overwrite, mapped.lines())


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The older terminology folder.")],
    new: Annotated[Path, typer.Argument(help="The newer terminology folder.")],
    out: Annotated[Path | None, typer.Option(help="A .tsv file for the list of all changes.")] = None,
) -> None:
    """Compare two versions: names and concepts added, removed or moved."""
    with diff_terminologies(old, new) as connection:
        if out:
            write_changes(connection, out)
        print_lines([f"{old} → {new}", *change_lines(connection), *(["", f"{out}: all changes"] if out else [])])


@app.command()
def split(
    terminology: TerminologyFolder,
    out: Annotated[Path, typer.Option(help="The folder to write, with terminology/ and mentions.tsv in it.")],
    test_fraction: Annotated[float, typer.Option(help="Fraction of the concepts that are held out.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Random seed; another seed holds out other concepts.")] = 0,
    test_status: Annotated[str, typer.Option(help="Statuses of test mentions, such as OFFICIAL; or all.")] = "all",
    overwrite: Overwrite = False,
) -> None:
    """Hold out the non-English names of some concepts as test mentions."""
    check_can_write(out, overwrite=overwrite, kind="split")
    parts = split_terminology(
        Terminology.load(terminology), fraction=test_fraction, seed=seed, statuses=parse_values(test_status)
    )
    parts.save(out, overwrite=overwrite)
    held_out = f"{parts.names_held_out:,} non-English names of {parts.concepts_held_out:,} concepts are held out"
    print_lines([f"{out}: {held_out}, {parts.mentions.num_rows:,} mentions", *overlap_lines(parts), ""])
    print_lines([f"{out / TERMINOLOGY}: for training", *Summary.from_terminology(parts.training).lines()])


@app.command()
def leakage(
    terminology: TerminologyFolder,
    mentions: Mentions,
    out: Annotated[Path | None, typer.Option(help="A .tsv file for the result of each mention.")] = None,
    hold_out_to: Annotated[
        Path | None,
        typer.Option(
            "--hold-out",
            metavar="FOLDER",
            help="Folder for a copy of the terminology without the names that match a mention of their concept.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find test mentions that a terminology contains already.

    A mention matches a name, in any language, that equals it except for case,
    or that differs by one inserted, deleted or substituted character.
    """
    if hold_out_to:
        check_can_write(hold_out_to, overwrite=overwrite, kind="terminology")
    stored = StoredTerminology.open(terminology)
    ledger = build_ledger(stored, read_mentions(mentions))
    if out:
        ledger.write(out)
    print_lines([f"{mentions} in {terminology}", *ledger.lines(), *(["", f"{out}: all mentions"] if out else [])])
    if hold_out_to:
        with Assembly() as assembly:
            counts, metadata = hold_out(stored, ledger, assembly, {mentions.name: sha256_of(mentions)})
            summary, counts = assembly.save(hold_out_to, counts, metadata, overwrite=overwrite)
        nameless = stored.count("concepts") - summary.concepts
        advice = f"{nameless:,} concepts have no name left: train on it, but link into {terminology}"
        print_lines(["", *_report(summary, counts, hold_out_to, [advice] if nameless else [])])


@app.command()
def update_mentions(
    mentions: Mentions,
    terminology: Annotated[Path, typer.Option(help="A terminology folder with the retired identifiers.")],
    out: Annotated[Path, typer.Option(help="The file to write: .tsv or .parquet.")],
) -> None:
    """Replace retired gold identifiers by their exact successors."""
    stored = StoredTerminology.open(terminology)
    living = stored.read("concepts", ["concept_id"])["concept_id"]
    update = update_gold(read_mentions(mentions), stored.read("retired"), living)
    write_mentions(update.mentions, out)
    print_lines([f"{out}: {update.mentions.num_rows:,} mentions", *update.lines()])


@app.command()
def describe(
    terminology: TerminologyFolder,
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer folder or model name, for token lengths.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="A .png or .svg file for charts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count names by language, source, kind, semantic type and length."""
    if plot:
        check_plot(plot)
    description = describe_terminology(StoredTerminology.open(terminology), tokenizer)
    if plot:
        save_plot(description, plot)
    if as_json:
        print_lines([json.dumps(description.to_dict(), indent=1, ensure_ascii=False)])
    else:
        print_lines(description_lines(description))


@app.command()
def export(
    terminology: TerminologyFolder,
    out: Annotated[Path, typer.Option(help="The text file to write; OUT.json describes how it was made.")],
    languages: Languages = "all",
    pairs_per_concept: Annotated[
        int, typer.Option(min=1, help="Maximum pairs per concept; of more, a random sample.")
    ] = PAIRS_PER_CONCEPT,
    case: Annotated[Case, typer.Option(help="Letter case of names; SapBERT's own code lowercases.")] = Case.LOWER,
    seed: Annotated[int, typer.Option(help="Random seed of the sample of pairs.")] = 0,
) -> None:
    """Write training pairs `id||name||name` for the original SapBERT code.

    Equal input gives equal bytes on any machine.
    """
    counts = export_pairs(
        terminology,
        out,
        policy=TextPolicy(case=case.value),
        languages=parse_languages(languages),
        pairs_per_concept=pairs_per_concept,
        seed=seed,
    )
    print_lines(
        [
            f"{out}: {counts.pairs:,} pairs of {counts.concepts:,} concepts; {counts.sampled:,} of them sampled",
            f"policy: {case.value}, unordered pairs of each concept's different names, at most {pairs_per_concept:,} per concept, seed {seed}",
            *counts.row_counts().lines(),
        ]
    )


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help=f"The data set: {', '.join(SOURCES)}.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Download an open data set; each file is checked by its sha256."""
    source = download(name, out, overwrite=overwrite)
    files = [f"  {file.path}" for file in source.files]
    print_lines([f"{out}: {source.title}", f"license: {source.license}", f"from: {source.home}", *files])


def _parse_column(text: str) -> tuple[str, str]:
    field, equals, header = text.partition("=")
    if not (field and equals and header):
        raise ConfigError(f"expected --column FIELD=HEADER such as name=term, found '{text}'")
    return field, header


def _save(
    assembly: Assembly,
    counts: RowCounts,
    metadata: dict[str, Any],
    out: Path,
    overwrite: bool,
    details: list[str] | None = None,
) -> None:
    """Write a terminology and print its report, with further lines after the first."""
    summary, counts = assembly.save(out, counts, metadata, overwrite=overwrite)
    print_lines(_report(summary, counts, out, [*details, ""] if details else []))


def _save_terminology(terminology: Terminology, counts: RowCounts, out: Path, overwrite: bool) -> None:
    terminology.save(out, overwrite=overwrite)
    print_lines(_report(Summary.from_terminology(terminology), counts, out, []))


def _report(summary: Summary, counts: RowCounts, out: Path, details: list[str]) -> list[str]:
    return [f"{out}: {summary.concepts:,} concepts", *details, *counts.lines(), "", *summary.lines()]


def main() -> None:
    """The entry point of `xsap-prepare`."""
    run(app, "xsap-prepare")


if __name__ == "__main__":
    main()
