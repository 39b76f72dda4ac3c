"""`xsap push`: upload a model or an index to the Hugging Face hub."""

from pathlib import Path
from typing import Annotated

import typer

from xsap.terminal import log, output


def push(
    folder: Annotated[Path, typer.Argument(help="Model or index folder that xsap saved.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the hub, owner/name; made if there is none.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; by default it is private.")
    ] = False,
    include_restricted: Annotated[
        bool,
        typer.Option(
            "--include-restricted",
            help="Also upload names or vectors of sources that are not known to be open.",
        ),
    ] = False,
) -> None:
    """Upload a model or an index to the Hugging Face hub.

    Uploads the files of the folder's manifest and README.md, nothing else.
    Log in first: hf auth login, or set HF_TOKEN.
    """
    from huggingface_hub import HfApi

    from xsap.hub_upload import plan_upload, upload_folder
    from xsap.terms.source_licenses import describe_sources

    plan = plan_upload(folder)
    address = upload_folder(plan, repo_id, HfApi(), public=public, include_restricted=include_restricted)
    if plan.restricted:
        log(f"uploaded as asked, though not known to be open: {describe_sources(plan.restricted)}")
    log(f"{folder}: {len(plan.files):,} files, {plan.size / 1e6:,.1f} MB")
    with output(None) as stream:
        stream.write(f"{address}\n")
