"""The training of a student: a teacher labels pairs, and the student trains on these beside labelled ones."""

import hashlib
from pathlib import Path

import numpy as np

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.data.splits import digests_trained_on
from iqa_jax.errors import DataError, WeightsError
from iqa_jax.files import writable_cache
from iqa_jax.models import ModelConfig
from iqa_jax.scoring.dataset import Predictor
from iqa_jax.training.config import TrainConfig
from iqa_jax.training.inputs import model_config_for, open_data
from iqa_jax.training.log import progress_bar, say
from iqa_jax.training.loop import train
from iqa_jax.training.run import check_directory
from iqa_jax.weights.reading import place_of
from iqa_jax.weights.record import read_config


def train_student(config: TrainConfig, workdir: str | Path, *, reason: str = "") -> dict:
    """Trains a Blind Noisy Student, or resumes its run; see `iqa_jax.training.loop.train`.

    With several rounds, the students before the last are the runs `workdir`/round-1 and so on; each
    scores the unlabelled pairs for the next, and the mean of its scores and the teacher's labels them.

    Raises:
      WeightsError: the teacher is missing, needs no reference or has learned another scale.
    """
    if not config.pseudo_labelled:
        return train(config, workdir, reason=reason)
    check_directory(workdir)
    training, validation = open_data(config)
    teacher = _teacher(config, model_config_for(config, training))
    unlabelled = unlabelled_pairs(config, validation)
    labellers = [teacher]
    trained_on = digests_trained_on(teacher.record) | set(unlabelled.digests().values())
    metrics: dict = {}
    for number in range(1, config.rounds + 1):
        last = number == config.rounds
        directory = Path(workdir) if last else Path(workdir) / f"round-{number}"
        if config.rounds > 1:
            say(f"round {number} of {config.rounds}: {directory}")
        labels = np.mean([pseudo_labels(labeller, unlabelled) for labeller in labellers], axis=0)
        origin = {
            "dataset": config.unlabelled,
            "split": config.unlabelled_split,
            "crops": config.pseudo_crops,
            "by": [labeller.sha256 for labeller in labellers],
            "trained_on": sorted(trained_on),
        }
        pseudo = unlabelled.pseudo_labelled(labels)
        metrics = train(config, directory, reason=reason, pseudo=pseudo, pseudo_origin=origin)
        if not last:
            labellers = [teacher, predictor_of(directory, config.pseudo_crops)]
    return metrics


def predictor_of(weights: str | Path, crops: str) -> Predictor:
    """Predicts with weights as `iqa_jax.load` takes them; with a run's averaged ones if it kept them."""
    place = place_of(weights)
    ema = (place / "checkpoints").is_dir() and bool(read_config(place)["training"].get("ema_decay", 0.0))
    return Predictor(weights, ema=ema, crops=crops)


def _teacher(config: TrainConfig, student: ModelConfig) -> Predictor:
    given = f"config.teacher={config.teacher}"
    try:
        teacher = predictor_of(config.teacher, config.pseudo_crops)
    except WeightsError as error:
        raise WeightsError(f"config.teacher: {error}") from None
    if not teacher.full_reference:
        raise WeightsError(
            f"{given}: {teacher.config.name} needs no reference; expected a full-reference model"
        )
    scales = [(c.mos_low, c.mos_high) for c in (teacher.config, student)]
    if scales[0] != scales[1]:
        (low, high), (wanted_low, wanted_high) = scales
        raise WeightsError(
            f"{given}: has learned scores from {low:zg} to {high:zg}, the labels of {config.dataset} go from "
            f"{wanted_low:zg} to {wanted_high:zg}; expected a teacher that was trained on that scale"
        )
    say(f"teacher: {teacher.name}")
    return teacher


def unlabelled_pairs(config: TrainConfig, validation: PairSource) -> PairSource:
    """The pairs that the teacher scores, without those of validation references.

    Raises:
      DataError: they do not exist, or an image is smaller than the crops.
    """
    source = PairSource(
        prepare_dataset(config.unlabelled, data_dir=config.data_dir or None), config.unlabelled_split
    )
    if source.size.min() < config.crop_size:
        raise DataError(
            f"config.unlabelled_split={config.unlabelled_split}: an image of {source.size.min()} pixels on a "
            f"side, expected config.crop_size={config.crop_size} or more"
        )
    held_out = set(validation.digests().values())
    seen = [name for name, digest in source.digests().items() if digest in held_out]
    if not seen:
        return source
    kept = np.flatnonzero(~np.isin(source.reference.astype(str), seen))
    if not len(kept):
        raise DataError(
            f"config.unlabelled={config.unlabelled}: every pair is of a validation reference; choose others"
        )
    say(f"  {len(source) - len(kept):,} unlabelled pairs are of validation references; they are left out")
    return source.select(kept)


def pseudo_labels(labeller: Predictor, source: PairSource) -> np.ndarray:
    """The labeller's scores (N,) of the pairs, computed once and kept in the cache directory.

    A second start resumes an interrupted one, and the processes of a run share the work.  The labeller's
    hash, the crops and the pairs name the folder.
    """
    depends_on = f"{labeller.identity} {labeller.crops} {source.fingerprint()}"
    key = hashlib.sha256(depends_on.encode()).hexdigest()[:32]
    directory = writable_cache("pseudo_labels", key)
    with progress_bar(len(source), "pseudo-labels", "pair") as bar:
        labels = labeller.predict_resumably(source, directory, bar.update).scores
    say(f"pseudo-labels: {len(source):,} pairs by {labeller.name}, {directory}")
    return labels
