"""Weights from the command line: averaging and export."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from iqa_jax.cli.options import (
    DataDir,
    Ema,
    Json,
    Step,
    Weights,
    WeightsOrShipped,
    arguments_as_options,
    numbers_of,
    step_of,
)
from iqa_jax.cli.output import put_out, say_of_revision
from iqa_jax.errors import UserError
from iqa_jax.files import new_directory, open_regular, output_file
from iqa_jax.progress import progress_bar


def average(
    workdir: Annotated[Path, typer.Option(help="A training run.")],
    epochs: Annotated[str, typer.Option(help="First and last epoch, 21-30.")] = "",
    listed: Annotated[str, typer.Option("--list", help="Single epochs instead, 5,9,12.")] = "",
    kind: Annotated[str, typer.Option("--type", help="equal (arithmetic mean) or exp.")] = "equal",
    decay: Annotated[
        float | None, typer.Option(help="With --type exp: the weight of each new epoch; default: 0.9.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=0, help="Batches for BatchNorm's statistics; default: one epoch; 0: keep the averaged ones."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write; default: in the run.")] = None,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Average the weights of some epochs of a run and re-estimate BatchNorm's statistics.

    Example: python -m iqa_jax average --workdir runs/conformer --epochs 21-30
    """
    from iqa_jax.ops.programs import keep_programs
    from iqa_jax.training.averaging import average_run

    if bool(epochs) == bool(listed):
        raise UserError("give either --epochs FIRST-LAST or --list A,B,C")
    chosen = numbers_of("--epochs", epochs) if epochs else numbers_of("--list", listed)
    if data_dir and steps == 0:
        raise UserError(
            "--data-dir with --steps 0 has no effect, since no data are read; leave one of them out"
        )
    output = output and new_directory(output)
    keep_programs()
    with progress_bar(0, "BatchNorm statistics", "step") as bar, arguments_as_options("data_dir"):

        def progress(step, of):
            bar.total = of
            bar.update()

        written = average_run(
            workdir,
            chosen,
            kind=kind,
            decay=decay,
            steps=steps,
            data_dir=data_dir or None,
            output=output,
            progress=progress,
        )
    put_out({"output": str(written), "epochs": chosen, "type": kind}, as_json, f"wrote {written}")


def export(
    output: Annotated[
        Path, typer.Option(help="The file to write; beside a .jaxexport goes a .json with metadata.")
    ],
    weights: WeightsOrShipped = "full-reference",
    form: Annotated[
        str,
        typer.Option("--format", help="jax or onnx; default: by the ending of --output."),
    ] = "",
    step: Step = "best",
    ema: Ema = False,
    as_json: Json = False,
) -> None:
    """Write a metric as one file: for JAX alone (.jaxexport), or for ONNX's many languages (.onnx).

    Example: python -m iqa_jax export --weights runs/conformer --format onnx --output conformer.onnx
    """
    form = form or ("onnx" if output.suffix.lower() == ".onnx" else "jax")
    if form not in ("jax", "onnx"):
        raise UserError(f"--format {form}: expected jax or onnx")
    if form == "onnx":
        for package in ("onnxruntime", "jax2onnx"):  # before the work, not after it
            if importlib.util.find_spec(package) is None:
                raise ModuleNotFoundError(name=package)
    import iqa_jax

    output = output_file(output, ".onnx" if form == "onnx" else ".jaxexport")
    metric = iqa_jax.load(weights, step=step_of(step), ema=ema)
    say_of_revision(metric.record)
    if form == "onnx":
        from iqa_jax.scoring.to_onnx import export_onnx

        files = [str(export_onnx(metric, output))]
    else:
        from iqa_jax.scoring.export import export as write

        files = [str(path) for path in write(metric, output)]
    put_out({"output": files}, as_json, f"wrote {' and '.join(files)}")


def pack(
    weights: Weights,
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    card: Annotated[
        Path | None,
        typer.Option(help="The model card, Markdown; default: that of the weights, else a short one."),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="As float16: half the size; scores move by thousandths.")
    ] = False,
    step: Step = "best",
    ema: Ema = False,
    as_json: Json = False,
) -> None:
    """Write weights as a folder to share: model.safetensors, config.json and a card, ready for a model hub.

    Load it by its path or, once uploaded, by hf://OWNER/NAME.

    Example: python -m iqa_jax pack --weights runs/conformer --output conformer
    """
    from iqa_jax.weights.directory import CARD, save_weights
    from iqa_jax.weights.reading import read_any
    from iqa_jax.weights.sharing import card_of, source_of

    output = new_directory(output)
    text = _card_in(card) if card else ""
    config, arrays, record = read_any(weights, step=step_of(step), ema=ema)
    say_of_revision(record)
    source = source_of(record)
    text = text or card_of(config, record, source, output.name)
    save_weights(output, config, arrays, source, card=text, half=half)
    put_out({"output": str(output)}, as_json, f"wrote {output}; describe the weights in {output / CARD}")


def _card_in(path: Path) -> str:
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"--card {path}: not text in UTF-8; expected Markdown") from None
    if not text.strip():
        raise UserError(f"--card {path}: is empty; leave it out for a short card")
    return text
