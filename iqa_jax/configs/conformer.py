"""IQA Conformer (Conde, Burchi and Timofte, NTIRE 2022).

    python train.py --config configs/conformer.py          # PIPAL if it finds it, else the built-in set
    python train.py --config configs/conformer.py:pipal --config.data_dir=DIR
    python train.py --config configs/conformer.py:demo
    python train.py --config configs/conformer.py:finetune --config.dataset=pairs/mine --config.splits=FILE

On PIPAL this is the paper's recipe: 30 epochs of Adam at 1e-4 in batches of 16, on frozen
Inception-ResNet-v2 features.  Published for it: PLCC 0.8035 / SRCC 0.7878 on the challenge's
validation set.  On the built-in set it is a short schedule of our own on EfficientNet-Lite0
features, which takes about four minutes on two CPU cores and reaches a validation SRCC above 0.90.
Fine-tuning on a few pairs starts from the weights that ship with the package, and computes
the features of the frozen backbone once.
"""

from ml_collections import ConfigDict


def get_config(dataset: str = "auto") -> ConfigDict:
    """The recipe "pipal", "demo" or "finetune"; "auto" leaves the choice of the first two to the data."""
    c = ConfigDict()
    c.model = "iqa_conformer"
    c.seed = 0

    # Data.
    c.dataset = "pipal"
    c.data_dir = ""  # "": the cache directory
    c.train_split = "train[:80%]"
    c.validation_split = "train[80%:]"
    c.splits = ""  # a file that `splits` wrote, in place of these two
    c.rotation = 180.0  # largest rotation of a training crop, degrees
    c.turns = False  # whether it is also turned by quarters
    c.keep_features = 0  # places of each picture whose features are kept; 0: crops anywhere, computed anew
    c.crop_size = 192
    c.data = ConfigDict()
    c.data.placement = "auto"  # of decoded images: "device", "host" (memory), "stream" (decoded as needed)
    c.data.steps_at_once = 0  # in one dispatch, of images on the devices; 0: ten

    # Model.
    c.init_from = ""  # weights to start from, with their architecture, from here to `magnitudes`
    c.backbone = "inception_resnet_v2"
    c.backbone_weights = "auto"  # a directory, a PyTorch file, or "random"
    c.dim = 128  # width after the backbone
    c.heads = 4  # of the attention
    c.taps = ""  # maps of the backbone, "stage1,stage2", averaged over cells; "": the backbone's own
    c.stride = 0  # side of a cell, pixels
    c.magnitudes = ""  # maps of which the model also sees |f_ref - f_dis|
    c.similarities = False  # whether it also sees maps of similarity, as classical measures do
    c.dropout = 0.1
    c.dtype = "float32"  # of the arithmetic; "bfloat16" is faster on GPUs and TPUs

    # Optimisation.
    c.optimizer = "adam"  # or "sgd"
    c.batch_size = 16
    c.accumulation = 1  # equal parts in which a batch passes, to save memory
    c.learning_rate = 1e-4
    c.schedule = "constant"  # or "cosine", over num_epochs
    c.warmup_steps = 0
    c.num_epochs = 30
    c.num_steps = 0  # when set, the run ends there
    c.ema_decay = 0.999  # 0: no moving average

    # Evaluation and checkpoints; in steps, 0: once an epoch.
    c.eval_every = 0
    c.crops = "center"  # or "ten"
    c.checkpoint_every = 0
    c.keep_checkpoints = 2  # the latest; the best by SRCC stays too
    c.keep_epochs = True  # every epoch's as well, for weight averaging

    if dataset not in ("pipal", "demo", "finetune", "auto"):
        raise ValueError(f"unknown recipe {dataset!r}: expected pipal, demo, finetune or auto")
    if dataset == "finetune":
        c.init_from = "full-reference"
        c.dataset = "pairs/mine"
        c.backbone = "efficientnet_lite0"
        c.rotation = 0.0
        c.keep_features = 8
        c.batch_size = 4
        c.num_epochs = 40
        c.ema_decay = 0.0
        c.keep_epochs = False
    if dataset == "demo":
        c.dataset = "iqa_demo"
        c.train_split, c.validation_split = "train", "validation"
        c.backbone = "efficientnet_lite0"
        c.learning_rate = 5e-4
        c.schedule = "cosine"
        c.warmup_steps = 20
        c.num_epochs = 6
        c.ema_decay = 0.99
    if dataset == "auto":
        c.dataset = "auto"
    return c
