"""`xsap review`: decide on linked terms in the browser, with the keyboard."""

import getpass
import webbrowser
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer

from xsap.errors import ConfigError
from xsap.terminal import HeaderRow, MovedModel, Rerank, Sheet, TextEncoding, log

if TYPE_CHECKING:
    from xsap.linking.linker import Linker

HOST = "127.0.0.1"


def review(
    file: Annotated[
        Path, typer.Argument(help="Table of terms, linked or not; a save file of Usagi; or a review, .sqlite.")
    ],
    index: Annotated[Path, typer.Option(help="Index folder, to link the terms and to search concepts.")],
    column: Annotated[str | None, typer.Option(help="Column with the terms; by default 'term' or 'mention'.")] = None,
    code_column: Annotated[str | None, typer.Option(help="Column with the terms' codes in their source.")] = None,
    language_column: Annotated[str | None, typer.Option(help="Column with the terms' languages.")] = None,
    context_column: Annotated[
        str | None, typer.Option(help="Column with the texts that the terms are from, for --rerank.")
    ] = None,
    frequency_column: Annotated[str | None, typer.Option(help="Column that says how often a term occurs.")] = None,
    sheet: Sheet = None,
    header_row: HeaderRow = 1,
    encoding: TextEncoding = None,
    out: Annotated[
        Path | None, typer.Option(help="File of the review; by default beside the table, NAME.review.sqlite.")
    ] = None,
    reviewer: Annotated[str | None, typer.Option(help="Your name in the decisions; by default your user name.")] = None,
    model: MovedModel = None,
    rerank: Rerank = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 for any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Review linked terms in the browser.

    Approve the first candidate, choose another one, search for a concept, or decide that none fits. Every decision is
    stored at once in one file, which export, evaluate and tune read.
    """
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise ConfigError(f"xsap review needs {package}; install it: pip install 'xsap[serve]'")
    import secrets

    from xsap.artifacts import manifest_hash, read_manifest
    from xsap.server.listen import address_of, reserved_port, serve_until_stopped
    from xsap.server.review_input import ReviewInput, open_review
    from xsap.server.review_routes import ReviewPage, review_app
    from xsap.server.security import OwnPageOnly

    name = _reviewer_name(reviewer)
    index_hash = manifest_hash(read_manifest(index, "index"))
    source = ReviewInput(
        file,
        column,
        code_column,
        language_column,
        frequency_column,
        sheet,
        header_row,
        encoding,
        context_column,
        rerank,
    )
    with reserved_port(HOST, port) as reserved:
        linker = _load_in_background(index, model, rerank)
        store, message = open_review(source, out, index_hash, linker.result)
        log(f"{store.path}: {message}")
        url, token = address_of(reserved, HOST), secrets.token_urlsafe(32)
        number = url.rpartition(":")[2]

        def define(concept_id: str, language: str) -> str | None:
            ready = linker.done() and linker.exception() is None
            return linker.result().index.definition_of(concept_id, language) if ready else None

        page = review_app(ReviewPage(store, linker.result, name, file.name, define=define))
        app = OwnPageOnly(
            page, hosts=[f"{HOST}:{number}", f"localhost:{number}"], token=token, cookie=f"xsap_review_{number}"
        )
        address = f"{url}/?token={token}"

        def ready() -> None:
            log(f"{address}  reviewed by {name}; Ctrl+C stops")
            if browser:
                webbrowser.open(address)

        try:
            serve_until_stopped(app, reserved, ready)
        finally:
            store.close()


def _reviewer_name(given: str | None) -> str:
    """Who decides: as given, or the user of this computer."""
    try:
        name = getpass.getuser() if given is None else given.strip()
    except (OSError, KeyError):
        name = ""
    if not name or len(name) > 100:
        raise ConfigError(f"expected --reviewer to be a name of at most 100 characters, found '{name[:40]}'")
    return name


def _load_in_background(index: Path, model: str | None, rerank: str | None) -> "Future[Linker]":
    """A linker that is loaded while the page can be used already; whoever needs it waits."""
    loading: Future[Linker] = Future()

    def load() -> None:
        try:
            from xsap.linking.linker import Linker

            loading.set_result(Linker.load(index, model=model, rerank=rerank))
        except BaseException as error:  # it is raised where the linker is needed
            loading.set_exception(error)

    Thread(target=load, daemon=True).start()
    return loading
