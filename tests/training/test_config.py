from pathlib import Path

import pytest

from iqa_jax import configs
from iqa_jax.errors import ConfigError
from iqa_jax.training.config import parse
from tests import miniature

pytestmark = pytest.mark.quick

CONFORMER = "configs/conformer.py"

RECIPES = ", ".join(sorted(path.stem for path in Path(configs.__file__).parent.glob("[a-z]*.py")))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_JAX_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("model", ["conformer", "transformer"])
def test_without_pipal_the_built_in_set_is_taken_and_the_reason_said(model):
    command = parse(["--config", f"configs/{model}.py", "--config.batch_size=8"])
    config = command.config
    assert (config.model, config.dataset, config.backbone) == (
        f"iqa_{model}",
        "iqa_demo",
        "efficientnet_lite0",
    )
    assert config.batch_size == 8 and command.name == model and command.workdir is None
    assert "PIPAL was not found in or under" in command.reason


def test_pipal_is_taken_where_it_is_found(tmp_path):
    miniature.pipal(tmp_path / "PIPAL", references=1, per_reference=1)
    command = parse([f"--config={CONFORMER}", f"--config.data_dir={tmp_path}", "--workdir=run"])
    config = command.config
    assert (config.dataset, config.backbone, config.data_dir) == (
        "pipal",
        "inception_resnet_v2",
        str(tmp_path),
    )
    assert str(tmp_path / "PIPAL") in command.reason and command.workdir == "run"


def test_the_paper_recipe():
    config = parse([f"--config={CONFORMER}:pipal"]).config
    assert (config.batch_size, config.num_epochs, config.learning_rate) == (16, 30, 1e-4)
    assert (config.schedule, config.rotation, config.crop_size) == ("constant", 180.0, 192)
    assert config.keep_epochs and config.train_split == "train[:80%]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.bath_size=8"], "no field 'bath_size'; the nearest is config.batch_size"),
        (["--config.batch_size=x"], "config.batch_size=x: expected a whole number"),
        (["--config.batch_size=0"], "config.batch_size=0: expected 1 or more"),
        (["--config.dtype=float16"], "config.dtype=float16: expected one of float32, bfloat16; did you mean"),
        (["--config.dataset=pipl"], "config.dataset=pipl: expected one of .*; did you mean pipal"),
        (["--config.crops=tne"], "config.crops=tne: .*; did you mean ten"),
        (["--config.learning_rate=0"], "config.learning_rate=0.0: expected a number above 0"),
        (["--config.ema_decay=1"], "config.ema_decay=1.0: expected 0"),
        (["--config.accumulation=3"], "config.accumulation=3: expected a divisor of config.batch_size"),
        (["--wrkdir=run"], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
        (["run"], "unexpected argument 'run'"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse([f"--config={CONFORMER}", *arguments])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"--config={CONFORMER}:pipl"], "unknown recipe 'pipl': expected pipal, demo, finetune or auto"),
        (["--config=configs/none.py"], "configs/none.py: no such configuration file"),
        (["--config=conformr"], "conformr: no such configuration file; expected " + RECIPES),
        (["--workdir=run"], "give a configuration, as in --config conformer: " + RECIPES),
    ],
)
def test_a_configuration_that_is_not_there(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse(arguments)


@pytest.mark.parametrize("arguments", [["--config=conformer:demo"], ["--config", "conformer:demo"]])
def test_a_configuration_of_the_package_by_its_name(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = parse([*arguments, "--config.seed=3"])
    assert (command.name, command.config.dataset, command.config.seed) == ("conformer", "iqa_demo", 3)


def test_a_file_of_ones_own_comes_before_a_name(tmp_path, monkeypatch):
    own = tmp_path / "mine.py"
    own.write_text(
        "from iqa_jax.configs import conformer\n\n\n"
        "def get_config(recipe='demo'):\n"
        "    config = conformer.get_config(recipe)\n"
        "    config.batch_size = 7\n"
        "    return config\n"
    )
    command = parse([f"--config={own}:demo"])
    assert (command.name, command.config.batch_size) == ("mine", 7)
