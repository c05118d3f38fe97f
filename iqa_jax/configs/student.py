"""The Blind Noisy Student (Conde, Burchi and Timofte, NTIRE 2022), which needs no reference.

    python train.py --config configs/student.py --config.teacher=runs/conformer
    python train.py --config configs/student.py:pipal --config.data_dir=DIR --config.teacher=RUN
    python train.py --config configs/student.py:demo --config.pseudo_ratio=0        # labels alone
    python train.py --config configs/student.py:finetune --config.dataset=pairs/mine --config.splits=FILE

The teacher, a full-reference model, scores unlabelled pairs; the student trains on the labelled and on
these pseudo-labelled distorted images, the latter with noise.  The paper names the parts; sizes,
probabilities, weights and the schedule are our choice.
"""

from ml_collections import ConfigDict

from iqa_jax.configs import conformer


def get_config(dataset: str = "auto") -> ConfigDict:
    c = conformer.get_config(dataset)
    c.model = "blind_student"
    del c.dropout  # of the teacher's recipe; the student's belongs to the noise
    del c.magnitudes, c.similarities  # there is no reference

    # Pseudo-labels.
    c.teacher = ""  # a full-reference model: a run, an average, "full-reference", hf://OWNER/NAME
    c.unlabelled = "pipal"  # the data set whose pairs it labels
    c.unlabelled_split = "ntire2022_test"
    c.pseudo_crops = "ten"  # that the teacher scores; or "grid", "center"
    c.pseudo_ratio = 1.0  # pseudo-labelled images for each labelled one in a batch; 0: none
    c.pseudo_weight = 1.0  # of their squared errors, a labelled one's is 1
    c.rounds = 1  # with more, each student also labels the pairs, beside the teacher, for the next

    # Noise on the pseudo-labelled images; 0 switches each off.
    c.noise = ConfigDict()
    c.noise.flip = 0.5  # probability, horizontally and vertically
    c.noise.rotation = 180.0  # degrees
    c.noise.cut_out = 0.5  # probability of a square cut-out
    c.noise.grid_mask = 0.5  # probability of a grid of them
    c.noise.dropout = 0.1
    c.noise.stochastic_depth = 0.1

    c.backbone_learning_rate = 0.0  # 0: frozen, as the teacher's

    if dataset == "finetune":
        c.init_from, c.pseudo_ratio = "blind", 0.0
    if c.dataset == "iqa_demo":
        c.unlabelled, c.unlabelled_split = "iqa_demo_unlabelled", "unlabelled"
    return c
