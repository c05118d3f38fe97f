import dataclasses
import os
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError
from iqa_jax.evaluation.baselines import baselines
from iqa_jax.evaluation.evaluation import measure_agreement
from iqa_jax.evaluation.statistics import Fit
from iqa_jax.reporting import report, viewer
from iqa_jax.reporting.plots import Panel, save_bars, save_panels, save_scatter
from iqa_jax.reporting.report import save_samples, write_report
from tests import miniature
from tests.reporting.test_page import Mapped, data_of

# The first reference gets a name that HTML and matplotlib's formulas could trip over.
AWKWARD = '<i>"$&$'


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = miniature.pipal(tmp_path_factory.mktemp("data") / "PIPAL", references=3, per_reference=8)
    for path in [*folder.rglob("A0001*")]:
        path.rename(path.with_name(path.name.replace("A0001", AWKWARD)))
    label = folder / "Train_Label" / f"{AWKWARD}.txt"
    label.write_text(label.read_text().replace("A0001", AWKWARD))
    return PairSource(prepare_dataset("pipal", data_dir=folder.parent), "train")


@pytest.fixture(scope="module")
def evaluation(source):
    noise = np.random.default_rng(0).standard_normal(len(source))
    return evaluated(source, 0.01 * source.mos + noise, baselines(source))


def evaluated(source, predicted, values=None):
    return measure_agreement(source, predicted, weights="<u>run", crops="ten", baselines=values, resamples=20)


class Page(HTMLParser):
    """The tags, with their attributes, and the visible text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def names(self):
        return {tag for tag, _ in self.tags}


def test_the_page_needs_nothing_else(evaluation, tmp_path):
    path = write_report(evaluation, tmp_path / "new")
    assert path == tmp_path / "new" / "report-pipal-train.html"
    page = Page(path)
    assert not page.names() & {"script", "link", "iframe", "object"}
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    # scatter, bars, three pairs over- and three under-rated, one reference with five versions
    assert len(sources) == 2 + 2 * 6 + 6
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert all(attrs["alt"] for tag, attrs in page.tags if tag == "img")
    assert not {"href", "srcset"} & {key for _, attrs in page.tags for key in attrs}
    assert "http" not in path.read_text() and "url(" not in path.read_text()


def test_a_viewer_shows_the_pairs_farthest_from_people(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "VIEWED", 6)
    shown = viewer.write_viewer(evaluation, Mapped(), tmp_path / "viewer")
    data = data_of(shown)
    assert data["measures"] == ["MOS", "from the linear fit"] and len(data["pairs"]) == 6
    off = [pair["measured"][1] for pair in data["pairs"]]
    expected = np.sort(report.residuals(evaluation))
    np.testing.assert_allclose(off, [*expected[:3], *expected[-3:]])
    first = data["pairs"][0]
    position = list(evaluation.source.name).index(first["name"])
    assert first["measured"][0] == evaluation.source.mos[position]
    assert first["score"] == pytest.approx(evaluation.predicted[position])
    assert first["map"] and first["referenceImage"] != first["target"]
    path = write_report(evaluation, tmp_path, viewer=shown)
    assert [a["href"] for tag, a in Page(path).tags if tag == "a"] == ["viewer/index.html"]


def test_the_link_to_a_viewer_leads_there_whatever_it_is_called(evaluation, tmp_path):
    page = tmp_path / "viewer-pairs:a#b, 50%41?x=1&y 日" / "index.html"
    page.parent.mkdir()
    page.touch()
    path = write_report(evaluation, tmp_path, viewer=page)
    (link,) = [a["href"] for tag, a in Page(path).tags if tag == "a"]
    parts = urllib.parse.urlsplit(urllib.parse.urljoin(path.as_uri(), link))
    assert not parts.query and not parts.fragment and urllib.parse.unquote(parts.path) == str(page)


def test_a_viewer_s_scale_of_negated_dmos_ends_at_0(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(viewer, "VIEWED", 2)
    text = viewer.write_viewer(evaluation, Mapped(range=(-1.0, -0.0)), tmp_path / "viewer").read_text()
    assert "from -1 (bad) to 0 (excellent)" in text


def test_the_page_says_what_was_measured(evaluation, tmp_path):
    text = Page(write_report(evaluation, tmp_path)).text
    for value in (
        *evaluation.metrics.values(),
        *evaluation.intervals["logistic5_plcc"],
        evaluation.mapped()["logistic4"]["rmse"],
        evaluation.by("distortion")["group 01"]["krcc"],
        evaluation.by_opinion()["best third"]["srcc"],
        evaluation.by_opinion()["worst third"]["plcc"],
        evaluation.by("reference")["A0002.bmp"]["plcc"],
        evaluation.baseline_metrics()["ssim"]["srcc"],
    ):
        assert f"{value:.4f}" in text
    assert "higher is better" in text and "PSNR ∞ dB" in text
    mos = np.sort(evaluation.source.mos)
    assert f"best third: {mos[16]:.4g} to {mos[-1]:.4g}" in text


def test_the_same_bytes_twice(evaluation, tmp_path):
    write_report(evaluation, tmp_path / "first")
    write_report(evaluation, tmp_path / "second")
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("first", "second")
    )
    assert first == second
    assert sorted(first) == [
        f"{kind}-pipal-train.{'html' if kind == 'report' else 'png'}"
        for kind in ("examples", "overrated", "report", "scatter", "types", "underrated")
    ]


def test_names_are_escaped(evaluation, tmp_path):
    page = Page(write_report(evaluation, tmp_path))
    assert "<u>run" in page.text and f"{AWKWARD}.bmp" in page.text
    assert f"Reference {AWKWARD}.bmp" in {attrs.get("alt") for _, attrs in page.tags}
    assert not page.names() & {"i", "u"}


def test_a_failed_fit_is_said(evaluation, tmp_path):
    failed = Fit(False, (), np.full(len(evaluation.source), np.nan), "no <b> convergence")
    page = Page(
        write_report(dataclasses.replace(evaluation, fits={**evaluation.fits, "logistic4": failed}), tmp_path)
    )
    assert page.text.count("the fit failed: no <b> convergence") == 2


def test_no_types_no_bars(evaluation, tmp_path):
    source = evaluation.source.select(np.arange(len(evaluation.source)))
    source.distortion[:] = ""
    page = Page(write_report(dataclasses.replace(evaluation, source=source), tmp_path))
    assert "distortion type" not in page.text
    assert not (tmp_path / "types-pipal-train.png").exists()


def test_constant_predictions_of_one_reference(source, tmp_path):
    few = source.select(np.flatnonzero(source.reference == "A0002.bmp")[:3])
    page = Page(write_report(evaluated(few, np.ones(3)), tmp_path))
    assert "– to –" in page.text and page.text.count("No pair.") == 2
    assert page.text.count("SSIM 1.000") == 1  # computed, for there are no baselines


def test_negated_scores_are_called_so(evaluation, tmp_path):
    source = evaluation.source.select(np.arange(len(evaluation.source)))
    source.score = dataclasses.replace(source.score, kind="DMOS", higher_is_better=False)
    source.mos = -source.mos
    text = Page(write_report(dataclasses.replace(evaluation, source=source), tmp_path)).text
    assert "Predicted against true −DMOS" in text and "lower is better; this page negates it" in text


def test_points_and_fits_are_in_sight(tmp_path):
    mos = np.linspace(1000.0, 1800.0, 50)
    save_scatter(tmp_path / "scatter.png", mos / 1000, mos)
    pixels = np.asarray(Image.open(tmp_path / "scatter.png").convert("RGB"), int)
    plot = pixels[150:500, 80:570]  # below the legend
    assert (plot.max(axis=-1) - plot.min(axis=-1) > 50).any(axis=0).mean() > 0.5


def test_bars_take_negative_and_undefined_values(tmp_path):
    save_bars(tmp_path / "bars.png", {"a": 0.9, "b": -0.4, "$c$": float("nan")}, label="SRCC")
    assert Image.open(tmp_path / "bars.png").size[0] == 720


@pytest.mark.parametrize("name", ["caf\udce9.png", "日本.png", "two\nlines.png", "$a$ <b>.png"])
def test_any_file_name_can_be_drawn(tmp_path, name, recwarn):
    save_panels(tmp_path / "a.png", [Panel([("", np.zeros((8, 8, 3), np.uint8))], [name])], columns=1)
    save_bars(tmp_path / "a.png", {name: 0.5}, label="SRCC")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and not recwarn.list


def test_a_notebooks_backend_does_not_matter_in_a_command(tmp_path):
    code = (
        "import numpy as np, sys; from pathlib import Path; from iqa_jax.cli.ending import shown_plainly\n"
        "from iqa_jax.reporting.plots import save_bars\n"
        "with shown_plainly(): save_bars(Path(sys.argv[1]), {'a': 0.5}, label='SRCC')"
    )
    environment = {**os.environ, "MPLBACKEND": "module://a_notebooks.backend"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "bars.png"], env=environment, check=True)
    assert (tmp_path / "bars.png").exists()


def test_panels_show_every_pixel_as_it_is(tmp_path):
    images = [miniature.noisy(miniature.picture(k, (40, 60)), 30.0, k) for k in range(3)]
    panels = [
        Panel([("one", images[0]), ("two", images[1])], ["x" * 200]),
        Panel([("three", images[2])], ["y"]),
    ]
    save_panels(tmp_path / "panels.png", panels, columns=2)
    drawn = np.asarray(Image.open(tmp_path / "panels.png").convert("RGB"))
    for image, left in zip(images, (16, 16 + 60 + 6, 16 + 240 + 16), strict=True):
        np.testing.assert_array_equal(drawn[16 : 16 + 40, left : left + 60], image)


def test_samples_depend_on_the_seed_alone(source, tmp_path):
    options = dict(count=3, crop_size=96, rotation=20.0)
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        save_samples(tmp_path / name, source, seed=seed, **options)
    first, again, other = ((tmp_path / name).read_bytes() for name in ("first", "again", "other"))
    assert first == again != other
    assert first.startswith(b"\x89PNG") and b"atplotlib" not in first  # whose version changes


def test_samples_without_augmentation_are_the_images(source, tmp_path):
    one = source.select(np.array([3]))
    save_samples(tmp_path / "one.png", one, count=5, seed=0, crop_size=112, rotation=0.0)
    drawn = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))[16 : 16 + 112, 16 : 16 + 112]
    reference = one[0].reference
    assert (drawn == reference).all() or (drawn == reference[:, ::-1]).all()


def test_samples_name_an_image_that_is_too_small(source, tmp_path):
    with pytest.raises(DataError, match=r"pipal: .*\.bmp is smaller than crop_size=192"):
        save_samples(tmp_path / "none.png", source, count=1, seed=0, crop_size=192, rotation=0.0)
