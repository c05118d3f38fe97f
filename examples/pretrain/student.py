"""The blind metric of the package: a light Blind Noisy Student, taught by the full-reference metric.

train.py --config examples/pretrain/student.py --config.teacher=RUN
"""

from ml_collections import ConfigDict

from iqa_jax.configs import student


def get_config(recipe: str = "") -> ConfigDict:
    c = student.get_config("demo")
    c.dataset = "pairs/windows"
    c.train_split, c.validation_split = "train", "train"  # `splits` divides it
    # The teacher scores all windows anew: what it saw in both images goes beyond the labels.
    c.unlabelled, c.unlabelled_split = "pairs/windows", "train"
    c.pseudo_crops = "center"  # a window is one crop
    c.pseudo_weight = 0.5
    c.rotation = c.noise.rotation = 0.0  # of a turned window the corners would be black
    c.noise.cut_out = c.noise.grid_mask = 0.25
    c.noise.dropout = c.noise.stochastic_depth = 0.05
    c.taps, c.stride = "stage1,stage2,stage3,stage4", 32
    c.dim = 64
    c.batch_size = 48
    c.learning_rate = 2e-3
    c.warmup_steps = 100
    c.num_epochs = 2
    c.ema_decay = 0.998
    c.keep_epochs = False
    c.eval_every = 400
    c.checkpoint_every = 200
    return c
