"""Folders of both shipped metrics, ready for a model hub: weights, card with licence, and the ONNX file.

    python examples/hub.py --output hub
    hf upload OWNER/full-reference hub/full-reference

With --refresh it writes the ONNX files in the package again, which weights or a network that changed ask for.
Needs the extra onnx.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the clone, which need not be installed

import iqa_jax
from iqa_jax.scoring.onnx_model import FILE
from iqa_jax.scoring.to_onnx import export_onnx
from iqa_jax.weights.directory import save_weights
from iqa_jax.weights.places import SHIPPED
from iqa_jax.weights.reading import read_any
from iqa_jax.weights.sharing import card_of, source_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, help="the folder to write; a folder for each metric is in it")
    parser.add_argument("--refresh", action="store_true", help="write the ONNX files in the package again")
    asked = parser.parse_args()
    if not (asked.output or asked.refresh):
        parser.error("give --output DIR, --refresh or both")
    for name, folder in SHIPPED.items():
        if asked.refresh:
            print("wrote", export_onnx(iqa_jax.load(name), folder / FILE))
        if asked.output:
            print("wrote", packed(name, asked.output / name))


def packed(name: str, folder: Path) -> Path:
    """The folder of a shipped metric: what `pack` writes, stored as it is shipped, and the ONNX file."""
    config, weights, record = read_any(name)
    source = source_of(record)
    # Weights that were float16 lose nothing as float16.
    half = all((array.astype("float16") == array).all() for array in weights.values())
    save_weights(folder, config, weights, source, card=card_of(config, record, source, name), half=half)
    export_onnx(iqa_jax.load(folder), folder / FILE)
    return folder


if __name__ == "__main__":
    main()
