"""PyTorch weights -> a directory that `iqa_jax.load` and `config.backbone_weights` take.

python convert/timm_to_flax.py --model inception_resnet_v2.tf_in1k --output weights/inception
python convert/timm_to_flax.py --model efficientnet_lite0 --output weights/lite0
python convert/timm_to_flax.py --checkpoint checkpoints_21.ckpt --ema --output weights/conformer
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for a clone that is not installed

from iqa_jax.cli.ending import as_process

if __name__ == "__main__":
    as_process("iqa_jax.cli.convert")
