"""From pairs to the shipped folders: labels, features of the frozen part, training, agreement, card."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import extras
import numpy as np
from arrays import write_whole
from card import card_text
from features import blind_features, compared_features
from fit import fit, predict
from flax import nnx
from labels import COLOUR, COLOUR_OTHERS, Labeller
from photographs import Photograph
from recipe import RECIPES, new_model
from tqdm import tqdm

from iqa_jax import __version__
from iqa_jax.data.datasets.base import digest
from iqa_jax.evaluation.agreement import correlations
from iqa_jax.models.base import FullReferenceModel, IQAModel
from iqa_jax.weights.directory import save_weights
from iqa_jax.weights.flat import STORED, flat_weights, iqa_model_with
from iqa_jax.weights.reading import read_any

ROOT = Path(__file__).resolve().parent.parent.parent
_TAUGHT = 0.5  # share of the teacher's score in the blind metric's labels
_GREY = 3  # of every so many versions the blind metric learns from a grey copy as well
_COLOURED = {
    *COLOUR, *COLOUR_OTHERS, "color_shift", "color_quantization", "channel_quantization", "color_block",
    "chromatic_aberration", "bled_colours", "chroma_noise", "white_noise_ycbcr",
}  # fmt: skip  # types of which a grey copy is better than its label says

Features = dict[str, np.ndarray]


class Part(NamedTuple):
    """A part of a photograph: the file of its pairs, and the labels (N,) of its versions."""

    path: Path
    photograph: Photograph
    kinds: np.ndarray
    labels: np.ndarray


def labelled(listed: list[Photograph], pairs: Path, without: tuple[str, ...]) -> list[Part]:
    """All parts; the maps behind the labels are fitted to those that are trained on."""
    by_number = {photograph.number: photograph for photograph in listed}
    files = [path for path in sorted(pairs.glob("???_?.npz")) if int(path.name[:3]) in by_number]
    measured = []
    for path in files:
        with np.load(path) as part:
            measured.append({name: part[name] for name in ("kind", "strength", "measures")})
    photographs = [by_number[int(path.name[:3])] for path in files]
    trained_on = [part for part, of in zip(measured, photographs, strict=True) if not of.held_out]
    labeller = Labeller(trained_on, without=without)
    labels = [np.array([labeller(*row) for row in zip(*part.values(), strict=True)]) for part in measured]
    kinds = [part["kind"] for part in measured]
    return [Part(*row) for row in zip(files, photographs, kinds, labels, strict=True)]


def full_reference_features(model: FullReferenceModel, parts: list[Part], directory: Path) -> list[Features]:
    """Of each part the fields of `Compared`."""

    def made(part: Part) -> Features:
        with np.load(part.path) as pairs:
            return compared_features(model, pairs["reference"], pairs["distorted"])

    return [_kept(directory / part.path.name, made, part) for part in _shown(parts)]


def extra_features(model: FullReferenceModel, parts: list[Part], directory: Path) -> list[Features]:
    """The same of the `extras` of each part that has them; `reference` has a row for each."""

    def made(part: Part) -> Features:
        rows = [compared_features(model, x.clean, [x.picture]) for x in extras.extras(part.photograph)]
        joined = {name: np.stack if name == "reference" else np.concatenate for name in rows[0]}
        return {name: join([row[name] for row in rows]) for name, join in joined.items()}

    return [_kept(directory / part.path.name, made, part) for part in _shown(parts)]


def blind_pictures(part: Part) -> tuple[list[np.ndarray], np.ndarray]:
    """What the blind metric learns from beside the extras: versions, then grey copies of some; and which."""
    with np.load(part.path) as pairs:
        versions = list(pairs["distorted"])
    some = range(part.photograph.number % _GREY, len(part.kinds), _GREY)
    of = [n for n in some if not {*part.kinds[n].split("+")} & _COLOURED]
    return versions + [extras.toned(versions[n]) for n in of], np.array([*range(len(versions)), *of])


def all_blind_features(model: IQAModel, parts: list[Part], directory: Path) -> list[Features]:
    """Of each part, `features` of its pictures and its extras, and which `version` each is; -1 for extras."""

    def made(part: Part) -> Features:
        pictures, of = blind_pictures(part)
        more = [extra.picture for extra in extras.extras(part.photograph)] if _has_extras(part) else []
        of = np.concatenate([of, np.full(len(more), -1)])
        return {"features": blind_features(model, pictures + more), "version": of}

    return [_kept(directory / part.path.name, made, part) for part in _shown(parts)]


def _has_extras(part: Part) -> bool:
    return part.path.stem.endswith("_0")


def _shown(parts: list[Part]):
    return tqdm(parts, unit="part", desc="features", mininterval=10)


def _kept(path: Path, made, part: Part) -> Features:
    """What was made of a part, from its file where it is there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, **made(part))
    with np.load(path) as fields:
        return {name: fields[name] for name in fields.files}


class Examples(NamedTuple):
    """Features of pictures (N, 6, …), their labels (N,), and rows (P, 2) of two versions of one picture."""

    features: Features
    labels: np.ndarray
    twins: np.ndarray = np.zeros((0, 2), int)


def full_reference_examples(
    features: list[Features], parts: list[Part], without: tuple[str, ...]
) -> Examples:
    kept = [_allowed(part, without) for part in parts]
    arrays = {
        name: np.concatenate([f[name][mask] for f, mask in zip(features, kept, strict=True)])
        for name in features[0]
        if name != "reference"
    }
    arrays["reference"] = np.stack([f["reference"] for f in features])
    arrays["originals"] = np.repeat(np.arange(len(features)), [mask.sum() for mask in kept])
    labels = [part.labels[mask] for part, mask in zip(parts, kept, strict=True)]
    return Examples(arrays, np.concatenate(labels).astype(np.float32))


def _allowed(part: Part, without: tuple[str, ...]) -> np.ndarray:
    return np.array([not {*kind.split("+")} & {*without} for kind in part.kinds])


def blind_examples(
    features: list[Features], parts: list[Part], taught: dict[str, np.ndarray], without: tuple[str, ...]
) -> Examples:
    """Labels are half the pairs' and half the teacher's; those of the extras are the teacher's alone.

    Args:
      taught: the teacher's scores of each part's versions, by its name, and of its extras, by NAME-extras.
    """
    arrays, labels, twins, count = [], [], [], 0
    for f, part in zip(features, parts, strict=True):
        version = f["version"]
        scores = (1 - _TAUGHT) * part.labels + _TAUGHT * taught[part.path.stem]
        scores, kept = scores[version], _allowed(part, without)[version]
        if _has_extras(part):
            scores[version < 0], kept[version < 0] = taught[f"{part.path.stem}-extras"], True
        arrays.append(f["features"][kept])
        labels.append(scores[kept])
        row = count + np.cumsum(kept) - 1
        twins += [(row[a], row[b]) for a, b in _twins(version, len(part.kinds)) if kept[a] and kept[b]]
        count += kept.sum()
    arrays = {"features": np.concatenate(arrays)}
    return Examples(arrays, np.concatenate(labels).astype(np.float32), np.array(twins))


def _twins(version: np.ndarray, own: int) -> Iterator[tuple[int, int]]:
    """A version and its grey copy, and the `TWINS` among the extras; rows of one part's pictures."""
    copied = int(np.sum(version >= 0))
    yield from zip(version[own:copied], range(own, copied), strict=True)
    for first in range(copied, len(version), extras.PER_SIZE):
        yield from ((first + a, first + b) for a, b in extras.TWINS)


def teachings(model: IQAModel, parts: list[Part], features: list[Features], more: list[Features]) -> dict:
    """The scores of a full-reference model that `blind_examples` takes."""
    taught = {}
    for part, f in zip(parts, features, strict=True):
        rows = {**f, "reference": f["reference"][None], "originals": np.zeros(len(part.kinds), int)}
        taught[part.path.stem] = predict(model, rows, len(part.kinds))
    for part, f in zip([part for part in parts if _has_extras(part)], more, strict=True):
        rows = {**f, "originals": np.arange(len(f["error"]))}
        taught[f"{part.path.stem}-extras"] = predict(model, rows, len(f["error"]))
    return taught


def train_metrics(
    listed: list[Photograph], output: Path, seed: int, *, judged: Path | None, without: tuple[str, ...] = ()
) -> None:
    """Trains both metrics and writes their folders, `full-reference-SEED` and `blind-SEED` in `output`."""
    parts, kept = labelled(listed, output / "pairs", without), output / "features"
    held_out = [part.photograph.held_out for part in parts]

    def divided(values: list) -> tuple[list, list]:
        """Of the parts to train on, and of those that are held out."""
        both = ([v for v, h in zip(values, held_out, strict=True) if h is wanted] for wanted in (False, True))
        return next(both), next(both)

    def trained(name: str, examples: list[Examples]) -> IQAModel:
        target = output / "-".join([name, *without, str(seed)])
        return _trained(name, examples, parts, listed, target, seed, judged)

    model = cast(FullReferenceModel, new_model(RECIPES["full-reference"].config, seed))
    features = full_reference_features(model, parts, kept / "full-reference")
    more = extra_features(model, [part for part in parts if _has_extras(part)], kept / "extras")
    divisions = zip(divided(features), divided(parts), strict=True)
    examples = [full_reference_examples(*of, without) for of in divisions]
    teacher = trained("full-reference", examples)
    taught = teachings(teacher, parts, features, more)
    del features, more, examples
    model = new_model(RECIPES["blind"].config, seed)
    features = all_blind_features(model, parts, kept / "blind")
    divisions = zip(divided(features), divided(parts), strict=True)
    examples = [blind_examples(*of, taught, without) for of in divisions]
    trained("blind", examples)


def _trained(
    name: str, examples: list[Examples], parts: list[Part], listed: list[Photograph], target: Path, seed: int,
    judged: Path | None,
) -> IQAModel:  # fmt: skip
    """The trained model, as its folder `target` holds it; what is there is read."""
    recipe, (training, validation) = RECIPES[name], examples
    plain = target.with_name(target.name + ".plain")  # without a card
    if not plain.exists():
        model = new_model(recipe.config, seed)
        state = fit(model, *training, recipe.settings, seed)
        weights = {**flat_weights(nnx.state(model, STORED)), **flat_weights(state)}
        rounded = {n: np.asarray(w).astype(np.float16).astype(np.float32) for n, w in weights.items()}
        model = iqa_model_with(recipe.config, rounded)
        predicted = predict(model, validation.features, len(validation.labels))
        agreement = {key: round(float(x), 4) for key, x in correlations(predicted, validation.labels).items()}
        source = _source(recipe, seed, parts, training, validation, agreement)
        save_weights(plain, recipe.config, rounded, source, half=True)
    _, weights, record = read_any(plain)
    source = record["source"]
    model = iqa_model_with(recipe.config, weights)
    shown = {name: source["data"]["validation"][name] for name in ("srcc", "plcc", "rmse")}
    print(f"{target.name}: on held-out photographs {shown}", flush=True)
    if not target.exists():
        figures = measured(plain, judged, target.parent) if judged else None
        card = card_text(source, listed, figures, full_reference=model.full_reference)
        save_weights(target, recipe.config, weights, source, half=True, card=card)
    return model


def _source(recipe, seed, parts, training, validation, agreement) -> dict:
    """Where the weights come from, as `config.json` keeps it."""
    data: dict[str, Any] = {"dataset": "pretraining pairs"}
    for division, held_out, examples in (("training", False, training), ("validation", True, validation)):
        chosen = [part for part in parts if part.photograph.held_out is held_out]
        data[division] = {
            "split": "photographs that are held out" if held_out else "photographs to train on",
            "by_reference": True,
            "pairs": len(examples.labels),
            "references": {part.path.stem: _digest(part.path) for part in chosen},
        }
    data["validation"] |= agreement
    settings = {"seed": seed, **recipe.settings._asdict()}
    return {"recipe": "examples/pretrain", "version": __version__, "training": settings, "data": data}


def _digest(pairs: Path) -> str:
    """Of a reference, as data sets of iqa_jax have it."""
    with np.load(pairs) as part:
        return digest(part["reference"])


def measured(weights: Path, judged: Path, output: Path) -> dict:
    """What `evaluate` says of the weights on pairs that people judged."""
    kept = weights.with_name(weights.name + "-judged")
    if not list(kept.glob("metrics-*.json")):
        data_dir = output / "data"
        command("prepare", "pairs", "--manual-dir", judged, "--data-dir", data_dir)
        options = ["--crops", "grid", "--baselines", "--data-dir", data_dir, "--output", kept]
        command("evaluate", "--weights", weights, "--dataset", f"pairs/{judged.stem}", *options)
    return json.loads(next(kept.glob("metrics-*.json")).read_text())


def command(*arguments) -> None:
    """Runs one of the project's commands."""
    print("iqa-jax", *arguments, flush=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-m", "iqa_jax", *map(str, arguments)], env=environment)
    if done.returncode:
        sys.exit(done.returncode)
