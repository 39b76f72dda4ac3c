"""The commands of `xsap-prepare` that work on terminologies which exist already: join, re-identify, compare, describe and check them.

`xsap-prepare` and `python -m data_prep`: a source's files in, a terminology folder out.

What was read and what came of it goes to stdout, progress and errors to stderr. A mistake that the user can mend is one line and exit
code 2.
"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast

import typer

from data_prep import bitext, lists, omop, ontology, snomed, split, umls, wikidata
from data_prep import download as sources
from data_prep.accounting import Rejects, Summary, check_choice, parse_choice
from data_prep.assemble import MEMORY, Assembly
from data_prep.describe import check_plot, describe, description_lines, plot
from data_prep.diff import change_lines, changes, write_changes
from data_prep.export import CAP, export_pairs
from data_prep.leakage import hold_out, read_ledger
from data_prep.merge import map_terminology, merge_terminologies
from data_prep.retired import update_mentions
from data_prep.store import StoredTerminology
from data_prep.umls import UmlsFiles
from xsap.artifacts import check_can_write, sha256_of
from xsap.errors import ConfigError, XsapError
from xsap.files import RowCounts
from xsap.languages import parse_languages
from xsap.terms.mentions import read_mentions, write_mentions
from xsap.terms.terminology import Terminology
from xsap.text import TextPolicy

Folder: TypeAlias = Annotated[Path, typer.Argument(help="A terminology folder.")]


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Out: TypeAlias = Annotated[Path, typer.Option(help="The folder to write.")]
Overwrite: TypeAlias = Annotated[
    bool, typer.Option("--overwrite", help="Overwrite what stands there, if xsap made it.")
]


Memory: TypeAlias = Annotated[str, typer.Option(help="What sorting may take before it goes to disk, such as 2GB.")]


Translations: TypeAlias = Annotated[Path | None, typer.Option(help="A folder with *.babelon.tsv and *.synonyms.tsv.")]
Status: TypeAlias = Annotated[
    str, typer.Option(help="Translations to take: all, or a list such as OFFICIAL,CANDIDATE.")
]
Scopes: TypeAlias = Annotated[str, typer.Option(help="Synonyms to take: all, or a list of scopes.")]


class Ambiguous(StrEnum):
    """What becomes of a concept with several references."""

    DROP = "drop"
    ALL = "all"


class Case(StrEnum):
    """What is done to upper case."""

    LOWER = "lower"
    CASED = "cased"


@app.command("merge")
def merge(
    terminologies: Annotated[
        list[Path], typer.Argument(help="Two terminology folders or more; the one named first wins.")
    ],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Join terminologies into one: concepts with the same identifier become one, with the names of all."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly:
        merged = merge_terminologies(terminologies, assembly)
        summary, counts = assembly.save(out, merged.counts, merged.metadata, overwrite=overwrite)
    _print_lines([f"{out}: {summary.concepts:,} concepts", *merged.lines(), "", *counts.lines(), "", *summary.lines()])


@app.command("map")
def map_to(
    terminology: Folder,
    to: Annotated[
        str,
        typer.Option(help="The vocabulary of the new identifiers: what stands before the colon of a cross-reference."),
    ],
    out: Out,
    ambiguous: Annotated[
        Ambiguous, typer.Option(help="A concept with several references: leave it out, or name them all so.")
    ] = (Ambiguous.DROP),
    keep_prefix: Annotated[
        bool, typer.Option("--keep-prefix", help="Identifiers keep their prefix, as in OBO: HP:0001945.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Put each concept under the identifier that its cross-reference names, such as UMLS:C0015967."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly:
        mapped = map_terminology(terminology, to, assembly, several=ambiguous is Ambiguous.ALL, keep_prefix=keep_prefix)
        summary, counts = assembly.save(out, mapped.counts, mapped.metadata, overwrite=overwrite)
    _print_lines([f"{out}: {summary.concepts:,} concepts", *mapped.lines(), "", *counts.lines(), "", *summary.lines()])


@app.command("diff")
def compare(
    old: Annotated[Path, typer.Argument(help="A terminology folder: the older state.")],
    new: Annotated[Path, typer.Argument(help="A terminology folder: the newer state.")],
    out: Annotated[Path | None, typer.Option(help="A .tsv file for all changes.")] = None,
) -> None:
    """Tell what changed between two states of a terminology: names and concepts added, removed, moved."""
    with changes(old, new) as connection:
        if out:
            write_changes(connection, out)
        _print_lines([f"{old} → {new}", *change_lines(connection), *(["", f"{out}: all changes"] if out else [])])


@app.command("update-mentions")
def bring_up_to_date(
    mentions: Annotated[Path, typer.Argument(help="Mentions, .tsv or .parquet.")],
    terminology: Annotated[Path, typer.Option(help="A terminology folder that knows the retired identifiers.")],
    out: Annotated[Path, typer.Option(help="The file to write, .tsv or .parquet.")],
) -> None:
    """Overwrite gold identifiers that were retired by their successors, where these are the same concept."""
    stored = StoredTerminology.open(terminology)
    living = stored.read("concepts", ["concept_id"])["concept_id"]
    update = update_mentions(read_mentions(mentions), stored.read("retired"), living)
    write_mentions(update.mentions, out)
    _print_lines([f"{out}: {update.mentions.num_rows:,} mentions", *update.lines()])


@app.command("leakage")
def leakage(
    terminology: Folder,
    mentions: Annotated[Path, typer.Argument(help="Mentions, .tsv or .parquet.")],
    out: Annotated[Path | None, typer.Option(help="A .tsv file for the ledger, a row a mention.")] = None,
    hold_out_to: Annotated[
        Path | None,
        typer.Option(
            "--hold-out",
            metavar="FOLDER",
            help="Write the terminology without a gold concept's names, in all languages, that equal a mention of it or are one edit away.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Tell which mentions a terminology holds already, letter for letter (case aside) or but for one edit."""
    if hold_out_to:
        check_can_write(hold_out_to, overwrite=overwrite, kind="terminology")
    stored = StoredTerminology.open(terminology)
    ledger = read_ledger(stored, read_mentions(mentions))
    if out:
        ledger.write(out)
    _print_lines([f"{mentions} in {terminology}", *ledger.lines(), *(["", f"{out}: the ledger"] if out else [])])
    if hold_out_to:
        with Assembly() as assembly:
            counts, metadata = hold_out(stored, ledger, assembly, {mentions.name: sha256_of(mentions)})
            _print_lines(
                [
                    "",
                    *_held_out(stored, *assembly.save(hold_out_to, counts, metadata, overwrite=overwrite), hold_out_to),
                ]
            )


def _held_out(stored: StoredTerminology, summary: Summary, counts: RowCounts, out: Path) -> list[str]:
    nameless = stored.count("concepts") - summary.concepts
    lost = [f"{nameless:,} concepts have no name left: train on it, but link into {stored.folder}"] if nameless else []
    return [f"{out}: {summary.concepts:,} concepts", *lost, *counts.lines(), "", *summary.lines()]


@app.command("export")
def export(
    terminology: Folder,
    out: Annotated[Path, typer.Option(help="The text file to write; FILE.json beside it says how it was made.")],
    languages: Annotated[str, typer.Option(help="all, or a list such as ENG,SPA or en,es.")] = "all",
    pairs_per_concept: Annotated[
        int, typer.Option(min=1, help="Of a concept with more pairs so many are drawn.")
    ] = CAP,
    case: Annotated[Case, typer.Option(help="The original lower-cases.")] = Case.LOWER,
    seed: Annotated[int, typer.Option(help="Another seed draws other pairs.")] = 0,
) -> None:
    """Training pairs for the original SapBERT code, `id||name||name`: equal input gives equal bytes on any machine."""
    policy = TextPolicy(case=case.value)
    done = export_pairs(
        terminology, out, policy=policy, languages=parse_languages(languages), cap=pairs_per_concept, seed=seed
    )
    policy_line = f"policy: {case.value}, unordered pairs of each concept's different names, at most {pairs_per_concept:,} a concept, seed {seed}"
    dropped = {
        "language not chosen": done.not_chosen,
        "the same name of the same concept": done.again,
        "can't be written": done.unwritable,
    }
    told = [
        f"{out}: {done.pairs:,} pairs of {done.concepts:,} concepts; of {done.capped:,} some were drawn",
        policy_line,
    ]
    _print_lines([*told, *RowCounts(done.names_in, done.names, {k: n for k, n in dropped.items() if n}).lines()])


@app.command("describe")
def tell(
    terminology: Folder,
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder with tokenizer.json, or a model's name: lengths in tokens, too.")
    ] = None,
    plot_to: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="A .png file for a picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a terminology holds: by language, source, kind and semantic type; overlaps, shared names, lengths."""
    if plot_to:
        check_plot(plot_to)
    told = describe(StoredTerminology.open(terminology), tokenizer)
    if plot_to:
        plot(told, plot_to)
    _print_lines([json.dumps(told, indent=1, ensure_ascii=False)] if as_json else description_lines(told))


def _print_lines(lines: list[str]) -> None:
    print("\n".join(lines))


@app.command("umls")
def prepare_umls(
    meta: Annotated[
        Path, typer.Argument(help="The META folder of a UMLS release, or its MRCONSO.RRF (.gz is welcome).")
    ],
    out: Out,
    mrsty: Annotated[Path | None, typer.Option(help="MRSTY.RRF, if it is not beside MRCONSO.RRF.")] = None,
    mrrel: Annotated[Path | None, typer.Option(help="MRREL.RRF, likewise.")] = None,
    languages: Annotated[str, typer.Option(help="all, or a list such as ENG,SPA or en,es.")] = "all",
    sources: Annotated[
        str, typer.Option(help="all, or a list of source abbreviations such as SNOMEDCT_US,MSH.")
    ] = "all",
    term_types: Annotated[str, typer.Option(help="all, or a list of term types such as PT,SY.")] = "all",
    types: Annotated[
        str, typer.Option(help="all, or semantic types by TUI or name, or groups: 'T047,Sign or Symptom,CHEM'.")
    ] = "all",
    suppress: Annotated[
        str, typer.Option(help="Values of SUPPRESS to take: all, or a list. N: suppressed by nobody.")
    ] = "N",
    tradenames: Annotated[
        bool, typer.Option("--tradenames", help="Give each concept the names of its trade names (MRREL).")
    ] = False,
    max_rejects: Annotated[
        int, typer.Option(min=0, help="Lines that are no records to bear with; they are listed beside OUT.")
    ] = 0,
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """The UMLS Metathesaurus as a terminology."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    files = UmlsFiles.find(meta, mrsty=mrsty, mrrel=mrrel)
    chosen = [parse_choice(text) for text in (sources, term_types, types, suppress)]
    choice = umls.RowSelection(parse_languages(languages), *chosen)
    with Assembly(max_memory) as assembly, Rejects(out.with_name(f"{out.name}.rejects.tsv"), max_rejects) as rejects:
        read = umls.read_umls(files, assembly, choice, tradenames=tradenames, rejects=rejects)
        _finish_assembly(assembly, *read, out, overwrite)


@app.command("omop")
def prepare_omop(
    folder: Annotated[
        Path, typer.Argument(help="An unpacked vocabulary download from OHDSI Athena (files may be .gz).")
    ],
    out: Out,
    languages: Annotated[str, typer.Option(help="all, or a list such as en,es.")] = "all",
    vocabularies: Annotated[
        str, typer.Option(help="Where names may come from: all, or a list such as SNOMED,ICD10CM.")
    ] = "all",
    domains: Annotated[
        str, typer.Option(help="Domains of the concepts: all, or a list such as Condition,Drug.")
    ] = "all",
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """The OMOP Standardized Vocabularies as a terminology of their standard concepts."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    chosen = {
        "languages": parse_languages(languages),
        "sources": parse_choice(vocabularies),
        "domains": parse_choice(domains),
    }
    with Assembly(max_memory) as assembly:
        _finish_assembly(assembly, *omop.read_omop(folder, assembly, **chosen), out, overwrite)


@app.command("snomed")
def prepare_snomed(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders with RF2 snapshot files: a release and, if you like, extensions of it."),
    ],
    out: Out,
    languages: Annotated[str, typer.Option(help="all, or a list such as en,es.")] = "all",
    refsets: Annotated[
        str, typer.Option(help="Language reference sets whose names to take: all, or a list of identifiers.")
    ] = "all",
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """A SNOMED CT release, with its extensions, as a terminology."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    chosen = {"languages": parse_languages(languages), "refsets": parse_choice(refsets)}
    with Assembly(max_memory) as assembly:
        _finish_assembly(assembly, *snomed.read_snomed(folders, assembly, **chosen), out, overwrite)


_SCOPES = ",".join(ontology.DEFAULT_SCOPES)


@app.command("hpo")
def prepare_hpo(
    obo: Annotated[Path, typer.Option(help="The ontology: hp.obo, hp.owl or hp.json (.gz is welcome).")],
    out: Out,
    translations: Translations = None,
    status: Status = "all",
    scopes: Scopes = _SCOPES,
    overwrite: Overwrite = False,
) -> None:
    """The Human Phenotype Ontology, with its translations, as a terminology."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    read = ontology.read_hpo(obo, translations, statuses=parse_choice(status), scopes=parse_choice(scopes))
    _finish(*read, out, overwrite)


@app.command("ontology")
def prepare_ontology(
    file: Annotated[
        Path, typer.Argument(help="An ontology: .obo, .owl (RDF/XML) or .json (obographs); .gz is welcome.")
    ],
    out: Out,
    translations: Translations = None,
    source: Annotated[
        str | None, typer.Option(help="What its names are said to come from; else the file's name.")
    ] = None,
    prefixes: Annotated[
        str, typer.Option(help="Concepts to take, by identifier: all, or a list such as MONDO.")
    ] = "all",
    status: Status = "all",
    scopes: Scopes = _SCOPES,
    overwrite: Overwrite = False,
) -> None:
    """Any ontology (Mondo, DOID, …), with its translations, as a terminology."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    chosen = {"statuses": parse_choice(status), "scopes": parse_choice(scopes), "prefixes": parse_choice(prefixes)}
    _finish(*ontology.read_ontology(file, translations, source=source, **chosen), out, overwrite)


@app.command("wikidata")
def prepare_wikidata(
    file: Annotated[
        Path, typer.Argument(help="A dump (latest-all.json.gz or .bz2) or a SPARQL query's result as JSON.")
    ],
    out: Out,
    key: Annotated[str, typer.Option(help=f"Whose identifiers the concepts bear: {', '.join(wikidata.PROPERTIES)}.")],
    languages: Annotated[str, typer.Option(help="all, or a list such as en,es.")] = "all",
    max_memory: Memory = MEMORY,
    overwrite: Overwrite = False,
) -> None:
    """Wikidata's labels and aliases in all languages as a terminology, to be merged into another."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    check_choice([key], wikidata.PROPERTIES, "key", "xsap-prepare wikidata")
    with Assembly(max_memory) as assembly:
        read = wikidata.read_wikidata(file, assembly, key=cast(wikidata.Key, key), languages=parse_languages(languages))
        _finish_assembly(assembly, *read, out, overwrite)


@app.command("table")
def prepare_table(
    file: Annotated[Path, typer.Argument(help="A .tsv, .csv or .jsonl file, or lines id||name (.gz is welcome).")],
    out: Out,
    column: Annotated[
        list[str] | None, typer.Option(help="FIELD=HEADER where the file calls a field otherwise: name=term.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="The language of rows that state none.")] = None,
    source: Annotated[
        str | None, typer.Option(help="The source of rows that state none; else the file's name.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """A list of your own as a terminology: one name a row, with the columns concept_id, name, language and, if you like, more.

    JSONL may have one concept a line, too, as in the dictionaries of scispaCy and xMEN.
    """
    check_can_write(out, overwrite=overwrite, kind="terminology")
    columns = dict(_pair(text) for text in column or [])
    _finish(*lists.read_list(file, columns=columns, language=language, source=source), out, overwrite)


@app.command("bitext")
def prepare_bitext(
    files: Annotated[
        list[Path], typer.Argument(help="Files of two columns, separated by a tab, a space (MUSE) or ||.")
    ],
    languages: Annotated[str, typer.Option(help="Of the first and of the second column, such as en,de.")],
    out: Out,
    source: Annotated[str | None, typer.Option(help="What the source is called; else the file's name.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """General-domain translations as a terminology, to train on beside another (setting `second`)."""
    check_can_write(out, overwrite=overwrite, kind="terminology")
    with Assembly() as assembly:
        _finish_assembly(
            assembly, *bitext.read_bitext(files, assembly, languages=languages, source=source), out, overwrite
        )


@app.command("split")
def split_mentions(
    terminology: Annotated[Path, typer.Argument(help="A terminology folder.")],
    out: Out,
    test_fraction: Annotated[
        float, typer.Option(help="Share of the concepts whose non-English names are held out.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed holds out other concepts.")] = 0,
    test_status: Annotated[
        str, typer.Option(help="Held-out translations that become mentions: all, or a list such as OFFICIAL.")
    ] = "all",
    overwrite: Overwrite = False,
) -> None:
    """Hold out the non-English names of some concepts: OUT/terminology to train on, OUT/mentions.tsv to test on."""
    check_can_write(out, overwrite=overwrite, kind="split")
    parts = split.split_terminology(
        Terminology.load(terminology), fraction=test_fraction, seed=seed, statuses=parse_choice(test_status)
    )
    parts.save(out, overwrite=overwrite)
    held_out = f"{parts.names_held_out:,} non-English names of {parts.concepts_held_out:,} concepts are held out"
    _print([f"{out}: {held_out}, {parts.mentions.num_rows:,} mentions", *split.overlap_lines(parts), ""])
    _print([f"{out / split.TERMINOLOGY}: for training", *Summary.from_terminology(parts.training).lines()])


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(sources.SOURCES)}.")],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Download an open source, each file checked by its sha256."""
    source = sources.download(name, out, overwrite=overwrite)
    _print(
        [
            f"{out}: {source.title}",
            f"licence: {source.licence}",
            f"from: {source.home}",
            *(f"  {file.path}" for file in source.files),
        ]
    )


def _pair(text: str) -> tuple[str, str]:
    field, equals, header = text.partition("=")
    if not (field and equals and header):
        raise ConfigError(f"expected --column FIELD=HEADER such as name=term, found '{text}'")
    return field, header


def _finish(terminology: Terminology, counts: RowCounts, out: Path, overwrite: bool) -> None:
    terminology.save(out, overwrite=overwrite)
    _report(Summary.from_terminology(terminology), counts, out)


def _finish_assembly(
    assembly: Assembly, counts: RowCounts, metadata: dict[str, Any], out: Path, overwrite: bool
) -> None:
    _report(*assembly.save(out, counts, metadata, overwrite=overwrite), out)


def _report(summary: Summary, counts: RowCounts, out: Path) -> None:
    _print([f"{out}: {summary.concepts:,} concepts", *counts.lines(), "", *summary.lines()])


def _print(lines: list[str]) -> None:
    print("\n".join(lines))


def main() -> None:
    """The entry point of `xsap-prepare`."""
    try:
        app()
    except XsapError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
