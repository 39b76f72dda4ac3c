"""A task = mentions + a dictionary + cut-offs; and the table of corpora.

A corpus has mentions but no dictionary, which is an argument; so has `mentions:FILE`, one's own table of mentions, which is named by the file's
name alone. Three kinds of task have their own dictionary: `hpo` (held-out names); `CORPUS-in-hpo`, the mentions of a corpus whose gold CUI HPO
cross-references; and `codiesp-in-icd10cm`, CodiEsp's diagnoses whose code ICD-10-CM has. These leave out mentions whose gold is not in the
dictionary, and count them. In all others such mentions stay and are misses, as in all published figures. Mentions without a gold concept are
dropped, and counted.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.accuracy.dictionary import NO_GOLD, SearchSpace, count, open_search_space, restrict
from benchmarks.accuracy.hpo import held_out_hpo
from benchmarks.corpora.askapatient import read_askapatient
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
from benchmarks.corpora.xlbel import read_xlbel_version
from xsap.errors import ConfigError, DataError, did_you_mean
from xsap.evaluation.gold import check_gold
from xsap.exchange.decided_mentions import read_gold
from xsap.files import RowCounts
from xsap.languages import ENGLISH
from xsap.terms.bigbio import read_bigbio
from xsap.terms.corpus import GROUPS_COLUMN
from xsap.terms.mentions import read_mentions
from xsap.terms.terminology import Terminology

CUTS = (1, 5, 64)  # the k of Acc@k and recall@k
HPO, IN_HPO, TRAINING = "hpo", "-in-hpo", "training"
ICD10CM = "icd10cm"  # the key of --data for the terminology that `xsap-prepare icd` makes of ICD-10-CM
CODIESP_IN_ICD10CM = "codiesp-in-icd10cm"
OWN = "mentions:"  # a table of mentions, as `xsap evaluate` reads it
BIGBIO = "bigbio:"  # a corpus by its database and language: bigbio:UMLS:es


class CorpusSpec(NamedTuple):
    """A corpus. data: its key in --data. composite: whether a mention may be `a|b`."""

    data: str
    read: Callable[[Path], pa.Table]
    about: str
    composite: bool = False


def of_group(mentions: pa.Table, group: str) -> pa.Table:
    """The mentions to which a corpus gives a semantic group."""
    return mentions.filter(pa.array([group in groups for groups in mentions[GROUPS_COLUMN].to_pylist()], pa.bool_()))


def _read_codiesp_group(path: Path, group: str) -> pa.Table:
    return of_group(read_codiesp(path), group)


CORPORA = {
    "xlbel-v0": CorpusSpec("xlbel", partial(read_xlbel_version, contexts=False), "XL-BEL v0.0 (CUIs)"),
    "xlbel-v1": CorpusSpec("xlbel", partial(read_xlbel_version, contexts=True), "XL-BEL v1.0 (CUIs)"),
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
    "codiesp-d": CorpusSpec("codiesp", partial(_read_codiesp_group, group="DISO"), "CodiEsp-X, diagnoses (ICD-10-CM)"),
    "codiesp-p": CorpusSpec(
        "codiesp", partial(_read_codiesp_group, group="PROC"), "CodiEsp-X, procedures (ICD-10-PCS)"
    ),
    "bronco": CorpusSpec("bronco", read_bronco, "BRONCO150 (ICD-10-GM, OPS, ATC)"),
}


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: Its name on the command line.
        about: What it is, for reports.
        mentions: terms.mentions' SCHEMA, each with gold; perhaps GROUPS_COLUMN too.
        space: The dictionary.
        row_counts: By language.
        composite: Whether a mention may be `a|b`.
        training: The terminology whose names count as seen; None if none was given.
        training_mentions: Mentions whose strings and concepts count as seen, instead of a terminology's; None if none were given.
    """

    name: str
    about: str
    mentions: pa.Table
    space: SearchSpace
    row_counts: Mapping[str, RowCounts]
    composite: bool = False
    training: Path | None = None
    training_mentions: pa.Table | None = None

    def metadata(self) -> dict[str, Any]:
        """What a report states about it; results of a task with the same metadata are comparable."""
        return {
            "about": self.about,
            "mentions": {"n": self.mentions.num_rows, "sha256": hash_of(self.mentions)},
            "dictionary": self.space.metadata(),
            "composite": self.composite,
            "row_counts": {code: asdict(counts) for code, counts in self.row_counts.items()},
        }


def hash_of(mentions: pa.Table) -> str:
    """sha256 over mention, language and gold of each row, independent of the order of rows."""
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
        read = partial(read_bigbio, db_name=database, language=language[0])
        return CorpusSpec("bigbio", read, f"{name}, in BigBIO's schema")
    if name not in CORPORA:
        hint = did_you_mean(name, CORPORA, otherwise=f"they are {', '.join(CORPORA)}, {BIGBIO}DATABASE:LANGUAGE")
        raise ConfigError(f"unknown corpus '{name}'{hint}")
    return CORPORA[name]


def data_keys() -> list[str]:
    """The keys of --data."""
    return [HPO, ICD10CM, *dict.fromkeys(corpus.data for corpus in CORPORA.values()), "bigbio", TRAINING]


def brings_dictionary(task: str) -> bool:
    """Whether a task has its own dictionary: HPO's English names, or ICD-10-CM's."""
    return task in (HPO, CODIESP_IN_ICD10CM) or (task.endswith(IN_HPO) and not task.startswith(OWN))


def task_name(given: str) -> str:
    """The name of a task in reports: without the folder of one's own mentions."""
    return f"{OWN}{Path(given.removeprefix(OWN)).name}" if given.startswith(OWN) else given


def check_task_names(given: Sequence[str]) -> None:
    """Raise ConfigError if two different tasks would have one name in reports."""
    for name in dict.fromkeys(map(task_name, given)):
        same = [each for each in dict.fromkeys(given) if task_name(each) == name]
        if len(same) > 1:
            raise ConfigError(f"expected files of different names, found {' and '.join(same)}; rename one of them")


def open_task(
    name: str,
    data: Mapping[str, Path],
    work: Path,
    *,
    dictionary: str | None = None,
    languages: tuple[str, ...] | None = (ENGLISH,),
    split_hpo: Callable[[Path, Path], Path] = held_out_hpo,
) -> Task:
    """Read the mentions and the dictionary of a task.

    Args:
        name: `hpo`, a corpus (`corpus_of`), a corpus with `-in-hpo`, `codiesp-in-icd10cm`, or `mentions:FILE`.
        data: Where the files of each corpus are.
        work: Folder for files that are downloaded or derived.
        dictionary: As `open_search_space` takes it, for a task without its own.
        languages: Languages of the names that are taken from a terminology; None for all.
        split_hpo: Splits HPO's source folder, for tasks that need it.

    Raises:
        ConfigError: If something is not given.
        DataError: If files cannot be read.
    """
    if name == CODIESP_IN_ICD10CM:
        return _open_in_icd10cm(name, data)
    if brings_dictionary(name):
        hpo_corpus = None if name == HPO else corpus_of(name.removesuffix(IN_HPO))
        return _open_in_hpo(name, hpo_corpus, data, split_hpo(_given(data, HPO, name), work))
    corpus = None if name.startswith(OWN) else corpus_of(name)
    if dictionary is None:
        expected = "--dictionary, a terminology's folder or a file of id||name"
        raise ConfigError(f"task '{name}' needs something to link into: {expected}")
    if corpus is None:
        given, about, composite = read_gold(name.removeprefix(OWN)), "Own mentions", False
    else:
        given, about, composite = corpus.read(_given(data, corpus.data, name)), corpus.about, corpus.composite
    mentions, counts = keep_with_gold(given)
    space = open_search_space(dictionary, work, languages)
    check_gold(mentions["concept_ids"].to_pylist(), frozenset(space.concepts), dictionary="dictionary")
    return Task(task_name(name), about, mentions, space, counts, composite, data.get(TRAINING))


def _open_in_hpo(name: str, corpus: CorpusSpec | None, data: Mapping[str, Path], split: Path) -> Task:
    terminology = Terminology.load(split / "terminology")
    space = SearchSpace.from_terminology(terminology, "HPO, English names")
    training = data.get(TRAINING, split / "terminology")
    if corpus is None:
        mentions, counts = keep_with_gold(read_mentions(split / "mentions.tsv"))
        about = "HPO: held-out OFFICIAL translations of a fifth of the concepts"
        return Task(name, about, mentions, space, counts, training=training)
    mentions, counts = restrict(corpus.read(_given(data, corpus.data, name)), terminology)
    about = f"{corpus.about}: mentions whose concept HPO cross-references"
    return Task(name, about, mentions, space, counts, corpus.composite, training)


def _open_in_icd10cm(name: str, data: Mapping[str, Path]) -> Task:
    corpus, folder = CORPORA["codiesp-d"], _given(data, ICD10CM, name)
    mentions, terminology = corpus.read(_given(data, corpus.data, name)), Terminology.load(folder)
    space = SearchSpace.from_terminology(terminology, "ICD-10-CM, English names")
    codes = [[with_icd_dot(code) for code in ids] for ids in mentions["concept_ids"].to_pylist()]
    column = mentions.schema.get_field_index("concept_ids")
    field = mentions.schema.field(column)
    kept, counts = restrict(mentions.set_column(column, field, pa.array(codes, field.type)), terminology)
    about = f"{corpus.about}: mentions whose code ICD-10-CM has"
    return Task(name, about, kept, space, counts, corpus.composite, data.get(TRAINING, folder))


def with_icd_dot(code: str) -> str:
    """An ICD-10 code as classifications write it, in capitals and with a dot after three characters: q6211 → Q62.11."""
    flat = code.upper().strip().replace(".", "")
    return f"{flat[:3]}.{flat[3:]}" if len(flat) > 3 else flat


def _given(data: Mapping[str, Path], key: str, task: str) -> Path:
    if key not in data:
        raise ConfigError(f"task '{task}' needs the files of {key}: --data {key}=PATH")
    return data[key]


def keep_with_gold(mentions: pa.Table) -> tuple[pa.Table, dict[str, RowCounts]]:
    """The mentions that have a gold concept, and row counts by language. Raises DataError if none has."""
    has_gold = pc.greater(pc.list_value_length(mentions["concept_ids"]), 0)
    kept = mentions.filter(has_gold)
    if not kept.num_rows:
        raise DataError(f"expected mentions with gold concepts, found none among {mentions.num_rows:,}")
    kept_counts = count(kept)
    counts = {}
    for code, before in count(mentions).items():
        after = kept_counts[code].kept if code in kept_counts else 0
        dropped = before.rows_in - after
        counts[code] = RowCounts(before.rows_in, after, {NO_GOLD: dropped} if dropped else {})
    return kept, counts
