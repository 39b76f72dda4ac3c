"""Train an encoder: `xsap train --config small --set KEY=VALUE`; by several processes, `accelerate launch -m xsap.train` with the same options."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# Python puts a script's folder first on the path, where modules of xsap could hide others; the checkout's root belongs there.
if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from xsap import __version__
from xsap.config import describe_settings, load_settings
from xsap.errors import ConfigError
from xsap.settings_files import recipe_names
from xsap.terminal import end_sentence, exit_codes, show_progress

PROGRAM = "xsap train"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{end_sentence(message)} See {PROGRAM} --help")


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the settings, train, and print the model's folder.

    Args:
        arguments: The command line after the program's name; by default that of the process.
    """
    parser = _Parser(
        prog=PROGRAM,
        description="Train an encoder on the synonyms of a terminology.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings, in a TOML file or as --set KEY=VALUE:\n{describe_settings()}",
    )
    parser.add_argument(
        "--config", metavar="FILE", help=f"TOML file of settings, or a recipe: {', '.join(recipe_names())}"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="set one setting; may be repeated"
    )
    parser.add_argument("--version", action="version", version=f"xsap {__version__}")
    with exit_codes(PROGRAM, if_interrupted="interrupted; resume with --set resume=auto"):
        options = parser.parse_args(arguments)
        settings = load_settings(options.config, options.set)
        from accelerate import PartialState

        from xsap.training.run import train

        model = train(settings, progress_bar=show_progress())
        if PartialState().is_main_process:
            print(model)


if __name__ == "__main__":
    main()
