"""`xsap index`: a terminology and a model → an index."""

from pathlib import Path
from typing import Annotated

import typer

from xsap.artifacts import refuse_to_replace
from xsap.commands.terminal import MaxLength, Overwrite, Pooling, log, watched
from xsap.languages import parse_languages


def index(
    model: Annotated[str, typer.Argument(help="A model's folder, or its id on the Hugging Face hub.")],
    terminology: Annotated[Path, typer.Argument(help="A terminology's folder, as xsap-prepare makes it.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    languages: Annotated[str, typer.Option(help="Whose names to embed: 'all', or codes such as 'en,es'.")] = "en",
    pooling: Pooling = None,
    max_length: MaxLength = None,
    overwrite: Overwrite = False,
) -> None:
    """Embed a terminology's names, for `link` and `evaluate` to search."""
    chosen = parse_languages(languages)
    refuse_to_replace(out, overwrite=overwrite)
    from xsap.encoding.encoder import Encoder
    from xsap.linking.index import Index
    from xsap.terms.terminology import Terminology

    names = Terminology.load(terminology)
    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length)
    built = Index.build(names, encoder, languages=chosen, model_path=model, progress=watched())
    built.save(out, overwrite=overwrite)
    facts = built.facts()
    dropped = "".join(f"; dropped {count:,} ({reason})" for reason, count in built.contents.dropped.items())
    log(f"{out}: {facts['names']:,} names of {facts['concepts']:,} concepts{dropped}")
