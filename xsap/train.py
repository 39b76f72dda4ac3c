"""Train an encoder: `accelerate launch xsap/train.py --config FILE --set KEY=VALUE`, in a checkout or installed, from any directory."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

# Python puts a script's folder first on the path, where modules of xsap could hide others; the checkout's root belongs there.
if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from xsap import __version__
from xsap.config import describe_settings, load_settings
from xsap.errors import ConfigError
from xsap.terminal import exit_codes

PROGRAM = "xsap/train.py"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See {PROGRAM} --help")


def main() -> None:
    """Read the settings, train, and print the model's folder."""
    parser = _Parser(
        prog=f"accelerate launch {PROGRAM}",
        description="Train an encoder on the synonyms of a terminology.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings, in a TOML file or as --set KEY=VALUE:\n{describe_settings()}",
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings; see configs/train/")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="set one setting; may be repeated"
    )
    parser.add_argument("--version", action="version", version=f"xsap {__version__}")
    with exit_codes(PROGRAM, if_interrupted="interrupted; resume with --set resume=auto"):
        arguments = parser.parse_args()
        settings = load_settings(arguments.config, arguments.set)
        from accelerate import PartialState

        from xsap.training.run import train

        model = train(settings)
        if PartialState().is_main_process:
            print(model)


if __name__ == "__main__":
    main()
