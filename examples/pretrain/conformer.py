"""The full-reference metric of the package: a light IQA Conformer on EfficientNet-Lite0's first stages."""

from ml_collections import ConfigDict

from iqa_jax.configs import conformer


def get_config(recipe: str = "") -> ConfigDict:
    c = conformer.get_config("demo")
    c.dataset = "pairs/windows"
    c.train_split, c.validation_split = "train", "train"  # `splits` divides it
    c.rotation = 0.0  # of a turned window the corners would be black
    # 6 x 6 positions instead of 24 x 24: what the finer maps show is averaged over cells of 32 x 32 pixels,
    # and how much it differs pixel by pixel is looked at beside it.
    c.taps, c.stride, c.magnitudes = "stage1,stage2,stage3", 32, "stage1,stage2"
    c.dim = 64
    c.dropout = 0.0
    c.batch_size = 64
    c.learning_rate = 2e-3
    c.warmup_steps = 100
    c.num_epochs = 3
    c.ema_decay = 0.998
    c.keep_epochs = False
    c.eval_every = 400
    c.checkpoint_every = 200
    return c
