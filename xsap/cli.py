"""`xsap`: train a model, build an index, link terms, evaluate and calibrate, encode names, shrink a model.

The commands themselves stand in `xsap/commands/`. Torch and everything that needs it is imported inside them, so that `--help` and wrong
options answer at once.
"""

from collections.abc import Sequence

from xsap.commands.evaluate import calibrate, evaluate, tune_fusion
from xsap.commands.exchange import check, export_mappings
from xsap.commands.index import index, merge
from xsap.commands.link import link
from xsap.commands.memory import silver, swap_memory, train_memory_model
from xsap.commands.model import convert, encode, probe, shrink, train_model
from xsap.commands.publish import push
from xsap.commands.rerank import train_cross_encoder
from xsap.commands.review import review
from xsap.commands.serve import serve
from xsap.commands.text import annotate_documents
from xsap.commands.tune import tune
from xsap.terminal import create_app, run

app = create_app("Link clinical and biomedical terms in any language to the concepts of a terminology.")
unparsed = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}  # xsap.train reads them itself
app.command("train", context_settings=unparsed, add_help_option=False)(train_model)
for command in (tune, index, merge, link, evaluate, calibrate, tune_fusion, encode, probe, convert, shrink, push,
                review, serve, check, silver, swap_memory):  # fmt: skip
    app.command()(command)
app.command("train-reranker")(train_cross_encoder)
app.command("export")(export_mappings)
app.command("text")(annotate_documents)
app.command("train-memory")(train_memory_model)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `xsap`: run a command line, by default that of the process, and exit."""
    run(app, "xsap", arguments)


if __name__ == "__main__":
    main()
