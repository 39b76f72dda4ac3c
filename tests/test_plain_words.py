"""Plain words: no public name means two things, and no word of the left column of the table in CONTRIBUTING.md comes back."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT

PACKAGES = ("xsap", "data_prep", "benchmarks")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Parts of identifiers, between underscores, that are words of the old dialect.
OLD_PARTS = [
    "askable",
    "likeness",
    "spelt",
    "alike",
    "mend",
    "tongue",
    "tongues",
    "heir",
    "heirs",
    "lent",
    "fate",
    "fates",
    "sieve",
    "lever",
    "levers",
    "race",
    "racing",
    "facts",
    "askapart",
    "neighbour",
    "neighbours",
    "normalise",
    "normalised",
    "tokenise",
    "tokenised",
    "quantise",
    "quantised",
    "colour",
    "colours",
    "leftovers",
    "weigh",
    "weighed",
    "invented",
    "invent",
    "told",
    "workplace",
    "elsewhere",
]
OLD_NAMES = [
    "why_not",
    "refuse_to_replace",
    "amend",
    "added_file",
    "give_back",
    "rows_a_shard",
    "left_out",
    "error_by_chance",
    "in_one_line",
    "no_file",
    "inert",
    "hard_concepts",
    "refresh_every",
    "second_share",
    "encoder_precision",
    "parse_memory",
    "contents_of",
    "Owners",
    "Cheap",
    "Odds",
    "Account",
    "Recent",
    "Elsewhere",
    "Material",
    "Workplace",
    "Hiding",
    "Tally",
    "Offer",
]
# Words of prose: docstrings, comments, messages, help texts and pages.
OLD_PROSE = re.compile(
    r"""\b(
        askable | likeness | spelt | mend(s|ed|ing)? | heirs? | tongues | (is|are|was|were)\ lent | levers? | leftovers |
        neighbou?rhood\ of\ words | neighbours? | normalis\w+ | tokenis\w+ | quantis\w+ | colou?rs?\ of\ speech | behaviour |
        goes\ on\ after | let\ be | let-be | unreachable | times\ as\ (fast|long) | in\ turns | made[ -]up | invented |
        told | heed | surely | surest | afterwards | (bit\ by|to\ the)\ bit
    )\b""",
    re.VERBOSE | re.IGNORECASE,
)

# One public name in several modules: the same thing at another level, or the one word that every such module has to use.
SAME_THING = {
    name: reason
    for reason, names in {
        "every program has one": "main app logger",
        "command and library function": "evaluate calibrate tune_fusion link_file merge probe convert",
        "a result as text, as a table, as a plot": "to_text to_markdown plot",
        "type variables and aliases": "T R Values TerminologyFolder Case Dtype",
        "what each speed benchmark defines": "IMPLEMENTATIONS OURS TOLERANCE FLOAT32_TOLERANCE PRODUCT_ROWS VOCABULARY_SIZE "
        "check_agreement linear_flops targets_of",
        "sizes and seeds, each of its own module": "SEED MAX_LINE_BYTES NAMES_PER_BATCH ROWS_PER_BATCH NAMES_PER_CONCEPT "
        "PAIRS_PER_CONCEPT MIN_MENTIONS CUTS",
        "format version of what the module writes": "FORMAT",
        "row of the mean over languages": "MEAN",
        "file name of an HNSW index": "HNSW_FILE",
        "the same part of two source formats": "CONCEPT SOURCE find_files",
    }.items()
    for name in names.split()
}


def public_names(tree: ast.Module) -> set[str]:
    """Classes, functions and constants that a module defines for others."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def names_with_two_homes(modules: dict[str, str]) -> dict[str, list[str]]:
    """Public name → the modules that define it, where these are several."""
    homes: dict[str, list[str]] = {}
    for module, code in modules.items():
        for name in public_names(ast.parse(code)):
            homes.setdefault(name, []).append(module)
    return {name: sorted(found) for name, found in homes.items() if len(found) > 1 and name not in SAME_THING}


def identifiers(code: str) -> set[str]:
    return {
        token.string for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type == tokenize.NAME
    }


def old_identifiers(code: str) -> set[str]:
    """Identifiers of the old dialect."""
    found = identifiers(code)
    return {name for name in found if name in OLD_NAMES or any(part in OLD_PARTS for part in name.lower().split("_"))}


def prose_of(code: str) -> list[str]:
    """Strings and comments of a module."""
    wanted = (tokenize.STRING, tokenize.COMMENT)
    return [token.string for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type in wanted]


def old_words(text: str) -> list[str]:
    return [match[0] for match in OLD_PROSE.finditer(text)]


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_no_public_name_means_two_things():
    assert names_with_two_homes({relative(file): file.read_text(encoding="utf-8") for file in FILES}) == {}


def test_two_homes_of_a_name_are_found():
    assert names_with_two_homes({"a": "class Side: pass", "b": "Side = 1", "c": "def main(): pass"}) == {
        "Side": ["a", "b"]
    }


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_module_has_no_word_of_the_old_dialect(file):
    code = file.read_text(encoding="utf-8")
    assert old_identifiers(code) == set()
    assert [(word, text[:80]) for text in prose_of(code) for word in old_words(text)] == []


def test_names_of_tests_have_no_word_of_the_old_dialect():
    names = {
        node.name
        for file in TESTS
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    parts = {*OLD_PARTS, "whoever", "nobody", "somebody"}
    assert {name for name in names if parts & set(name.split("_"))} == set()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_page_has_no_word_of_the_old_dialect(page):
    assert old_words(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code", ["def likeness(): pass", "x.heirs = 1", "def f(encoder_precision): pass", "Owners = 1"]
)
def test_old_identifier_is_found(code):
    assert old_identifiers(code)


@pytest.mark.parametrize(
    "text", ["likeness in spelling", "it goes on after a kill", "Neighbours", "is let be", "mended"]
)
def test_old_word_is_found(text):
    assert old_words(text)


def test_public_functions_describe_every_argument():
    """Args sections of what `xsap` exports: every parameter of every public function and method."""
    import inspect

    import xsap

    missing = []
    for name in xsap.__all__:
        exported = getattr(xsap, name)
        members = [exported] if inspect.isfunction(exported) else [
            getattr(exported, member)
            for member, raw in vars(exported).items()
            if not member.startswith("_") and (inspect.isfunction(raw) or isinstance(raw, classmethod | staticmethod))
        ]  # fmt: skip
        for member in members:
            parameters = [p for p in inspect.signature(member).parameters if p not in ("self", "cls")]
            text = inspect.getdoc(member) or ""
            section = re.search(r"^Args:\n((?:[ ].*\n?|\n)*)", text, flags=re.MULTILINE)
            described = set(re.findall(r"^ {4}\*{0,2}(\w+):", section[1], flags=re.MULTILINE)) if section else set()
            absent = set(parameters) - described
            if not text or (absent and len(parameters) > 0):
                missing.append((f"{name}.{member.__name__}", sorted(absent)))
    assert missing == []


def test_no_test_patches_a_private_name():
    patches = re.compile(r"""(setattr|patch(\.object)?)\([^)\n]*["'](?:[\w.]*\.)?(_[a-z]\w*|_[A-Z]\w*)["']""")
    found = [
        (relative(file), match[3])
        for file in TESTS
        if file.name != "test_plain_words.py"
        for match in patches.finditer(file.read_text(encoding="utf-8"))
        if match[3] not in ("_int_mm", "_is_vnni_supported")  # torch's
    ]
    assert found == []


def test_no_test_imports_another_test():
    imports = re.compile(r"^\s*(?:from|import) (?:tests\.\w+\.)?(test_\w+)", re.MULTILINE)
    found = [
        (relative(file), match[1]) for file in TESTS for match in imports.finditer(file.read_text(encoding="utf-8"))
    ]
    assert found == []
