"""Rules of CONTRIBUTING.md about modules, imports, sizes and side effects, read from the syntax trees of the code."""

import ast
import sys
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("xsap", "data_prep", "benchmarks")

# A module imports only modules above it.
ORDER = [
    "errors", "text", "languages", "settings_files", "config", "atomic", "output_paths", "artifacts", "files", "plots", "page", "progress", "terminal",
    "tabular.cells", "tabular.delimited_text", "tabular.xlsx", "tabular.workbooks", "tabular.readers",
    "terms.semantic_types", "terms.source_licenses", "terms.hierarchy", "terms.concept_details", "terms.terminology", "terms.mentions", "terms.corpus", "terms.brat", "terms.bigbio", "terms.codiesp", "terms.annotated_corpora", "terms.abbreviations", "terms.clinical_text",
    "encoding.forks", "encoding.sample_names", "encoding.int8", "encoding.packing", "encoding.layers", "encoding.packed_layers", "encoding.convert_weights", "encoding.known_models", "encoding.model_json", "encoding.model_card", "encoding.sentence_transformer", "encoding.model_folder", "encoding.threads", "encoding.encoder", "encoding.token_vectors", "encoding.vocabulary", "encoding.probe", "encoding.precision",
    "search.vectors", "search.exact", "search.approximate",
    "evaluation.gold", "evaluation.metrics", "evaluation.strata", "evaluation.folds",
    "linking.name_keys", "linking.arguments", "linking.mention_context", "linking.details", "linking.dictionary", "linking.dictionary_files", "linking.ranking", "linking.results", "linking.fusion", "linking.logistic", "linking.calibration",
    "linking.encoder_spec", "linking.mention_names", "linking.mention_weight", "linking.mention_build", "linking.mention_files", "linking.index_files", "linking.index", "linking.shards", "linking.build_memory", "linking.build", "linking.rejection", "linking.preparation", "linking.retrieval",
    "text_in.words", "text_in.stop_words", "text_in.spans", "text_in.spellings", "text_in.document_abbreviations", "text_in.annotate", "linking.rerank", "linking.rerank_candidates", "linking.rerank_hook", "linking.late_interaction", "linking.cross_inputs", "linking.cross_encoder", "linking.rerank_choice", "linking.broader", "linking.linker",
    "text_in.memory_texts", "text_in.memory_table", "text_in.memory", "text_in.memory_original", "text_in.memory_annotate", "text_in.memory_answers", "text_in.memory_heads",
    "evaluation.protocols", "evaluation.tuning", "evaluation.calibration_report", "evaluation.broader_answers", "evaluation.context_ablation",
    "tabular.answers", "tabular.spreadsheet_text", "tabular.text_table", "tabular.workbook_writer", "tabular.writers",
    "tabular.resume", "tabular.link_file", "text_in.documents", "text_in.given_spans", "text_in.formats", "text_in.text_file", "cluster", "hub_upload",
    "exchange.mapping", "exchange.linked_table", "exchange.usagi_text", "exchange.usagi", "exchange.usagi_writer", "exchange.athena", "exchange.omop", "exchange.review_workbook",
    "exchange.code_systems", "exchange.record_fields", "exchange.sssom_slots", "exchange.sssom_file", "exchange.sssom_rows", "exchange.sssom", "exchange.fhir",
    "server.concepts", "text_in.spacy_components", "exchange.fhir_terminology", "exchange.fhir_capabilities", "server.link_queue", "server.metrics", "server.requests", "server.reconciliation", "server.reconciliation_data",
    "server.reconciliation_routes", "server.link_route", "server.fhir_routes", "server.app", "server.listen",
    "server.security", "server.review_decisions", "server.review_file", "server.review_store", "server.review_load", "server.review_list",
    "server.review_input", "server.review_routes", "exchange.mapping_files", "exchange.decided_mentions", "exchange.checks",
    "training.sampling", "training.losses", "training.mining", "training.large_batch", "training.embedding_table", "training.base_weights", "training.frozen_layers",
    "training.run_folder", "training.dataset", "training.ngrams", "training.mention_set", "training.candidates", "training.trainer", "training.supervised", "training.alignment", "training.processes", "training.memory_corpus", "training.memory_losses", "training.memory_settings", "training.memory_run", "training.memory_heads", "training.report", "training.run", "training.tune", "training.reranker_loss", "training.reranker_examples", "training.silver_mentions", "training.reranker", "train",
    "commands.evaluate", "commands.index", "commands.link", "commands.tune", "commands.model", "commands.memory", "commands.publish", "commands.serve", "commands.review", "commands.exchange", "commands.text", "commands.rerank", "cli", "__main__",
]  # fmt: skip
NEEDS_TORCH = {
    "encoding", "search", "linking", "evaluation", "tabular.answers", "tabular.text_table", "tabular.workbook_writer", "tabular.writers",
    "tabular.link_file", "cluster", "hub_upload", "exchange", "server", "training", "commands", "text_in",
    "train", "cli", "__main__",
}  # fmt: skip
TORCH_FREE = [name for name in ORDER if not {name, name.split(".")[0]} & NEEDS_TORCH]
HEAVY = {"torch", "transformers", "accelerate", "datasets", "sentencepiece", "safetensors"}
TAKEN = {"datasets", "tokenizers", "logging", "types", "evaluate", "distributed", "tables", "utils"}
NAMELESS = {"utils", "util", "common", "helpers", "helper", "base", "misc"}


@cache
def trees():
    """Every module, parsed when the first test asks: parsing takes seconds, and all workers import this file."""
    return {
        file: ast.parse(file.read_text(encoding="utf-8"))
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
    }


def of(*packages):
    return [
        (file.relative_to(ROOT).as_posix(), tree)
        for file, tree in trees().items()
        if file.relative_to(ROOT).parts[0] in packages
    ]


@cache
def imported(tree):
    """Every dotted name that a module imports, wherever it stands in it; `from a import b` gives a.b."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {"." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names}
    return frozenset(names)


def place(name):
    """Where in ORDER the module stands that `xsap.…` names or lies in; past its end for what is none, such as the lazy names of xsap."""
    words = name.split(".")[1:]
    found = [ORDER.index(".".join(words[:n])) for n in range(len(words), 0, -1) if ".".join(words[:n]) in ORDER]
    return found[0] if found else 0 if words == ["__version__"] else len(ORDER)


def out_of_order(module, tree):
    return sorted(
        name for name in imported(tree) if name.split(".")[0] == "xsap" and place(name) >= ORDER.index(module)
    )


def foreign(tree, forbidden):
    return sorted(name for name in imported(tree) if name.split(".")[0] in forbidden)


@cache
def calls(tree):
    """(call, its function's dotted name, the functions and with-statements around it)."""
    found = []

    def visit(node, around):
        if isinstance(node, ast.Call):
            found.append((node, ast.unparse(node.func), around))
        inside = (*around, node) if isinstance(node, ast.FunctionDef | ast.With) else around
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, ())
    return found


def folds_or_composes(tree):
    """What only text.py does to names: fold their case, compose their characters."""
    found = [name for _, name, _ in calls(tree) if name.rpartition(".")[2] in {"lower", "upper", "casefold"}]
    return sorted([*found, *(name for name in imported(tree) if name.split(".")[0] == "unicodedata")])


def is_writing_mode(node):
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and set(node.value) <= set("rwaxbt+")
        and set(node.value) & set("wax+")
    )


def writes(call, name):
    holder, _, last = name.rpartition(".")
    if last == "open" and holder != "os":
        of_a_path = holder not in {"", "io", "codecs", "gzip", "bz2", "lzma", "tarfile", "zipfile"}
        modes = [call.args[:1] if of_a_path else call.args[1:2], [k.value for k in call.keywords if k.arg == "mode"]]
        return any(is_writing_mode(mode) for mode in sum(modes, []))
    return (
        last in {"write_text", "write_bytes", "write_table", "save_file"}
        and "." in name
        or name in {"np.save", "np.savez", "save_file"}
    )


def writes_in_place(tree):
    """The functions that write a file outside a `with publish(…)`, `with write_atomically(…)` or a temporary folder."""
    found = set()
    for call, name, around in calls(tree):
        if writes(call, name):
            opened = [
                ast.unparse(item.context_expr) for node in around if isinstance(node, ast.With) for item in node.items
            ]
            if not any(
                text.startswith(("publish(", "write_atomically(", "tempfile.TemporaryDirectory(")) for text in opened
            ):
                found.add(
                    next((node.name for node in reversed(around) if isinstance(node, ast.FunctionDef)), "<module>")
                )
    return sorted(found)


def unsafe(tree):
    """Pickle in any guise, and code from a model's folder."""
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    found = foreign(tree, modules) + sorted(imported(tree) & {"torch.load", "torch.save"})
    for call, name, _ in calls(tree):
        if name in {"torch.load", "torch.save", "eval", "exec"} or name.endswith((".read_pickle", ".to_pickle")):
            found.append(name)
        found += [f"{k.arg}={ast.unparse(k.value)}" for k in call.keywords if k.arg in {"trust_remote_code", "allow_pickle"} and ast.unparse(k.value) != "False"]  # fmt: skip
    return found


def at_import(tree):
    """What a module does while it is imported that belongs into a function: logging set-up, device probing, the environment, printing."""
    forbidden = {
        "environ",
        "getenv",
        "putenv",
        "basicConfig",
        "is_available",
        "device_count",
        "set_num_threads",
        "setLevel",
        "print",
    }
    found = []

    def visit(node):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for early in [
                *getattr(node, "decorator_list", []),
                *node.args.defaults,
                *filter(None, node.args.kw_defaults),
            ]:
                visit(early)
            return
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            return
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
        found.extend([name] if name in forbidden else [])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def codes_compared(tree):
    """Language codes that stand in comparisons: UMLS codes, and `en`."""
    from xsap.languages import _UMLS

    spelled = {*_UMLS.values(), *map(str.lower, _UMLS.values()), "en"}
    return sorted(
        node.value
        for comparison in ast.walk(tree)
        if isinstance(comparison, ast.Compare)
        for node in ast.walk(comparison)
        if isinstance(node, ast.Constant) and node.value in spelled
    )


def found_in(check, packages, allowed):
    """file → what `check` finds in it, less what is allowed there; and an allowance that nothing needs is a finding too."""
    found = {file: set(check(tree)) for file, tree in of(*packages)}
    left = {file: names - allowed.get(file, set()) for file, names in found.items()}
    unused = {
        file: f"allowed, but not there: {names - found.get(file, set())}"
        for file, names in allowed.items()
        if names - found.get(file, set())
    }
    return {file: names for file, names in left.items() if names} | unused


# The rules


def test_the_order_holds_every_module_once():
    files = [
        file.relative_to(ROOT / "xsap")
        for file in trees()
        if file.is_relative_to(ROOT / "xsap") and file.name != "__init__.py"
    ]
    assert sorted(ORDER) == sorted(".".join(file.with_suffix("").parts) for file in files)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_modules_above_it(module):
    assert out_of_order(module, trees()[ROOT / "xsap" / f"{module.replace('.', '/')}.py"]) == []


def test_the_folders_of_xsap_are_floors_without_code_of_their_own():
    insides = [file for file in trees() if file.name == "__init__.py" and file != ROOT / "xsap" / "__init__.py"]
    assert {file.parent.name for file in insides} >= {"terms", "encoding", "linking", "training"}
    assert [file for file in insides if trees()[file].body] == []


def test_imports_are_absolute_and_static():
    def hidden(tree):
        dynamic = [name for _, name, _ in calls(tree) if name.rpartition(".")[2] in {"import_module", "__import__"}]
        return dynamic + [name for name in imported(tree) if name.startswith(".")]

    assert found_in(hidden, PACKAGES, {"xsap/__init__.py": {"import_module"}}) == {}


def test_data_prep_stands_on_the_ground_and_the_terms_alone():
    allowed = {f"xsap.{name}" for name in TORCH_FREE}
    for file, tree in of("data_prep"):
        own = {name for name in imported(tree) if name.split(".")[0] == "xsap"}
        assert not [name for name in own if not any(name == home or name.startswith(f"{home}.") for home in allowed)], (
            file
        )
        tolerated = (
            {"sentencepiece", "safetensors"} if str(file).endswith("e5_small.py") else set()
        )  # to write a model, without torch
        assert foreign(tree, (HEAVY | {"benchmarks"}) - tolerated) == [], file


@pytest.mark.parametrize("module", TORCH_FREE)
def test_ground_and_terms_are_free_of_torch(module):
    assert foreign(trees()[ROOT / "xsap" / f"{module.replace('.', '/')}.py"], HEAVY) == []


def test_benchmarks_and_data_prep_meet_in_files_and_xsap_knows_neither():
    forbidden = {"benchmarks": {"data_prep"}, "data_prep": {"benchmarks"}, "xsap": {"data_prep", "benchmarks"}}
    for package, others in forbidden.items():
        assert found_in(lambda tree, others=others: foreign(tree, others), [package], {}) == {}


def test_no_name_right_under_xsap_hides_a_package():
    own = {entry.stem for entry in (ROOT / "xsap").iterdir() if entry.is_dir() or entry.suffix == ".py"} - {
        "__init__",
        "__pycache__",
    }
    installed = {name for name, homes in packages_distributions().items() if set(homes) != {"xsap"}}
    assert {"errors", "terms", "train"} <= own
    assert {"torch", "numpy", "pytest"} <= installed
    assert own & (sys.stdlib_module_names | installed | TAKEN) == set()


LONGEST_FILE, LONGEST_FUNCTION = 450, 60  # lines


def long_functions(tree):
    """Functions whose code, signature and docstring not counted, is longer than a screen."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            found += [f"{node.name}: {length} lines"] if length > LONGEST_FUNCTION else []
    return found


def test_file_has_at_most_450_lines():
    lengths = {
        file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines()) for file in trees()
    }
    assert {file: n for file, n in lengths.items() if n > LONGEST_FILE} == {}


def test_function_fits_a_screen():
    assert found_in(long_functions, PACKAGES, {}) == {}


def test_nothing_is_named_for_what_is_left_over():
    names = {part for file in trees() for part in file.relative_to(ROOT).with_suffix("").parts}
    assert names & NAMELESS == set()


def test_importing_does_nothing_that_can_be_seen():
    assert found_in(at_import, PACKAGES, {}) == {}


def test_no_pickle_and_no_code_from_a_models_folder():
    allowed = {"xsap/encoding/convert_weights.py": {"torch.load"}}  # in a child process, tensors alone
    assert found_in(unsafe, PACKAGES, allowed) == {}


def test_names_are_folded_and_composed_in_one_place():
    allowed = {
        "xsap/text.py": {
            "name.lower",
            "unicodedata",
            "unicodedata.normalize('NFKC', _plain_punctuation(drop_invisible(name))).casefold",
        },
        "xsap/languages.py": {"code.lower", "code.strip().lower", "text.strip().lower"},
        "xsap/settings_files.py": {"error['msg'][:1].lower", "str(value).lower"},
        "xsap/tabular/writers.py": {"out.suffix.lower"},
        "xsap/tabular/xlsx.py": {"part.casefold", "letters.casefold"},
        "xsap/plots.py": {"path.suffix.lower"},
        "xsap/terms/semantic_types.py": {"group.strip().casefold", "key.casefold"},
        "data_prep/accounting.py": {"text.strip().lower"},
        "xsap/errors.py": {"choice.casefold", "text.strip().casefold"},
        "xsap/encoding/known_models.py": {"each.casefold", "model_id.casefold"},
        "xsap/files.py": {"path.name.lower", "path.suffix.lower"},
        "data_prep/claml.py": {"value.strip().lower"},
        "data_prep/obo.py": {"scope.lower"},
        "data_prep/ontology_model.py": {"iri.lower"},
        "data_prep/translations.py": {"column.lower", "scope.lower"},
        "data_prep/unspecified.py": {"plain[0].upper"},  # a title begins with a capital
        "benchmarks/accuracy/tasks.py": {"code.upper"},
        "benchmarks/speed/notebook.py": {"cells[14].lower"},  # as the original does
        "benchmarks/speed/synthetic_umls.py": {"rng.choice(known).upper"},
    }
    assert found_in(folds_or_composes, PACKAGES, allowed) == {}


def test_language_codes_are_compared_in_one_place():
    allowed = {"data_prep/umls.py": {"LAT"}}  # a column of MRCONSO, not Latin
    assert found_in(codes_compared, PACKAGES, allowed) == {}


def test_files_are_written_aside_and_published():
    allowed = {
        "xsap/artifacts.py": {"_seal", "write_atomically"},
        "xsap/tabular/writers.py": {"write"},  # on a stream that it is given
        "xsap/linking/mention_files.py": {"write_mention_names"},  # into the same folder
        "xsap/linking/dictionary_files.py": {"write_dictionary"},  # into the folder that its caller publishes
        "xsap/linking/details.py": {"write_details"},  # likewise
        "xsap/search/vectors.py": {"write_vectors"},  # into the folder that its caller publishes
        "xsap/text_in/text_file.py": {
            "put",
            "_brat_writer",
        },  # into a temporary folder that then takes the output's place
        "xsap/text_in/memory_table.py": {"write"},  # into the folder that its caller publishes
        "xsap/training/trainer.py": {"_log"},  # metrics.jsonl grows while the run lasts
        "xsap/encoding/convert_weights.py": {"main"},  # into the folder that `convert` moves into its place
        "data_prep/assemble.py": {"add"},  # a temporary file
        "data_prep/e5_small.py": {
            "write_model_folder",
            "_write_json",
            "_write_tokenizer",
        },  # into the folder that `download` publishes
        "data_prep/download.py": {"_fetch"},  # into the folder that `download` publishes
        "data_prep/wheels.py": {"extract_from_wheel"},  # files that its caller publishes
    }
    assert found_in(writes_in_place, ("xsap", "data_prep"), allowed) == {}


# The rules can fail


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("errors", "import xsap.text"),
        ("text", "from xsap import text"),
        ("artifacts", "def late():\n    from xsap.terms.terminology import Terminology"),
        ("terms.terminology", "from xsap.terms import mentions"),
        ("linking.linker", "from xsap import Linker"),
        ("terms.mentions", "import xsap"),
        ("encoding.packing", "class A:\n    if True:\n        import xsap.encoding.encoder as e"),
        ("terms.mentions", "from xsap.terms.unheard_of import x"),
        ("train", "from xsap.cli import main"),
    ],
)
def test_an_import_of_what_stands_below_is_seen(module, code):
    assert out_of_order(module, ast.parse(code))


def test_an_import_of_what_stands_above_is_none():
    code = "import torch\nfrom xsap.errors import DataError\nfrom xsap.terms import mentions\nfrom xsap import __version__\nimport xsap.text"
    assert out_of_order("linking.linker", ast.parse(code)) == []


@pytest.mark.parametrize(
    ("check", "code"),
    [
        (folds_or_composes, "x = name.lower()"),
        (folds_or_composes, "x = (lambda n: n.casefold())(1)"),
        (folds_or_composes, "def f():\n    import unicodedata as u"),
        (folds_or_composes, "from unicodedata import normalize"),
        (folds_or_composes, "x = str.lower(name)"),
        (writes_in_place, "open('x', 'w')"),
        (writes_in_place, "Path('x').open(mode='ab')"),
        (writes_in_place, "def f():\n    with gzip.open('x', 'wt') as s: pass"),
        (writes_in_place, "p.write_text('x')"),
        (writes_in_place, "np.save(p, x)"),
        (writes_in_place, "pq.write_table(t, p)"),
        (writes_in_place, "with open('x', 'r+b') as f: pass"),
        (unsafe, "def f():\n    import pickle"),
        (unsafe, "from torch import load"),
        (unsafe, "torch.load('x', weights_only=True)"),
        (unsafe, "AutoModel.from_pretrained(x, trust_remote_code=True)"),
        (unsafe, "AutoModel.from_pretrained(x, trust_remote_code=trust)"),
        (unsafe, "np.load(x, allow_pickle=True)"),
        (at_import, "import os\nX = os.environ['X']"),
        (at_import, "import logging\nlogging.basicConfig()"),
        (at_import, "class A:\n    device = 'cuda' if torch.cuda.is_available() else 'cpu'"),
        (at_import, "def f(x=os.getenv('X')): pass"),
        (codes_compared, "if language == 'ENG': pass"),
        (codes_compared, "x = [n for n in names if n.language in ('eng', 'spa')]"),
        (codes_compared, "if language != 'en': pass"),
    ],
)
def test_a_break_of_a_rule_is_seen(check, code):
    assert check(ast.parse(code))


@pytest.mark.parametrize(
    ("check", "code"),
    [
        (folds_or_composes, "'''name.lower() and unicodedata'''"),
        (writes_in_place, "open('x')\nPath('x').open('rb')\nos.open(p, os.O_RDONLY)\ntarfile.open(name)"),
        (writes_in_place, "with publish(p, 'x', {}) as folder:\n    (folder / 'x').write_text('x')"),
        (writes_in_place, "with write_atomically(p) as s:\n    s.write('x')"),
        (unsafe, "# torch.load\nAutoModel.from_pretrained(x, trust_remote_code=False)"),
        (at_import, "def f():\n    return os.environ['X']\nif __name__ == '__main__':\n    print(1)"),
        (codes_compared, "x = 'ENG'"),
    ],
)
def test_what_keeps_a_rule_is_let_be(check, code):
    assert check(ast.parse(code)) == []
