"""The recipes of the shipped metrics, two light models on EfficientNet-Lite0's first stages.

train.py --config examples/pretrain/recipe.py:conformer
train.py --config examples/pretrain/recipe.py:student --config.teacher=RUN
"""

from ml_collections import ConfigDict

from iqa_jax.configs import conformer, student


def get_config(recipe: str) -> ConfigDict:
    """The recipe for "conformer", the full-reference metric, or "student", the blind one."""
    c = {"conformer": conformer, "student": student}[recipe].get_config("demo")
    c.dataset = "pairs/windows"
    c.train_split, c.validation_split = "train", "train"  # `splits` divides it
    c.rotation = 0.0  # of a turned window the corners would be black
    # 6 x 6 positions instead of 24 x 24: what the finer maps show is averaged over cells of 32 x 32 pixels.
    c.stride = 32
    c.dim = 64
    c.learning_rate = 2e-3
    c.warmup_steps = 100
    c.ema_decay = 0.998
    c.keep_epochs = False
    c.eval_every = 1200
    c.checkpoint_every = 200
    if recipe == "conformer":
        # How much the finer maps differ pixel by pixel is looked at beside their averages.
        c.taps, c.magnitudes = "stage1,stage2,stage3", "stage1,stage2"
        c.dropout = 0.0
        c.batch_size = 64
        c.num_epochs = 3
        return c
    c.taps = "stage1,stage2,stage3,stage4"
    # The teacher scores the labelled windows too: what it sees in both images goes beyond the labels.
    c.unlabelled, c.unlabelled_split = "pairs/windows", "train"
    c.pseudo_crops = "center"  # a window is one crop
    c.pseudo_weight = 0.5
    c.noise.rotation = 0.0
    c.noise.cut_out = c.noise.grid_mask = 0.25
    c.noise.dropout = c.noise.stochastic_depth = 0.05
    c.batch_size = 48
    c.num_epochs = 2
    return c
