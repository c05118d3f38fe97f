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
from iqa_jax.data.datasets import iqa_demo
from iqa_jax.data.distortions import KADID_TYPES
from iqa_jax.weights.places import SHIPPED
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
    if "onnxruntime" in code:
        pytest.importorskip("onnxruntime")
        (tmp_path / "metric.onnx").symlink_to(SHIPPED["full-reference"] / "metric.onnx")
    mask = np.zeros(distorted.shape[:2], bool)
    mask[:100] = True
    namespace = {"reference": reference, "distorted": distorted, "mask": mask}
    exec(compile(code, "snippet", "exec"), namespace)
    score = namespace.get("score", namespace.get("mos"))
    assert score is None or np.isfinite(score).all()


# Pages


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_a_title_a_sentence_below_it_and_a_place_in_the_index(page):
    title, _, sentence, *_ = page.read_text().splitlines()
    assert title.startswith("# ") and re.match(r"\w", sentence)
    index = ROOT / "docs" / "README.md"
    assert page.name == "README.md" or f"]({page.name})" in index.read_text()


def anchors(page: Path) -> set[str]:
    """What a link can name on a page, as GitHub makes it of the headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert link.startswith("https://") or target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.quick
def test_the_picture_of_the_readme_is_small():
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert (ROOT / picture).stat().st_size < 300_000


# Numbers


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", (ROOT / page).read_text())


def counted() -> list[tuple[str, str]]:
    """Sentences of the documents with numbers that follow from the code."""
    photographs, held_out, types = (
        len(names) for names in (iqa_demo.PHOTOGRAPHS, iqa_demo.VALIDATION, iqa_demo.TYPES)
    )
    pairs, versions = photographs * types * 5, types * 5
    parts = 4 * len([n for n in (*iqa_demo.PHOTOGRAPHS, *iqa_demo._MORE) if n not in iqa_demo.VALIDATION])
    return [
        ("docs/training.md", f"five levels, {pairs} pairs; `chelsea`, `china` and `coffee` are held out"),
        ("docs/training.md", f"SRCC on the {held_out * versions} held-out pairs"),
        ("docs/agreement.md", f"({held_out * versions} pairs)"),
        ("docs/datasets.md", f"| `iqa_demo` | {pairs} | {photographs} |"),
        ("docs/datasets.md", f"| `iqa_demo_unlabelled` | {parts * types}, without labels | {parts} |"),
        ("docs/student.md", f"({parts * types} pairs of {parts} parts of photographs"),
        ("docs/student.md", f"reading a reference once for its {versions} versions"),
        ("docs/student.md", f"KADID-10k's {len(KADID_TYPES)} distortion types at five levels"),
        ("docs/student_results.md", f"{held_out * versions} pairs of {held_out} photographs"),
    ]


@pytest.mark.quick
@pytest.mark.parametrize(("page", "sentence"), counted())
def test_what_is_counted_is_what_the_code_has(page, sentence):
    assert sentence in text_of(page)


@pytest.mark.quick
def test_what_is_told_of_the_student_is_in_its_table():
    table = (ROOT / "docs/student_results.md").read_text()
    told = re.search(r"In short, as SRCC: (.*?)\.\s*\n\n", (ROOT / "docs/student.md").read_text(), re.DOTALL)[
        1
    ]
    rows = re.findall(r"^\| [^|]+\| [^|]+\| (-?[\d.]+) \(", table, re.MULTILINE)
    assert len(rows) >= 5 and re.findall(r"-?\d\.\d{3}", told) == [*rows[:4], *reversed(rows[4:])]


@pytest.mark.quick
def test_what_was_measured_was_measured_with_the_pinned_versions():
    pinned = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    for page in (ROOT / "docs").glob("*.md"):
        for package, version in re.findall(r"\b(jax|flax) (\d+\.\d+\.\d+)", page.read_text()):
            assert version == pinned[package], f"{page.name}: {package} {version}"


@pytest.mark.quick
def test_commands_print_json_but_those_that_the_readme_names():
    without = {
        name
        for name in typer.main.get_command(app).commands
        if name != "train" and "--json" not in options_of(name)
    }
    assert without == {"convert"} and "all but `train` and `convert` have `--json`" in text_of("README.md")


@pytest.mark.quick
def test_every_benchmark_has_a_small_mode_that_is_run():
    run = (ROOT / ".ci" / "benchmarks").read_text()
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert path.stem in ("measures", "tables") or path.name in run, path.name  # the others use these
