"""The snippets of the README and the documentation: Python runs, commands exist with their options."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from ml_collections import ConfigDict
from PIL import Image

from iqa_jax.cli.app import app
from iqa_jax.configs import conformer, student, transformer
from iqa_jax.weights.portable import SHIPPED
from tests import miniature

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = {"conformer": conformer, "student": student, "transformer": transformer}
DOORS = {"train.py": "train", "timm_to_flax.py": "convert"}
PROGRAM = re.compile(r"(?:.*-m iqa_jax|.*\biqa-jax|.*\btrain\.py|.*\btimm_to_flax\.py)$")
OF_TRAIN = {"--config", "--workdir", "--coordinator", "--num-processes", "--process-id"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(kind: str) -> list:
    found = []
    for page in PAGES:
        blocks = [body for language, body in FENCE.findall(page.read_text()) if language == kind]
        found += [pytest.param(body, id=f"{page.stem}-{k}") for k, body in enumerate(blocks)]
    return found


def commands() -> list[list[str]]:
    """The words of each command of this project in the documentation."""
    text = "\n".join(body.values[0] for kind in ("", "bash") for body in snippets(kind))
    words = [shlex.split(line, comments=True) for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in words if program_in(line) is not None]


def program_in(words: list[str]) -> int | None:
    """Where the name of a program of this project stands."""
    starts = (" ".join(words[: k + 1]) for k in range(len(words)))
    return next((k for k, start in enumerate(starts) if PROGRAM.match(start)), None)


def options_of(name: str) -> set[str]:
    command = typer.main.get_command(app).commands[name]
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def fields(config: ConfigDict) -> set[str]:
    return set(config.to_dict()) | {
        f"{name}.{inner}" for name in ("data", "noise") for inner in config.get(name, ())
    }


@pytest.mark.quick
def test_commands_and_their_options_exist():
    assert len(commands()) > 15
    for words in commands():
        line = " ".join(words)
        program = program_in(words)
        name = DOORS.get(Path(words[program]).name)
        rest = words[program + 1 :]
        if not name:
            name, *rest = rest
        given = {word.strip("[]").partition("=")[0] for word in rest if word.strip("[").startswith("-")}
        if name != "train":
            assert name.startswith("-") or given <= options_of(name), line
            continue
        recipe = re.search("|".join(RECIPES), rest[rest.index("--config") + 1])[0]
        allowed = {f"--config.{field}" for field in fields(RECIPES[recipe].get_config("demo"))}
        assert given <= allowed | OF_TRAIN, line


@pytest.mark.parametrize("code", snippets("python"))
def test_python_snippets_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "conformer").symlink_to(SHIPPED["full-reference"])
    reference = miniature.picture(0, (224, 256))
    distorted = miniature.noisy(reference, 20.0, 1)
    for name, image in (("original.png", reference), ("restored.png", distorted)):
        Image.fromarray(image).save(tmp_path / name)
    if "jaxexport" in code:
        pytest.importorskip("flatbuffers")
        import iqa_jax
        from iqa_jax.scoring.export import export

        export(iqa_jax.load(), "conformer.jaxexport")
        reference, distorted = (np.float32(image[None, :192, :192]) / 255 for image in (reference, distorted))
    mask = np.zeros(distorted.shape[:2], bool)
    mask[:100] = True
    namespace = {"reference": reference, "distorted": distorted, "mask": mask}
    exec(compile(code, "snippet", "exec"), namespace)
    score = namespace.get("score", namespace.get("mos"))
    assert score is None or np.isfinite(score).all()
