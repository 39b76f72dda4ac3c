"""A synthetic UMLS release of any size, in the true format, with everything that makes readers fail.

Files as https://www.ncbi.nlm.nih.gov/books/NBK9685/ describes them. Rows per concept and the fractions of repeated
names and of English are those of 2020AA (14.77 million rows, 10.28 million of them English, 8.74 million different
ones: the original notebook's printed output). The fractions of the other 24 languages of 2020AB, of suppressed rows and
of trade names are close to the true ones, not exact. Included are opening and closing quotes, backslashes, names of
thousands of characters, decomposed accents, invisible characters, names that many concepts have, empty codes, and
retired identifiers. No licensed string is in it. A seed gives the same bytes on any machine; rows are written as they
are generated.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO

from xsap.artifacts import publish

# Language, percent of the rows, the alphabet of its words, and its sources.
_LANGUAGES = """
ENG 69.60 a-z SNOMEDCT_US,MSH,NCBI,RXNORM,LNC,NCI,MTH,MEDCIN,OMIM,HPO
SPA 10.20 a-zñáéíóú SCTSPA,MSHSPA,MDRSPA,WHOSPA
FRE 2.80 a-zéèçàô MSHFRE,MDRFRE,LNC-FR-FR
POR 2.70 a-zãçéõ MSHPOR,MDRPOR
JPN 2.10 ア-ンー心肺肝腎炎痛 MDRJPN,MSHJPN
RUS 1.90 а-я MSHRUS,MDRRUS
DUT 1.90 a-zë MDRDUT,LNC-NL-NL
GER 1.60 a-zäöüß MSHGER,MDRGER,LNC-DE-DE
ITA 1.60 a-zàèù MSHITA,MDRITA
CZE 1.30 a-zřžčšě MSHCZE,MDRCZE
KOR 0.90 가-힣 KCD5,MDRKOR,LNC-KO-KR
HUN 0.70 a-zőűáé MDRHUN,ICPCHUN
CHI 0.60 一-丿心肺肝腎炎痛 MDRCHI,LNC-ZH-CN
NOR 0.40 a-zæøå MSHNOR
POL 0.40 a-złżźćń MSHPOL
TUR 0.30 a-zğşıçö LNC-TR-TR
EST 0.25 a-zõäöü LNC-ET-EE
GRE 0.25 α-ω LNC-EL-GR
SWE 0.20 a-zåäö MSHSWE
FIN 0.15 a-zäö MSHFIN
SCR 0.10 a-zšđčćž MSHSCR
LAV 0.02 a-zāčēģī MSHLAV
DAN 0.01 a-zæøå ICPCDAN
BAQ 0.01 a-zñ ICPCBAQ
HEB 0.01 א-ת ICPCHEB
"""
_TERM_TYPES = ("PT", "SY", "PN", "ET", "LN", "AB", "ACR", "OP", "BN", "IN")
_TYPES: tuple[tuple[str, str], ...] = (
    ("T047", "Disease or Syndrome"),
    ("T184", "Sign or Symptom"),
    ("T121", "Pharmacologic Substance"),
    ("T033", "Finding"),
)
_TYPES += (
    ("T061", "Therapeutic or Preventive Procedure"),
    ("T204", "Eukaryote"),
    ("T116", "Amino Acid, Peptide, or Protein"),
)
_RELATIONS = (
    ("CHD", "isa"),
    ("PAR", "inverse_isa"),
    ("RO", "has_ingredient"),
    ("RO", ""),
    ("SIB", ""),
    ("RN", "mapped_from"),
)
WORDS_PER_LANGUAGE = 6_000
ROWS_PER_CONCEPT = 3.6
ROWS_PER_WRITE = 50_000
REPEATED, SHARED = 0.15, 0.03  # fractions of names: an earlier one of the same concept, one that many concepts have
TRADENAMES = 0.015  # fraction of relations; each of these is written in both directions


@dataclass(frozen=True)
class _Language:
    """A language of the release. words: from the most frequent to the rarest. weights: cumulative. sources: SAB."""

    code: str
    words: list[str]
    weights: list[float]
    sources: list[str]


class _Writer:
    """One file of the release, with the counts that MRFILES announces."""

    def __init__(self, stream: IO[bytes], columns: int) -> None:
        self.stream, self.columns, self.rows, self.bytes = stream, columns, 0, 0

    def write(self, lines: list[str]) -> None:
        data = "".join(lines).encode()
        self.stream.write(data)
        self.rows += len(lines)
        self.bytes += len(data)


def generate(out: Path, *, rows: int, relations: int = 0, seed: int = 0, overwrite: bool = False) -> None:
    """Write a META folder.

    Args:
        out: The folder.
        rows: Rows of MRCONSO.
        relations: Rows of MRREL.
        seed: Another seed gives another release.
        overwrite: Whether to replace a folder that xsap made.

    Raises:
        ArtifactError: `out` exists and cannot be replaced.
    """
    languages = [_language(*line.split(), seed=seed) for line in _LANGUAGES.strip().splitlines()]
    percentages = [float(line.split()[1]) for line in _LANGUAGES.strip().splitlines()]
    # The first name of each concept is English, so among the others English is less frequent.
    percentages[0] = (percentages[0] / 100 - 1 / ROWS_PER_CONCEPT) / (1 - 1 / ROWS_PER_CONCEPT) * 100
    percentages[1:] = [percent / (1 - 1 / ROWS_PER_CONCEPT) for percent in percentages[1:]]
    with publish(
        out, "synthetic UMLS release", {"rows": rows, "relations": relations, "seed": seed}, overwrite=overwrite
    ) as folder:
        sizes: dict[str, _Writer] = {}
        with (folder / "MRCONSO.RRF").open("wb") as conso, (folder / "MRSTY.RRF").open("wb") as sty:
            sizes |= {"MRCONSO.RRF": _Writer(conso, 18), "MRSTY.RRF": _Writer(sty, 6)}
            concepts = _concepts(
                sizes["MRCONSO.RRF"], sizes["MRSTY.RRF"], languages, percentages, rows, random.Random(f"{seed} names")
            )
        others = {
            "MRREL.RRF": (16, _relations(concepts, relations, random.Random(f"{seed} relations"))),
            "MRCUI.RRF": (7, _retired(concepts, random.Random(f"{seed} retired"))),
            "MRRANK.RRF": (4, _ranks(languages)),
            "MRSAB.RRF": (25, _sources(languages)),
        }
        for name, (columns, parts) in others.items():
            with (folder / name).open("wb") as stream:
                sizes[name] = _Writer(stream, columns)
                for lines in parts:
                    sizes[name].write(lines)
        announced = [f"{name}|synthetic|COLUMNS|{w.columns}|{w.rows}|{w.bytes}|\n" for name, w in sorted(sizes.items())]
        (folder / "MRFILES.RRF").write_text("".join(announced), encoding="utf-8")


def _language(code: str, percent: str, alphabet: str, sources: str, *, seed: int) -> _Language:  # noqa: ARG001
    rng = random.Random(f"{seed} {code}")
    letters = _letters(alphabet)
    short = len(letters) > 60  # each letter is a syllable or a word
    lengths = (1, 2, 3) if short else (3, 5, 6, 7, 8, 10, 13)
    words = ["".join(rng.choices(letters, k=rng.choice(lengths))) for _ in range(WORDS_PER_LANGUAGE)]
    if not short:
        words = [word.title() if rng.random() < 0.2 else word for word in words]
    return _Language(code, words, list(accumulate(1 / (n + 10) for n in range(WORDS_PER_LANGUAGE))), sources.split(","))


def _letters(alphabet: str) -> list[str]:
    """`a-zé` → every letter from a to z, and é."""
    letters, at = [], 0
    while at < len(alphabet):
        if alphabet[at + 1 : at + 2] == "-":
            letters += [chr(n) for n in range(ord(alphabet[at]), ord(alphabet[at + 2]) + 1)]
            at += 3
        else:
            letters.append(alphabet[at])
            at += 1
    return letters


def _concepts(
    conso: _Writer, sty: _Writer, languages: list[_Language], percentages: list[float], rows: int, rng: random.Random
) -> list[int]:
    """Write MRCONSO and MRSTY → the numbers of the concepts."""
    cumulative = list(accumulate(percentages))
    shared = [
        "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=rng.choice((2, 3, 4)))) for _ in range(3_000)
    ]
    concepts: list[int] = []
    cui, left = 0, rows
    lines: list[str] = []
    types: list[str] = []
    while left:
        cui += rng.choice((1, 1, 1, 2, 5))
        concepts.append(cui)
        size = min(
            left,
            1 + int(rng.expovariate(1 / (ROWS_PER_CONCEPT - 0.65))) if rng.random() < 0.999 else rng.randrange(50, 400),
        )
        lines += _atoms(
            cui, [languages[0], *rng.choices(languages, cum_weights=cumulative, k=size - 1)], shared, rows - left, rng
        )
        for tui, name in {rng.choice(_TYPES) for _ in range(2 if rng.random() < 0.05 else 1)}:
            types.append(f"C{cui:07d}|{tui}|A1.2.3|{name}|AT{cui:08d}|256|\n")
        left -= size
        if len(lines) > ROWS_PER_WRITE or not left:
            conso.write(lines)
            sty.write(types)
            lines, types = [], []
    return concepts


def _atoms(cui: int, languages: list[_Language], shared: list[str], first: int, rng: random.Random) -> Iterator[str]:
    """The rows of one concept; `first` is the number of the first one in the file."""
    names: dict[str, list[str]] = {}
    for number, language in enumerate(languages, start=first):
        known = names.setdefault(language.code, [])
        chance = rng.random()
        if known and chance < REPEATED / (1 - 1 / ROWS_PER_CONCEPT):
            name = rng.choice(known) if chance < 0.1 else rng.choice(known).upper()
        elif chance > 1 - SHARED:
            name = rng.choice(shared)
        else:
            name = _name(language, rng)
        preferred = "P|L{0:08d}|PF|S{0:08d}|Y" if not known else "S|L{0:08d}|VO|S{0:08d}|N"
        known.append(name)
        code = rng.choice(("NOCODE", "")) if chance < 0.02 else f"{cui % 99_991:05d}.{number % 97}"
        suppress = "N" if rng.random() < 0.86 else rng.choice("OOOYE")
        kind = rng.choice(_TERM_TYPES)
        source = language.sources[int(len(language.sources) * rng.random() ** 2)]
        yield (
            f"C{cui:07d}|{language.code}|{preferred.format(number)}|A{number:08d}||{code}||{source}|{kind}|{code}|{name}"
            f"|{'9' if chance < 0.5 else '0'}|{suppress}|{'256' if chance < 0.3 else ''}|\n"
        )


def _name(language: _Language, rng: random.Random) -> str:
    name = " ".join(rng.choices(language.words, cum_weights=language.weights, k=rng.choice((1, 2, 2, 3, 3, 4, 5, 7))))
    odd = rng.random()
    if odd > 0.06:
        return name
    if odd > 0.03:
        return f"{name}, {rng.randrange(500)} MG/ML [{name[:9]}]"
    if odd > 0.02:
        return f'"{name}' if odd > 0.025 else f"""{name} "so-called" 5' -> 3'"""
    if odd > 0.01:
        return f" {name}  \\{name[:4]} " if odd > 0.015 else name.replace("e", "e\u0301").replace("a", "a\u200b")
    if odd > 0.002:
        return f"{name}; {{{name}}} <{name}> & 100% \t{name}"
    return " ".join(rng.choices(language.words, k=rng.randrange(40, 400)))


def _relations(concepts: list[int], rows: int, rng: random.Random) -> Iterator[list[str]]:
    for first in range(0, rows, ROWS_PER_WRITE):
        lines: list[str] = []
        while len(lines) < min(ROWS_PER_WRITE, rows - first):
            one, two = rng.choices(concepts, k=2)
            number = first + len(lines)
            if rng.random() < TRADENAMES / 2:
                pairs = [(one, two, "RO", "tradename_of"), (two, one, "RO", "has_tradename")]
            else:
                pairs = [(one, two, *rng.choice(_RELATIONS))]
            for a, b, relation, label in pairs:
                source = "RXNORM" if "tradename" in label else "SNOMEDCT_US"
                lines.append(
                    f"C{a:07d}|A{a:08d}|SCUI|{relation}|C{b:07d}|A{b:08d}|SCUI|{label}|R{number:09d}||{source}|{source}||Y|N||\n"
                )
        yield lines[: rows - first]


def _retired(concepts: list[int], rng: random.Random) -> Iterator[list[str]]:
    """Retired identifiers, above those in use, for one in fifty concepts: replaced, made broader, deleted."""
    for first in range(0, len(concepts) // 50, ROWS_PER_WRITE):
        lines = []
        for at in range(first, min(first + ROWS_PER_WRITE, len(concepts) // 50)):
            relation = rng.choice(("SY", "SY", "SY", "RB", "RN", "RO", "DEL"))
            successor = "" if relation == "DEL" else f"C{rng.choice(concepts):07d}"
            lines.append(f"C{9_000_000 - at:07d}|2019AB|{relation}|||{successor}|{'Y' if successor else ''}|\n")
        yield lines


def _ranks(languages: list[_Language]) -> Iterator[list[str]]:
    keys = [
        (sab, kind, flag)
        for flag in "EYON"
        for kind in reversed(_TERM_TYPES)
        for language in languages
        for sab in language.sources
    ]
    yield [f"{rank:04d}|{sab}|{kind}|{flag}|\n" for rank, (sab, kind, flag) in enumerate(keys, start=1)]


def _sources(languages: list[_Language]) -> Iterator[list[str]]:
    yield [
        f"C90{n:02d}|C91{n:02d}|{sab}_2020|{sab}|A synthetic source|{sab}|2020|||2020AB||||0||||PT,SY||{language.code}|UTF-8|Y|Y|{sab}||\n"
        for n, (language, sab) in enumerate((language, sab) for language in languages for sab in language.sources)
    ]
