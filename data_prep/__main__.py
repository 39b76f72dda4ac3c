"""`xsap-prepare` and `python -m data_prep`: a source's files in, a terminology folder out.

What was read and what came of it goes to stdout, progress and errors to stderr. A mistake that the user can mend is one line and exit
code 2.
"""

import sys
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from data_prep import lists, ontology, sources, split, umls
from data_prep.choice import parse_choice
from data_prep.tally import Tally, language_lines
from xsap.artifacts import refuse_to_replace
from xsap.errors import ConfigError, XsapError
from xsap.languages import parse_languages
from xsap.terms.terminology import Terminology

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Out: TypeAlias = Annotated[Path, typer.Option(help="The folder to write.")]
Overwrite: TypeAlias = Annotated[bool, typer.Option("--overwrite", help="Replace what stands there, if xsap made it.")]


@app.command("umls")
def prepare_umls(
    meta: Annotated[Path, typer.Argument(help="The META folder of a UMLS release, or its MRCONSO.RRF (.gz is welcome).")],
    out: Out,
    mrsty: Annotated[Path | None, typer.Option(help="MRSTY.RRF, if it is not beside MRCONSO.RRF.")] = None,
    languages: Annotated[str, typer.Option(help="all, or a list such as ENG,SPA or en,es.")] = "all",
    sources: Annotated[str, typer.Option(help="all, or a list of source abbreviations such as SNOMEDCT_US,MSH.")] = "all",
    types: Annotated[str, typer.Option(help="all, or semantic types by TUI or name, such as 'T047,Sign or Symptom'.")] = "all",
    suppressed: Annotated[bool, typer.Option("--suppressed", help="Keep suppressible and obsolete names, too.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """The UMLS Metathesaurus as a terminology."""
    refuse_to_replace(out, overwrite=overwrite)
    mrconso, mrsty = umls.find_files(meta, mrsty)
    chosen = {"languages": parse_languages(languages), "sources": parse_choice(sources), "semantic_types": parse_choice(types)}
    _finish(*umls.read_umls(mrconso, mrsty, **chosen, suppressed=suppressed), out, overwrite)


@app.command("hpo")
def prepare_hpo(
    obo: Annotated[Path, typer.Option(help="The ontology in OBO format (hp.obo).")],
    out: Out,
    translations: Annotated[Path | None, typer.Option(help="A folder with *.babelon.tsv and *.synonyms.tsv.")] = None,
    status: Annotated[str, typer.Option(help="Translations to take: all, or a list such as OFFICIAL,CANDIDATE.")] = "all",
    scopes: Annotated[str, typer.Option(help="Synonyms to take: all, or a list of scopes.")] = ",".join(ontology.DEFAULT_SCOPES),
    overwrite: Overwrite = False,
) -> None:
    """The Human Phenotype Ontology, with its translations, as a terminology."""
    refuse_to_replace(out, overwrite=overwrite)
    read = ontology.read_hpo(obo, translations, statuses=parse_choice(status), scopes=parse_choice(scopes))
    _finish(*read, out, overwrite)


@app.command("table")
def prepare_table(
    file: Annotated[Path, typer.Argument(help="A .tsv, .csv or .jsonl file, or lines id||name.")],
    out: Out,
    column: Annotated[list[str] | None, typer.Option(help="FIELD=HEADER where the file calls a field otherwise: name=term.")] = None,
    language: Annotated[str | None, typer.Option(help="The language of rows that state none.")] = None,
    source: Annotated[str | None, typer.Option(help="The source of rows that state none; else the file's name.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """A list of your own as a terminology: one name a row, with the columns concept_id, name, language and, if you like, more."""
    refuse_to_replace(out, overwrite=overwrite)
    columns = dict(_pair(text) for text in column or [])
    _finish(*lists.read_list(file, columns=columns, language=language, source=source), out, overwrite)


@app.command("split")
def hold_out(
    terminology: Annotated[Path, typer.Argument(help="A terminology folder.")],
    out: Out,
    test_fraction: Annotated[float, typer.Option(help="Share of the concepts whose non-English names are held out.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another seed holds out other concepts.")] = 0,
    test_status: Annotated[str, typer.Option(help="Held-out translations that become mentions: all, or a list such as OFFICIAL.")] = "all",
    overwrite: Overwrite = False,
) -> None:
    """Hold out the non-English names of some concepts: OUT/terminology to train on, OUT/mentions.tsv to test on."""
    refuse_to_replace(out, overwrite=overwrite)
    parts = split.split_terminology(Terminology.load(terminology), fraction=test_fraction, seed=seed, statuses=parse_choice(test_status))
    parts.save(out, overwrite=overwrite)
    held_out = f"{parts.names_held_out:,} non-English names of {parts.concepts_held_out:,} concepts are held out"
    _print([f"{out}: {held_out}, {parts.mentions.num_rows:,} mentions", *split.overlap_lines(parts), ""])
    _print([f"{out / split.TERMINOLOGY}: for training", *language_lines(parts.training)])


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(sources.SOURCES)}.")],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Download an open source, each file checked by its sha256."""
    source = sources.download(name, out, overwrite=overwrite)
    _print([f"{out}: {source.title}", f"licence: {source.licence}", f"from: {source.home}", *(f"  {file.path}" for file in source.files)])


def _pair(text: str) -> tuple[str, str]:
    field, equals, header = text.partition("=")
    if not (field and equals and header):
        raise ConfigError(f"expected --column FIELD=HEADER such as name=term, found '{text}'")
    return field, header


def _finish(terminology: Terminology, tally: Tally, out: Path, overwrite: bool) -> None:
    terminology.save(out, overwrite=overwrite)
    _print([f"{out}: {terminology.concepts.num_rows:,} concepts", *tally.lines(), "", *language_lines(terminology)])


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
