"""The documentation: README within its limits, its code blocks run and show what comes, examples run, the site builds without a warning."""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.fixtures.commands import ROOT, Run

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, run: Run, sample_folder: Path, tiny_folder: Path) -> Path:
    """A folder with demo/index in it, as `make demo` builds it but of an untrained model: exact names come first all the same."""
    folder = tmp_path_factory.mktemp("readme")
    done = run(
        "-m", "xsap", "index", tiny_folder, sample_folder, "--languages", "all", "--out", folder / "demo" / "index"
    )
    assert done.returncode == 0, done.stderr
    return folder


def blocks_with_output(language: str) -> list[tuple[str, str]]:
    """Blocks of a language that are followed by a block of their output."""
    found = BLOCK.findall(README)
    return [
        (code, found[i + 1][1])
        for i, (kind, code) in enumerate(found[:-1])
        if kind == language and found[i + 1][0] == "text"
    ]


def test_readme_is_short():
    lines = README.splitlines()
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert len(lines) <= 110
    assert len(README.split()) <= 700
    assert [line for line in lines if len(line) > 120] == []
    assert len(prose.split()) > 200


def test_readme_python_block_prints_the_output_shown(demo, run, tmp_path):
    [(code, shown)] = blocks_with_output("python")
    (tmp_path / "block.py").write_text(code, encoding="utf-8")
    done = run(tmp_path / "block.py", cwd=demo)
    assert (done.stdout, done.returncode) == (shown, 0), done.stderr


def test_readme_shell_block_prints_the_output_shown(demo, shell):
    [(code, shown)] = [(code, shown) for code, shown in blocks_with_output("sh") if code.startswith("xsap")]
    done = shell(code, demo)
    assert (done.stdout, done.returncode) == (shown, 0), done.stderr


def test_readme_make_targets_exist():
    targets = set(re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_docs_python_blocks_name_what_exists(page):
    """Import lines of every block run; a name that is gone would fail here."""
    imports = [
        line
        for language, code in BLOCK.findall(page.read_text(encoding="utf-8"))
        if language == "python"
        for line in code.splitlines()
        if line.startswith(("from xsap", "import xsap"))
    ]
    exec("\n".join(imports), {})


OPTIONS = re.compile(
    r"(xsap(?:-prepare)?|python -m benchmarks) ([a-z][a-z-]*(?: (?:train|encode|search|prepare|reference-run|rerank|xlbel|mantra|corpus))?)[^\n|`]*"
)


def documented_options() -> list[tuple[str, str, str]]:
    """(program, command, option) of every command line in README and docs."""
    found = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for _, code in BLOCK.findall(text):
            for line in code.splitlines():
                for match in OPTIONS.finditer(line):
                    for option in re.findall(r"(?<=\s)(--[a-z][a-z-]*)", match[0]):
                        found.add((match[1], match[2], option))
    return sorted(found)


def test_documented_options_exist(run_here):
    helps: dict[tuple[str, str], str] = {}
    unknown = []
    modules = {
        "xsap": ["-m", "xsap"],
        "xsap-prepare": ["-m", "data_prep"],
        "python -m benchmarks": ["-m", "benchmarks"],
    }
    for program, command, option in documented_options():
        if (program, command) not in helps:
            done = run_here(*modules[program], *command.split(), "--help")
            helps[program, command] = done.stdout
        if not re.search(rf"{option}\b", helps[program, command]):
            unknown.append((program, command, option))
    assert len(helps) >= 8
    assert unknown == []


def test_examples_link_column_prints_the_best_concept(demo, run, tmp_path):
    (tmp_path / "terms.csv").write_text("id,term\n1,Fieber\n2,\n", encoding="utf-8")
    done = run(ROOT / "examples" / "link_column.py", demo / "demo" / "index", tmp_path / "terms.csv", "term")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "Fieber\tC9000001\tfever\t1.000"
    assert done.stdout.splitlines()[1].startswith("\t-\t")


@pytest.mark.slow
def test_examples_train_small_leaves_an_index(sample_folder, tmp_path, shell):
    sizes = "--set scratch.vocabulary_size=3000 --set scratch.hidden=32 --set scratch.heads=2 --set max_steps=2"
    command = f"{ROOT}/examples/train_small.sh {sample_folder} out {sizes} --set optim.warmup_steps=1"
    done = shell(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "index" / "manifest.json").is_file()


@pytest.mark.slow
def test_examples_evaluate_xlbel_prints_scores(demo, sample_folder, tmp_path, shell):
    file = tmp_path / "de_1k_test_query.txt"
    file.write_text("C9000001||Fieber\nC9000004||Brustschmerz\n", encoding="utf-8")
    command = f"{ROOT}/examples/evaluate_xlbel.sh {demo}/demo/index {sample_folder} {tmp_path}/out {file}"
    done = shell(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "German" in done.stdout


def test_examples_notebook_cells_run(demo, run, tmp_path):
    notebook = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
    code = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    (tmp_path / "notebook.py").write_text(code, encoding="utf-8")
    done = run(tmp_path / "notebook.py", cwd=demo)
    assert done.returncode == 0, done.stderr


def test_docs_build_strictly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        capture_output=True, text=True, cwd=ROOT, timeout=300, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "api" / "index.html").is_file()


def test_architecture_page_lists_every_module_once():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\s+([\w/]+\.py)\s", page, flags=re.MULTILINE)
    modules = [
        file.relative_to(ROOT).as_posix()
        for package in ("xsap", "data_prep", "benchmarks")
        for file in (ROOT / package).rglob("*.py")
        if file.name != "__init__.py" or file.parent.name == "xsap"
    ]
    assert sorted(listed) == sorted(modules)


DOCS = sorted((ROOT / "docs").glob("*.md"))
LINKS = re.compile(r"\]\(([\w./-]+)(?:#([\w-]+))?\)")


def anchors_of(page: str) -> set[str]:
    """Anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_links_of_the_readme_exist():
    links = LINKS.findall(README)
    assert len(links) >= 20
    missing = [path for path, _ in links if not (ROOT / path).exists()]
    lost = [
        (path, anchor)
        for path, anchor in links
        if anchor and anchor not in anchors_of((ROOT / path).read_text(encoding="utf-8"))
    ]
    assert (missing, lost) == ([], [])


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"^ +- [^:]+: ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [page.name for page in DOCS]


def test_home_page_links_every_page():
    linked = {path for path, _ in LINKS.findall((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in DOCS} - linked == {"index.md"}


@pytest.mark.parametrize(
    ("module", "written"),
    [
        ("xsap.cli", r"xsap {}\b"),
        ("data_prep.__main__", r"(?:xsap-prepare |`){}\b"),
        ("benchmarks.__main__", r"python -m benchmarks {}\b"),
    ],
)
def test_every_command_is_on_a_page(module, written):
    from typer.main import get_command

    commands = get_command(import_module(module).app).commands
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS if page.stem != "architecture")
    assert len(commands) >= 9
    assert [name for name in commands if not re.search(written.format(name), pages)] == []


# The page of promises: each test that it names exists, and those that are marked slow say so.


PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| Promise")]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_every_promise_has_a_test():
    assert len(ROWS) >= 40
    assert [row for row in ROWS if "::test_" not in row] == []
    assert "promises.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_test_of_a_promise_exists_and_runs_where_the_page_says(file, test):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == test]
    marks = {ast.unparse(mark) for mark in found.decorator_list}
    row = next(row for row in ROWS if f"`{file}::{test}`" in row)
    assert ("pytest.mark.slow" in marks) == ("(slow)" in row)
