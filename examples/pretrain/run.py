"""Makes both shipped metrics from scratch: pairs, labels, features, training, the folders to ship.

    python examples/pretrain/run.py --commons DIR --debian DIR --output DIR

Run the same command again to resume.  Needs all extras and the packages torch, torchvision,
piq and ssimulacra2; 12 GB of disk and 8 GB of memory.  On two CPU cores it takes about 45 minutes
for the pairs, 3 for the features and 8 to train and measure both metrics.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent  # of the clone, which need not be installed
sys.path[:0] = [str(HERE), str(ROOT)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--commons", type=Path, required=True, help="NNN.webp, see photographs.csv")
    parser.add_argument("--debian", type=Path, required=True, help="where the packages were unpacked")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the training; 0 is shipped")
    parser.add_argument("--judged", type=Path, help="a table of pairs that people judged, for the cards")
    parser.add_argument("--without", nargs="*", default=(), help="types that are left out of training")
    asked = parser.parse_args()

    from photographs import photographs

    listed = photographs({"commons": asked.commons, "debian": asked.debian})
    from pairs import make_all  # processes of its own measure the pairs, with PyTorch

    make_all(listed, asked.output / "pairs")
    from metrics import train_metrics

    for seed in asked.seeds:
        train_metrics(listed, asked.output, seed, judged=asked.judged, without=tuple(asked.without))


if __name__ == "__main__":
    main()
