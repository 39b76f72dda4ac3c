"""A task = mentions + dictionary + cut-offs; and the table of tasks.

A corpus brings mentions and says nothing of what they are linked into; the dictionary is given. Two kinds of task bring their own: `hpo`
(held-out names), and `CORPUS-in-hpo`, the mentions of a corpus whose gold CUI HPO cross-references. Mentions without a gold concept are
dropped, and counted; those whose gold the dictionary lacks stay and are misses, as in all published figures.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.accuracy.breakdowns import GROUPS_COLUMN
from benchmarks.accuracy.dictionary import (
    NO_GOLD,
    RowCounts,
    SearchSpace,
    count,
    of_terminology,
    open_search_space,
    restrict,
)
from benchmarks.accuracy.hpo import held_out_hpo
from benchmarks.corpora.askapatient import read_askapatient
from benchmarks.corpora.bigbio import read_bigbio
from benchmarks.corpora.bronco import read_bronco
from benchmarks.corpora.cometa import read_cometa
from benchmarks.corpora.concept_files import read_concept_files
from benchmarks.corpora.mantra import read_mantra
from benchmarks.corpora.pubtator import read_medmentions
from benchmarks.corpora.quaero import read_quaero
from benchmarks.corpora.spanish import (
    read_cantemist,
    read_codiesp,
    read_distemist,
    read_medprocner,
    read_symptemist,
    read_symptemist_multilingual,
)
from benchmarks.corpora.xlbel import read_xlbel
from xsap.errors import ConfigError, DataError
from xsap.languages import ENGLISH, to_iso
from xsap.terms.mentions import read_mentions
from xsap.terms.terminology import Terminology

CUTS = (1, 5, 64)
HPO, IN_HPO, TRAINING = "hpo", "-in-hpo", "training"
BIGBIO = "bigbio:"  # a corpus by its database and language: bigbio:UMLS:es


class CorpusSpec(NamedTuple):
    """Where a corpus's mentions come from. data: the name of its files on the command line. composite: a mention may be `a|b`."""

    data: str
    read: Callable[[Path], pa.Table]
    about: str
    composite: bool = False


CORPORA = {
    "xlbel-v0": CorpusSpec("xlbel", lambda path: read_xlbel_version(path, contexts=False), "XL-BEL v0.0 (CUIs)"),
    "xlbel-v1": CorpusSpec("xlbel", lambda path: read_xlbel_version(path, contexts=True), "XL-BEL v1.0 (CUIs)"),
    "mantra": CorpusSpec("mantra", read_mantra, "Mantra GSC (CUIs)"),
    "medmentions": CorpusSpec("medmentions", read_medmentions, "MedMentions, full or ST21pv, test split (CUIs)"),
    "cometa-general": CorpusSpec("cometa", read_cometa, "COMETA, general meaning (SNOMED CT)"),
    "cometa-specific": CorpusSpec(
        "cometa", partial(read_cometa, meaning="specific"), "COMETA, specific meaning (SNOMED CT)"
    ),
    "ncbi-disease": CorpusSpec(
        "ncbi-disease", read_concept_files, "NCBI disease, .concept files (MeSH, OMIM)", composite=True
    ),
    "bc5cdr-disease": CorpusSpec(
        "bc5cdr-disease", read_concept_files, "BC5CDR diseases, .concept files (MeSH)", composite=True
    ),
    "bc5cdr-chemical": CorpusSpec(
        "bc5cdr-chemical", read_concept_files, "BC5CDR chemicals, .concept files (MeSH)", composite=True
    ),
    "askapatient": CorpusSpec("askapatient", read_askapatient, "AskAPatient, all folds (SNOMED CT, AMT)"),
    "quaero-emea": CorpusSpec("quaero", partial(read_quaero, part="EMEA"), "QUAERO, EMEA (CUIs)"),
    "quaero-medline": CorpusSpec("quaero", partial(read_quaero, part="MEDLINE"), "QUAERO, MEDLINE (CUIs)"),
    "distemist": CorpusSpec("distemist", read_distemist, "DisTEMIST, subtrack 2 (SNOMED CT)"),
    "symptemist": CorpusSpec("symptemist", read_symptemist, "SympTEMIST, subtask 2 (SNOMED CT)"),
    "symptemist-multilingual": CorpusSpec(
        "symptemist", read_symptemist_multilingual, "SympTEMIST, subtask 3 (SNOMED CT)"
    ),
    "medprocner": CorpusSpec("medprocner", read_medprocner, "MedProcNER, subtask 2 (SNOMED CT)"),
    "cantemist": CorpusSpec("cantemist", read_cantemist, "CANTEMIST-NORM (eCIE-O-3.1)"),
    "codiesp": CorpusSpec("codiesp", read_codiesp, "CodiEsp-X (ICD-10-CM and -PCS)"),
    "codiesp-d": CorpusSpec(
        "codiesp", lambda path: of_group(read_codiesp(path), "DISO"), "CodiEsp-X, diagnoses (ICD-10-CM)"
    ),
    "codiesp-p": CorpusSpec(
        "codiesp", lambda path: of_group(read_codiesp(path), "PROC"), "CodiEsp-X, procedures (ICD-10-PCS)"
    ),
    "bronco": CorpusSpec("bronco", read_bronco, "BRONCO150 (ICD-10-GM, OPS, ATC)"),
}


@dataclass(frozen=True)
class Task:
    """mentions: terms.mentions' SCHEMA, each with gold; perhaps the column `groups` too. accounts: rows in, kept and dropped by language.

    training: the terminology whose names count as seen; None where none was given.
    """

    name: str
    about: str
    mentions: pa.Table
    space: SearchSpace
    accounts: Mapping[str, RowCounts]
    composite: bool = False
    training: Path | None = None

    def metadata(self) -> dict[str, Any]:
        """What a report says of it, and what makes its results its own."""
        return {
            "about": self.about,
            "mentions": {"n": self.mentions.num_rows, "sha256": hash_of(self.mentions)},
            "dictionary": self.space.metadata(),
            "composite": self.composite,
            "accounts": {
                code: {"rows_in": a.rows_in, "kept": a.kept, "dropped": dict(a.dropped)}
                for code, a in self.accounts.items()
            },
        }


def hash_of(mentions: pa.Table) -> str:
    """sha256 over mention, language and gold of each row, in any order of rows."""
    columns = [mentions[name].to_pylist() for name in ("mention", "language", "concept_ids")]
    rows = sorted(
        f"{mention}\0{language}\0{'|'.join(sorted(ids))}\n" for mention, language, ids in zip(*columns, strict=True)
    )
    return hashlib.sha256("".join(rows).encode("utf-8", "surrogatepass")).hexdigest()


def corpus_of(name: str) -> CorpusSpec:
    """A corpus of CORPORA, or one in BigBIO's schema: `bigbio:DATABASE:LANGUAGE`. Raises ConfigError."""
    if name.startswith(BIGBIO):
        _, database, *language = name.split(":")
        if len(language) != 1 or not database:
            raise ConfigError(f"expected {BIGBIO}DATABASE:LANGUAGE such as {BIGBIO}UMLS:es, found '{name}'")
        return CorpusSpec(
            "bigbio", partial(read_bigbio, db_name=database, language=language[0]), f"{name}, in BigBIO's schema"
        )
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"they are {', '.join(CORPORA)}, {BIGBIO}DATABASE:LANGUAGE"
        raise ConfigError(f"unknown corpus '{name}'; {hint}")
    return CORPORA[name]


def data_keys() -> list[str]:
    """What --data may name."""
    return [HPO, *dict.fromkeys(corpus.data for corpus in CORPORA.values()), "bigbio", TRAINING]


def brings_dictionary(task: str) -> bool:
    """Whether a task has its own dictionary: HPO's English names."""
    return task == HPO or task.endswith(IN_HPO)


def open_task(
    name: str,
    data: Mapping[str, Path],
    work: Path,
    *,
    dictionary: str | None = None,
    languages: tuple[str, ...] | None = (ENGLISH,),
) -> Task:
    """`hpo`, a corpus (`corpus_of`), or either with `-in-hpo`. data: where each corpus's files are. dictionary: as `open_search_space` takes
    it, for a task that doesn't bring its own, with its names in `languages`. Raises ConfigError where something isn't given, DataError."""
    if brings_dictionary(name):
        return _open_in_hpo(name, data, work)
    corpus = corpus_of(name)
    if dictionary is None:
        raise ConfigError(
            f"task '{name}' needs something to link into: --dictionary, a terminology's folder or a file of id||name"
        )
    mentions, accounts = _with_gold(corpus.read(_given(data, corpus.data, name)))
    space = open_search_space(dictionary, work, languages)
    return Task(name, corpus.about, mentions, space, accounts, corpus.composite, data.get(TRAINING))


def _open_in_hpo(name: str, data: Mapping[str, Path], work: Path) -> Task:
    corpus = corpus_of(name.removesuffix(IN_HPO)) if name != HPO else None
    split = held_out_hpo(_given(data, HPO, name), work)
    terminology = Terminology.load(split / "terminology")
    space = of_terminology(terminology, "HPO, English names")
    training = data.get(TRAINING, split / "terminology")
    if corpus is None:
        mentions, accounts = _with_gold(read_mentions(split / "mentions.tsv"))
        return Task(
            name,
            "HPO: held-out OFFICIAL translations of a fifth of the concepts",
            mentions,
            space,
            accounts,
            training=training,
        )
    mentions, accounts = restrict(corpus.read(_given(data, corpus.data, name)), terminology)
    about = f"{corpus.about}: mentions whose concept HPO cross-references"
    return Task(name, about, mentions, space, accounts, corpus.composite, training)


def _given(data: Mapping[str, Path], key: str, task: str) -> Path:
    if key not in data:
        raise ConfigError(f"task '{task}' needs the files of {key}: --data {key}=PATH")
    return data[key]


def _with_gold(mentions: pa.Table) -> tuple[pa.Table, dict[str, RowCounts]]:
    """Mentions that have a gold concept, and an account by language. Raises DataError if none has."""
    has = pc.greater(pc.list_value_length(mentions["concept_ids"]), 0)
    kept = mentions.filter(has)
    if not kept.num_rows:
        raise DataError(f"expected mentions with gold concepts, found none among {mentions.num_rows:,}")
    left = count(kept)
    accounts = {}
    for code, account in count(mentions).items():
        missing = account.rows_in - (left[code].kept if code in left else 0)
        accounts[code] = RowCounts(account.rows_in, account.rows_in - missing, {NO_GOLD: missing} if missing else {})
    return kept, accounts


def of_group(mentions: pa.Table, group: str) -> pa.Table:
    """The mentions that a corpus gives one semantic group."""
    return mentions.filter(pa.array([group in groups for groups in mentions[GROUPS_COLUMN].to_pylist()], pa.bool_()))


def read_xlbel_version(path: Path, *, contexts: bool) -> pa.Table:
    """v1.0 with contexts, v0.0 without; DataError for files of the other, whose English mentions are not the same."""
    mentions = read_xlbel(xlbel_files(path, contexts=contexts))
    without = mentions["context"].null_count
    if without != (0 if contexts else mentions.num_rows):
        expected = "v1.0, whose lines all have a context" if contexts else "v0.0, whose lines have no context"
        raise DataError(
            f"{path}: expected XL-BEL {expected}; found {without:,} of {mentions.num_rows:,} lines without. Is it the other version?"
        )
    return mentions


def xlbel_files(path: Path, *, contexts: bool) -> list[Path]:
    """XL-BEL's files of one version, anywhere in a folder: with contexts v1.0, without v0.0. One file is taken as it is."""
    if path.is_file():
        return [path]
    ending = "_1k_test_query_with_context.txt" if contexts else "_1k_test_query.txt"
    files = [file for file in sorted(path.rglob(f"*{ending}")) if _is_language(file.name.removesuffix(ending))]
    languages = [file.name for file in files]
    if not files or len(set(languages)) < len(languages):
        found = "none" if not files else "several of one name"
        raise DataError(f"{path}: expected a folder with files of XL-BEL such as de{ending}, each once; found {found}")
    return files


def _is_language(code: str) -> bool:
    try:
        return bool(to_iso(code))
    except DataError:
        return False  # all_1k_test_query.txt holds the others together
