"""PyTorch weights from the command line."""

from pathlib import Path
from typing import Annotated, Optional

import typer


def convert(
    output: Annotated[Path, typer.Option(help="Folder to write; overwritten if it holds only weights.")],
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="timm's name on the model hub, or efficientnet_lite0 (installed package)."),
    ] = None,
    checkpoint: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A .safetensors, .pth or .ckpt file."),
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the checkpoint's EMA weights.")] = False,
    features: Annotated[
        bool, typer.Option("--features", help="Leave out a backbone's layers after the last tap.")
    ] = False,
) -> None:
    """Turn PyTorch weights into a folder with model.safetensors and config.json.

    Example: python -m iqa_jax convert --model efficientnet_lite0 --output weights/lite0
    """
    from iqa_jax.errors import WeightsError
    from iqa_jax.files import new_directory
    from iqa_jax.weights.directory import save_weights
    from iqa_jax.weights.pytorch.convert import convert_file, convert_model

    output = new_directory(output)
    if model is not None and checkpoint is None:
        if ema:
            raise WeightsError("--ema goes with --checkpoint")
        converted, origin = convert_model(model, features_only=features)
    elif checkpoint is not None and model is None:
        converted, origin = convert_file(checkpoint, ema=ema, features_only=features)
    else:
        raise WeightsError("give either --model NAME or --checkpoint FILE")
    save_weights(output, converted.config, converted.weights, origin)
    count = sum(w.size for w in converted.weights.values())
    revision = f" at revision {origin['revision']}" if "revision" in origin else ""
    print(f"{origin['file']}{revision}: {converted.description}")
    print(f"{output}: {converted.config.name}, {len(converted.weights)} arrays, {count:,} numbers", end="")
    print(f" ({len(converted.dropped)} entries dropped)" if converted.dropped else "")


def main() -> None:
    """`convert/timm_to_flax.py` of a clone: the same command under its other name."""
    from iqa_jax.cli.ending import shown_plainly

    with shown_plainly():
        typer.run(convert)
