"""`xsap train`, `encode`, `probe`, `convert` and `shrink`: make a model, or work with a model alone."""

from pathlib import Path
from typing import Annotated

import typer

from xsap.artifacts import check_can_write, write_atomically
from xsap.errors import ConfigError
from xsap.files import read_lines
from xsap.output_paths import check_new_file
from xsap.terminal import (
    Dtype,
    DtypeOption,
    MaxLength,
    Model,
    OutputFolder,
    Overwrite,
    Pooling,
    Prompt,
    Revision,
    TerminologyFolder,
    announce_wait,
    log,
    output,
    show_progress,
    stdin_lines,
)


def train_model(context: typer.Context) -> None:
    """Train an encoder on the synonyms of a terminology.

    `xsap train --help` lists every setting.
    """
    from xsap.train import main

    main(context.args)


def encode(
    model: Model,
    out: Annotated[Path, typer.Option(help="The .npy file to write: float32 unit vectors (names, dimension).")],
    names: Annotated[Path | None, typer.Option(help="Text file with one name per line; by default stdin.")] = None,
    revision: Revision = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    prompt: Prompt = None,
    dtype: DtypeOption = Dtype.AUTO,
    overwrite: Overwrite = False,
) -> None:
    """Embed names, without an index."""
    if out.suffix != ".npy":
        raise ConfigError(f"expected --out to end in .npy, found {out}")
    check_new_file(out, overwrite=overwrite)
    lines = read_lines(names) if names else stdin_lines()
    import numpy as np

    from xsap.encoding.encoder import Encoder
    from xsap.encoding.precision import open_encoder_in

    with announce_wait(f"loading {model}"):
        encoder = open_encoder_in(
            dtype.value,
            lambda each: Encoder.from_pretrained(
                model, pooling=pooling, max_length=max_length, prompt=prompt, revision=revision, dtype=each
            ),
        )
    vectors = encoder.encode(lines, progress=show_progress())
    with write_atomically(out, binary=True) as stream:
        np.save(stream, vectors, allow_pickle=False)
    log(f"{out}: {len(vectors):,} vectors of {encoder.dimension} components")


def shrink(
    model: Model,
    terminology: TerminologyFolder,
    out: OutputFolder,
    mentions: Annotated[
        Path | None, typer.Option(help="Mentions, as for evaluate, to report how many are tokenized as before.")
    ] = None,
    revision: Revision = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    prompt: Prompt = None,
    overwrite: Overwrite = False,
) -> None:
    """Remove the vocabulary that a terminology does not use.

    Text that is tokenized into the remaining pieces keeps its vectors.
    """
    check_can_write(out, overwrite=overwrite, kind="model")
    from xsap.encoding.encoder import Encoder
    from xsap.encoding.vocabulary import shrink_to, unchanged_texts
    from xsap.evaluation.protocols import read_queries
    from xsap.terms.terminology import Terminology

    texts = read_queries(mentions)["mention"].to_pylist() if mentions else []
    names = Terminology.load(terminology)
    encoder = Encoder.from_pretrained(model, pooling=pooling, max_length=max_length, prompt=prompt, revision=revision)
    smaller = shrink_to(encoder, names.names["name"].to_pylist())
    shrunk = {"shrunk": {"model": encoder.content_hash, "terminology": names.content_hash}}
    smaller.save_pretrained(out, overwrite=overwrite, metadata=shrunk)
    rows = [each.transformer.get_input_embeddings().num_embeddings for each in (encoder, smaller)]
    weights = [sum(weight.numel() for weight in each.transformer.parameters()) for each in (encoder, smaller)]
    log(
        f"{out}: {rows[0]:,} → {rows[1]:,} vocabulary rows, {weights[0]:,} → {weights[1]:,} parameters, "
        f"{weights[0] * 4 / 1e6:,.1f} → {weights[1] * 4 / 1e6:,.1f} MB in float32"
    )
    if texts:
        unchanged = unchanged_texts(encoder, smaller, texts)
        changed = [text for text, same in zip(texts, unchanged, strict=True) if not same]
        examples = f"; changed: {', '.join(repr(text) for text in changed[:5])}" if changed else ""
        log(f"{mentions}: {100 * unchanged.mean():.1f} % of {len(texts):,} mentions are tokenized as before{examples}")


def probe(model: Model, revision: Revision = None, prompt: Prompt = None) -> None:
    """Show which pooling finds synonyms best.

    Embeds twenty pairs of synonyms under each pooling. The best pooling comes
    first: give it to the other commands as --pooling.
    """
    from xsap.encoding.known_models import find_known_model
    from xsap.encoding.probe import open_for_probe
    from xsap.encoding.probe import probe as probe_model
    from xsap.encoding.sample_names import SAMPLE_NAMES

    with announce_wait(f"loading {model}"):
        results = probe_model(open_for_probe(model, revision, prompt))
    known = find_known_model(model)
    with output(None) as stream:
        stream.write(f"pooling   synonym nearest (of {len(SAMPLE_NAMES)})  margin\n")
        for result in results:
            nearest = round(result.nearest * len(SAMPLE_NAMES))
            stream.write(f"{result.pooling:8}  {nearest:23}  {result.margin:+.4f}\n")
    if known is not None:
        log(known.describe())


def convert(
    model: Model,
    out: OutputFolder,
    revision: Revision = None,
    pooling: Pooling = None,
    max_length: MaxLength = None,
    prompt: Prompt = None,
    overwrite: Overwrite = False,
) -> None:
    """Save any model as a folder that states how to use it.

    The folder has safetensors, pooling, length, prompts and a manifest; it
    opens here and in SentenceTransformer with the same vectors. Pickled
    weights (.bin) are read as tensors alone; nothing in them is run.
    """
    check_can_write(out, overwrite=overwrite, kind="model")
    from xsap.encoding.encoder import Encoder

    with announce_wait(f"loading {model}"):
        encoder = Encoder.from_pretrained(
            model, pooling=pooling, max_length=max_length, prompt=prompt, revision=revision
        )
    encoder.save_pretrained(out, overwrite=overwrite, metadata={"converted_from": encoder.content_hash})
    prompts = " and ".join(f"'{each}'" for each in dict.fromkeys(encoder.prompts))
    stated = f"pooling {encoder.pooling}, {encoder.max_length} tokens" + (
        f", prompt {prompts}" if any(encoder.prompts) else ""
    )
    log(f"{out}: {encoder.dimension} dimensions, {stated}")
