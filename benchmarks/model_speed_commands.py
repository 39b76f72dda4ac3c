"""Commands of `python -m benchmarks speed` about a model: its training step and its encoding, against other implementations."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.speed.harness import OURS, DeviceName, finish, select_device
from xsap.errors import ConfigError
from xsap.plots import check_plot

if TYPE_CHECKING:
    from benchmarks.speed.reference import Size


class SizeName(StrEnum):
    """Size of a model."""

    BASE = "base"
    SMALL = "small"


JsonTo = Annotated[Path | None, typer.Option("--json", help="JSON file to write, with all figures.")]
PlotTo = Annotated[Path | None, typer.Option("--plot", help="Bar chart to write, .png or .svg.")]
TerminologyOption = Annotated[Path, typer.Option("--terminology", help="Terminology folder whose names are used.")]
ModelSize = Annotated[
    SizeName, typer.Option(help="base: XLM-R base (12 layers × 768). small: 2 layers × 256, for a trial.")
]
OptionalSize = Annotated[
    SizeName | None,
    typer.Option(
        help="Random weights. base, the default: XLM-R base (12 layers × 768). small: 2 layers × 256, for a trial."
    ),
]
Base = Annotated[
    str | None,
    typer.Option(help="Pretrained model to continue from, a folder or hub id; by default random weights of --size."),
]
PairsOption = Annotated[int, typer.Option(min=2, help="Pairs per step.")]
Device = Annotated[DeviceName | None, typer.Option(help="Device; by default CUDA where available.")]


def _model_size(name: SizeName | None) -> "Size":
    from benchmarks.speed.reference import MODEL_SIZES

    return MODEL_SIZES[(name or SizeName.BASE).value]


def speed_train(
    terminology: TerminologyOption,
    base: Base = None,
    size: OptionalSize = None,
    pairs: PairsOption = 256,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps to measure, after a warm-up.")] = 3,
    device: Device = None,
    ablations: Annotated[
        bool, typer.Option("--ablations", help="Also time our step without each of its optimizations.")
    ] = False,
    cached_pairs: Annotated[
        int | None,
        typer.Option(min=2, help="Also measure a step of this many pairs, such as 4096, with cached gradients."),
    ] = None,
    json_to: JsonTo = None,
    plot_to: PlotTo = None,
) -> None:
    """Compare a training step of the original recipe and ours."""
    check_plot(plot_to)
    if base and size:
        raise ConfigError("expected --base or --size, which is for random weights, found both; leave out one")
    chosen = select_device(device)
    from benchmarks.speed.train import compare_training, plot, to_text

    result = compare_training(
        terminology,
        size=_model_size(size),
        pairs=pairs,
        steps=steps,
        device=chosen,
        base=base,
        ablations=ablations,
        cached_pairs=cached_pairs,
    )
    finish(result, to_text, json_to=json_to, plot_to=plot_to, plot=plot)


def speed_loss_curve(
    terminology: TerminologyOption,
    size: ModelSize = SizeName.SMALL,
    pairs: PairsOption = 256,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps of each recipe.")] = 200,
    device: Device = None,
    json_to: JsonTo = None,
) -> None:
    """Compare the losses of the original recipe and ours. The exit code is 3 if they differ."""
    from benchmarks.speed.train import compare_loss_curves, curves_to_text

    result = compare_loss_curves(
        terminology, size=_model_size(size), pairs=pairs, steps=steps, device=select_device(device)
    )
    finish(result, curves_to_text, json_to=json_to, targets=[result.target])


def speed_reference_run(
    terminology: TerminologyOption,
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    base: Base = None,
    size: ModelSize = SizeName.SMALL,
    vocabulary_size: Annotated[int, typer.Option(min=100, max=250_000, help="Maximum pieces of the tokenizer.")] = 8000,
    pairs: PairsOption = 256,
    learning_rate: Annotated[float, typer.Option(min=0, help="Constant learning rate.")] = 2e-5,
    minutes: Annotated[float | None, typer.Option(min=0, help="Maximum minutes of training.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Maximum number of steps.")] = None,
) -> None:
    """Train a model by the original recipe, on the CPU."""
    from benchmarks.speed.reference import reference_run

    done, loss = reference_run(
        terminology,
        out,
        base=base,
        size=_model_size(size),
        vocabulary_size=vocabulary_size,
        pairs=pairs,
        learning_rate=learning_rate,
        minutes=minutes,
        steps=steps,
    )
    print(f"{out}: {done:,} steps, last loss {loss:.4f}")


def speed_encode(
    terminology: TerminologyOption,
    size: OptionalSize = None,
    names: Annotated[
        int | None, typer.Option(min=64, help="Number of names; by default 1,024 on a CPU, 65,536 on CUDA.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 3,
    device: Annotated[DeviceName, typer.Option(help="Device. Targets apply to a CPU.")] = DeviceName.CPU,
    model: Annotated[
        str | None,
        typer.Option(help="Pretrained model to measure, a folder or hub id; by default random weights of --size."),
    ] = None,
    mentions: Annotated[
        Path | None,
        typer.Option(help="Mentions with their concepts, to measure the accuracy of --model in each dtype."),
    ] = None,
    json_to: JsonTo = None,
    plot_to: PlotTo = None,
) -> None:
    """Compare encoding by several implementations. Exit code 3 for a missed target at full size.

    With --size, --model and --mentions, speed is that of random weights,
    accuracy that of the model.
    """
    check_plot(plot_to)
    if mentions and not model:
        raise ConfigError("--mentions needs --model: a dtype's accuracy is measured by linking")
    if size and model and not mentions:
        raise ConfigError(
            "expected --model or --size, which is for random weights, found both; leave out one, or add --mentions"
        )
    chosen = select_device(device)
    from benchmarks.speed.encode import compare_encoding, measure_accuracy, plot, to_text

    measured = None if size else model
    result = compare_encoding(
        terminology, size=_model_size(size), names=names, rounds=rounds, device=chosen, model=measured
    )
    if model and mentions:
        ours = [each.dtype for name, each in result.implementations.items() if name.startswith(OURS)]
        accuracy = measure_accuracy(model, terminology, mentions, ours, chosen)
        result = result.with_accuracy(accuracy, on_cpu=device == DeviceName.CPU)
    finish(result, to_text, json_to=json_to, plot_to=plot_to, plot=plot, targets=result.targets)
