"""`accelerate launch xsap/train.py --config F --set k=v`: trains an encoder, from any directory, in a checkout or installed."""

import argparse
import sys
from pathlib import Path

# Run as a script, Python puts this folder first on the path, where our names could hide others'; the checkout's root belongs there.
if __name__ == "__main__" and sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> None:
    """Read the settings, run, and print the model's folder. Exits with 2 and one line on wrong use or bad input."""
    parser = argparse.ArgumentParser(
        prog="accelerate launch xsap/train.py", description="Train an encoder on a terminology's synonyms."
    )
    parser.add_argument("--config", metavar="FILE", help="settings in TOML; configs/train/ has some to start from")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="one more setting; may be repeated"
    )
    arguments = parser.parse_args()
    from xsap.config import load_settings
    from xsap.errors import XsapError

    try:
        settings = load_settings(arguments.config, arguments.set)
        from accelerate import PartialState

        from xsap.training.run import run

        model = run(settings)
        if PartialState().is_main_process:
            print(model)
    except XsapError as error:
        print("error:", *str(error).splitlines(), file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk, a folder that may not be written
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; continue with --set resume=auto", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
