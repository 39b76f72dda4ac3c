"""Two recipes trained for as many minutes on one terminology: the original SapBERT's, and ours. Each is a command of its own, and leaves a model.

Both start from random weights of one size (2 layers × 256) and train their vocabulary of 8,000 pieces on the same names. Ours is
`configs/train/small.toml`, and goes on where it was cut; the original's has no resume, so a run that was cut begins again. Its learning rate is the
best of those tried (LOG.md). The original's clock starts when its names are tokenised, ours too.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from xsap.artifacts import content_hash, read_manifest
from xsap.errors import ConfigError, XsapError

RECIPES = ("xsap", "reference")
REFERENCE_LR = 1e-3
_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "train" / "small.toml"
_TRAIN = Path(__file__).resolve().parents[1] / "xsap" / "train.py"


def check_recipe(recipe: str) -> None:
    """Raise ConfigError if there is no such recipe."""
    if recipe not in RECIPES:
        raise ConfigError(f"unknown recipe '{recipe}'; they are {' and '.join(RECIPES)}")


def trained(recipe: str, terminology: Path, minutes: float, work: Path) -> Path:
    """The model's folder, trained unless it is there already. Raises XsapError if the training fails."""
    check_recipe(recipe)
    told = f"{content_hash(read_manifest(terminology, 'terminology'))} {minutes} {_CONFIG.read_text(encoding='utf-8')}"
    place = work / f"recipe-{recipe}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    model = place if recipe == "reference" else place / "model"
    if model.is_dir():
        return model
    print(f"training by the recipe '{recipe}', {minutes:g} minutes", file=sys.stderr, flush=True)
    if recipe == "reference":
        words = ["-m", "benchmarks", "speed", "reference-run", "--terminology", str(terminology), "--out", str(place)]
        words += ["--size", "small", "--lr", str(REFERENCE_LR), "--minutes", str(minutes)]
    else:
        settings = {"terminology": terminology, "output": place, "max_minutes": minutes, "resume": "auto"}
        words = [str(_TRAIN), "--config", str(_CONFIG), *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]
    done = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise XsapError(f"training by the recipe '{recipe}' ended with exit code {done.returncode}; its own message stands above")
    return model
