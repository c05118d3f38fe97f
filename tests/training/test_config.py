import contextlib
from pathlib import Path

import pytest

from iqa_jax import configs
from iqa_jax.cli.train_arguments import parse
from iqa_jax.configs import conformer, student
from iqa_jax.errors import ConfigError
from iqa_jax.training.config import TrainConfig, fields_of, leaves
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
    assert parse(["--config", f"configs/{model}.py:demo"]).name == f"{model}-demo"
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
        (["--config.heads=3"], "config.heads=3: expected a divisor of config.dim=128"),
        (["--config.dim=63"], "config.dim=63: expected an even number"),
        (["--config.dim=0"], "config.dim=0: expected 2 or more"),
        (["--config.dim=-1"], "config.dim=-1: expected 2 or more"),
        (["--config.heads=0"], "config.heads=0: expected 1 or more"),
        (["--config.num_steps=12345678901234567890123"], "config.num_steps=.*: expected 2147483647 or less"),
        (["--config.num_epochs=99999999999"], "config.num_epochs=99999999999: expected 2147483647 or less"),
        (["--config.learning_rate=nan"], "config.learning_rate=nan: expected a finite number"),
        (["--config.learning_rate=1e300"], "config.learning_rate=1e.300: expected a number above 0, at most"),
        (["--config.rotation=-inf"], "config.rotation=-inf: expected a finite number"),
        (["--config.seed=true"], "config.seed=true: expected a whole number"),
        (["--config.seed=4294967296"], "config.seed=4294967296: expected 2147483647 or less"),
        (["--config.keep_epochs=3"], "config.keep_epochs=3: expected true or false"),
        (["--config.train_split="], "config.train_split=: expected a text that is not empty"),
        (
            ["--config.data.placement=gpu"],
            "config.data.placement=gpu: expected one of auto, .*; did you mean",
        ),
        (["--config.data.steps_at_once=-1"], "config.data.steps_at_once=-1: expected 0 or more"),
        (["--config.data=3"], "config has no field 'data'"),
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
    assert (command.name, command.config.dataset, command.config.seed) == ("conformer-demo", "iqa_demo", 3)


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
    assert (command.name, command.config.batch_size) == ("mine-demo", 7)


@pytest.mark.parametrize("recipe", [conformer, student])
def test_every_field_is_checked_for_its_type_and_its_bounds(recipe):
    """In a recipe of your own a field may be anything."""
    fields = recipe.get_config("demo").to_dict() | ({} if recipe is conformer else {"pseudo_ratio": 0})
    names, limits = leaves(fields), fields_of(recipe is conformer)
    assert len(names) > 30 and names.keys() == limits.keys()
    for name in names:
        for value in (None, [1], {}, "", float("nan"), -1, 10**23, "3", True):
            group, _, inner = name.rpartition(".")
            given = fields | ({group: fields[group] | {inner: value}} if group else {name: value})
            if value != {} and limits[name].problem(value) is None:
                kinds = (float, int) if limits[name].kind is float else limits[name].kind
                assert isinstance(value, kinds)
                with contextlib.suppress(ConfigError):  # of fields that do not fit together
                    assert leaves(TrainConfig.from_dict(given).to_dict())[name] == value
            else:
                with pytest.raises(ConfigError, match=f"^config.{name}"):
                    TrainConfig.from_dict(given)


@pytest.mark.parametrize("recipe", [conformer, student])
def test_the_defaults_are_the_papers_recipe(recipe):
    fields = recipe.get_config("pipal").to_dict()
    given = {} if recipe is conformer else {"teacher": "runs/conformer"}
    config = TrainConfig(model=fields["model"], **given)
    assert config == TrainConfig.from_dict(fields | given) and config.to_dict() == fields | given
    later = {name for name in fields | given if name in ("similarities", "turns", "keep_features")}
    earlier = {name: value for name, value in fields.items() if name not in later}
    assert TrainConfig.from_dict(earlier | given).to_dict().keys() == config.to_dict().keys()


def test_a_configuration_of_python_is_checked_and_stays_as_it_is():
    for fields, message in (
        ({"batch_size": 0}, "config.batch_size=0: expected 1 or more"),
        ({"teacher": "runs/conformer"}, "config.teacher: config.model=iqa_conformer does not read it"),
        ({"model": "blind_student"}, "config.teacher: expected the run or"),
        ({"data": {"placement": "host"}}, "config.data: expected a DataConfig"),
    ):
        with pytest.raises(ConfigError, match=message):
            TrainConfig(**fields)
    with pytest.raises(AttributeError):
        TrainConfig().batch_size = 4


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        (
            "conformer",
            "config.bath_size = 4",
            "config.bath_size=4: .* does not read it; did you mean config.batch",
        ),
        (
            "conformer",
            "config.teacher = 'x'",
            "config.teacher=x: config.model=iqa_conformer does not read it",
        ),
        ("conformer", "del config.heads", "config.heads is missing, which config.model=iqa_conformer needs"),
        ("conformer", "config.model = 'blind_student'", "config.teacher is missing, .*and 13 more"),
        ("student", "config.model = 'iqa_conformer'", "config.dropout is missing, which"),
        ("conformer", "config.data = 3", "config.data.placement is missing"),
    ],
)
def test_fields_of_a_recipe_of_ones_own(tmp_path, recipe, change, message):
    (tmp_path / "mine.py").write_text(
        f"from iqa_jax.configs import {recipe}\n\n\ndef get_config(name='demo'):\n"
        f"    config = {recipe}.get_config(name)\n"
        f"    with config.ignore_type():\n        {change}\n"
        "    return config\n"
    )
    with pytest.raises(ConfigError, match=message) as error:
        parse([f"--config={tmp_path / 'mine.py'}:demo"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "student --config.pseudo_ratio=0 --config.teacher=nonsense",
            "config.teacher=nonsense has no effect: with",
        ),
        (
            "student --config.pseudo_ratio=0 --config.rounds=9",
            "config.rounds=9 has no effect: .*; leave it out",
        ),
        (
            "student --config.pseudo_ratio=0 --config.noise.dropout=0.5",
            "config.noise.dropout=0.5 has no effect",
        ),
        (
            "student --config.pseudo_ratio=0 --config.pseudo_weight=2 --config.noise.flip=0",
            "config.pseudo_weight=2.0 has no effect .and 1 more.: with config.pseudo_ratio=0",
        ),
        ("student:finetune --config.teacher=runs/conformer", "config.teacher=runs/conformer has no effect"),
        (
            "conformer --config.init_from=blind --config.dim=64",
            "config.dim=64 has no effect: the architecture",
        ),
        (
            "conformer:finetune --config.backbone_weights=random",
            "config.backbone_weights=random has no effect",
        ),
        (
            "conformer --config.splits=a.json --config.train_split=train[:9]",
            "config.train_split=train.* has no effect",
        ),
        ("conformer:pipal --config.num_steps=8 --config.num_epochs=3", "config.num_epochs=3 has no effect"),
        (
            "conformer --config.data.placement=host --config.data.steps_at_once=5",
            "config.data.steps_at_once=5 has no effect: several steps",
        ),
        (
            "conformer:finetune --config.data.placement=host",
            "config.data.placement=host has no effect: with config.keep_features",
        ),
        ("conformer:demo --config.turns=true", "config.turns=True has no effect: config.rotation=180"),
    ],
)
def test_an_option_without_effect_is_refused(arguments, message):
    recipe, *rest = arguments.split()
    recipe, colon, name = recipe.partition(":")
    with pytest.raises(ConfigError, match=message) as error:
        parse([f"--config={recipe}:{name or 'demo'}", *rest])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        "student:demo --config.pseudo_ratio=0 --config.rounds=1 --config.noise.dropout=0.1",
        "conformer:demo --config.num_steps=8 --config.num_epochs=3",  # of the cosine
        "conformer:demo --config.data.placement=host --config.data.steps_at_once=1",
        "conformer:demo --config.data.placement=device --config.data.steps_at_once=5",
        "student:demo --config.teacher=x --config.rounds=9",
        "conformer:finetune --config.dataset=pairs/x --config.splits=a.json",
    ],
)
def test_an_option_with_an_effect_is_not(arguments):
    recipe, *rest = arguments.split()
    parse([f"--config={recipe}", *rest])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("conformer:demo --config.keep_features=4", "config.rotation=180.0: expected 0 with config.keep_fea"),
        (
            "student:finetune --config.backbone_learning_rate=1e-5",
            "config.backbone_learning_rate=1e-05: expected 0 with config.keep_features=8",
        ),
        (
            "student:finetune --config.pseudo_ratio=1 --config.teacher=x",
            "config.pseudo_ratio=1.0: expected 0 with .* noise makes",
        ),
    ],
)
def test_features_are_kept_of_finite_crops_alone(arguments, message):
    recipe, *rest = arguments.split()
    with pytest.raises(ConfigError, match=message) as error:
        parse([f"--config={recipe}", *rest])
    assert "\n" not in str(error.value)


def test_every_recipe_has_a_folder_of_its_own():
    commands = {
        "conformer": "conformer",
        "conformer:pipal": "conformer-pipal",
        "conformer:demo": "conformer-demo",
        "transformer:demo": "transformer-demo",
        "student --config.teacher=runs/conformer": "student",
        "conformer:finetune": "conformer-finetune",
        "conformer:finetune --config.dataset=pairs/mine": "conformer-finetune",
        "conformer:finetune --config.dataset=pairs/other": "conformer-finetune-other",
        "conformer:pipal --config.dataset=kadid10k": "conformer-pipal-kadid10k",
        f"{CONFORMER}:demo": "conformer-demo",
    }
    for arguments, folder in commands.items():
        recipe, *rest = arguments.split()
        assert parse([f"--config={recipe}", *rest]).name == folder, arguments
