"""Scoring of files, with a metric that is quick to compute."""

import csv
import dataclasses
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from iqa_jax.cli import score as command_score
from iqa_jax.cli.score import chosen_files
from iqa_jax.errors import UserError
from iqa_jax.reporting.maps import heat_map, map_files, save_map
from iqa_jax.reporting.scores import Outputs
from iqa_jax.scoring.files import score_files
from iqa_jax.scoring.results import Result, to_json, write_csv
from tests.miniature import noisy, picture, save

pytestmark = pytest.mark.quick


@dataclasses.dataclass
class Fidelity:
    """100 less the mean absolute difference; notes each reference that comes anew."""

    full_reference: bool = True
    higher_is_better: bool = True
    range: tuple[float, float] = (0.0, 100.0)
    weights: str = "a"
    prepared: list = dataclasses.field(default_factory=list)

    def describe(self):
        return {"metric": "fidelity", "sha256": self.weights}

    def check(self, *images):
        images = images[: 1 + self.full_reference]
        if len({image.shape for image in images}) > 1:
            raise UserError(f"reference {images[0].shape} and distorted {images[1].shape} differ")

    def stream(self, pairs):
        latest = None
        for images in pairs:
            if len(images) > 1 and images[0] is not latest:
                latest = images[0]
                self.prepared.append(latest.shape)
            yield self.score(*images)

    def score(self, *images):
        if not self.full_reference:
            return np.float32(images[0].std())
        reference, distorted, *mask = images
        if mask:
            shown = mask[0] > 0
            reference, distorted = reference[shown], distorted[shown]
        return np.float32(100 - np.abs(reference - distorted.astype(float)).mean())

    def map(self, *images):
        *reference, distorted = images
        difference = np.abs(reference[0] - distorted.astype(float)).mean(-1) if reference else 0
        return SimpleNamespace(values=np.broadcast_to(100.0 - difference, distorted.shape[:2]))


def in_order(metric, pairs, **options):
    """The results of all pairs, by position."""
    return [result for _, result in sorted(score_files(metric, pairs, **options), key=lambda found: found[0])]


def folder(path: Path, references: int, versions: int) -> Path:
    for r in range(references):
        image = picture(r, (32, 36 + r))
        save(path / "ref" / f"R{r}.png", image)
        for v in range(versions):
            save(path / "dis" / f"R{r}_{v:02d}.png", noisy(image, 5.0 * v, v))
    return path


def score_pairs(metric, pairs, *, masks=None, resize="", align=False, as_json=False, **outputs) -> int:
    """What the command does once it has a metric and pairs."""
    options = {"masks": masks, "resize": resize, "align": align, "as_json": as_json}
    return command_score.score_pairs(metric, pairs, Outputs(**outputs), **options)


def command(path: Path, metric=None, **options) -> int:
    pairs, _ = chosen_files([str(path / "dis")], [str(path / "ref")])
    return score_pairs(metric or Fidelity(), pairs, **options)


def test_one_pair_prints_a_number(tmp_path, capsys):
    folder(tmp_path, 1, 1)
    assert command(tmp_path) == 0
    assert capsys.readouterr().out == "100.0000\n"


def test_several_pairs_print_a_table_on_a_terminal(tmp_path, capsys, monkeypatch):
    folder(tmp_path, 2, 3)
    metric = Fidelity()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert command(tmp_path, metric) == 0
    out = capsys.readouterr().out
    assert "6 of 6 scored, mean 9" in out.replace("\n", " ") and out.count("100.0000") == 2
    assert metric.prepared == [(32, 36, 3), (32, 37, 3)]


def test_sorted_json_alone_on_standard_output(tmp_path, capsys):
    folder(tmp_path, 2, 3)
    (tmp_path / "dis" / "R0_00.png").write_bytes(b"")
    assert command(tmp_path, as_json=True, best_first=True) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    scores = [entry["score"] for entry in found[:-1]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 5
    assert set(found[0]) == {"target", "reference", "score"}
    assert set(found[-1]) == {"target", "reference", "error"} and "empty file" in found[-1]["error"]
    assert err.count("error:") == 1


def test_hundred_images_of_which_seven_are_broken(tmp_path, capsys):
    folder(tmp_path, 4, 25)
    broken = {
        "R0_03.png": "empty file",
        "R0_11.png": "not an image",
        "R1_00.png": "truncated",
        "R1_24.png": "differ",
        "R2_07.png": "signed or complex values",
        "R3_08.png": "bomb",
        "R3_09.png": "Truncated",
    }
    files = [tmp_path / "dis" / name for name in broken]
    whole = files[2].read_bytes()
    files[0].write_bytes(b"")
    files[1].write_text("a web page")
    files[2].write_bytes(whole[: len(whole) // 2])
    save(files[3], picture(0, (50, 50)))
    Image.fromarray(np.ones((32, 38), np.int32)).save(files[4], format="TIFF")
    Image.new("1", (20_000, 20_000)).save(files[5])
    files[6].write_bytes(whole[:20])
    table = tmp_path / "scores.csv"
    assert command(tmp_path, table=table) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 93 and "93 of 100 scored" in err
    assert sum(line.startswith("error: ") for line in err.splitlines()) == 7
    with open(table) as file:
        rows = {Path(row["target"]).name: row for row in csv.DictReader(file)}
    assert len(rows) == 100
    assert {name for name, row in rows.items() if row["error"]} == set(broken)
    for name, row in rows.items():
        assert bool(row["score"]) == (name not in broken)
        assert broken.get(name, "") in row["error"] and Path(row["reference"]).stem == name[:2]


def test_results_keep_the_order_of_the_pairs(tmp_path):
    folder(tmp_path, 3, 2)
    pairs = [
        (tmp_path / f"dis/R{r}_{v:02d}.png", tmp_path / f"ref/R{r}.png") for v in (1, 0) for r in (2, 0, 1)
    ]
    metric = Fidelity()
    results = in_order(metric, pairs)
    assert [(r.target, r.reference) for r in results] == pairs
    assert [r.score == 100 for r in results] == [False] * 3 + [True] * 3
    assert [shape[1] for shape in metric.prepared] == [38, 36, 37]


def test_broken_reference_fails_its_pairs_alone(tmp_path):
    folder(tmp_path, 2, 2)
    (tmp_path / "ref" / "R0.png").write_bytes(b"")
    pairs = [(tmp_path / f"dis/R{r}_00.png", tmp_path / f"ref/R{r}.png") for r in (0, 1)]
    failed, scored = in_order(Fidelity(), pairs)
    assert failed.score is None and failed.error == f"{tmp_path}/ref/R0.png: empty file"
    assert scored == Result(*pairs[1], score=100.0)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (RuntimeError("out of memory\ndetails"), "out of memory"),
        (MemoryError(), "MemoryError"),
        (float("nan"), "the metric gives nan"),
    ],
)
def test_failures_of_the_device_do_not_end_the_run(tmp_path, outcome, reason):
    folder(tmp_path, 1, 3)

    class Failing(Fidelity):
        def score(self, reference, distorted):
            score = super().score(reference, distorted)
            if score < 100:
                return score
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    pairs = [(tmp_path / f"dis/R0_0{v}.png", tmp_path / "ref/R0.png") for v in range(3)]
    failed, *others = in_order(Failing(), pairs)
    assert failed.error.startswith(reason) and "details" not in failed.error
    assert all(result.score < 100 and result.error is None for result in others)


def test_decoding_runs_ahead_but_not_far(tmp_path, monkeypatch):
    from iqa_jax.scoring import files as score

    folder(tmp_path, 1, 12)
    read, ahead, read_image = [], [], score.read_image
    decoded = threading.Semaphore(0)

    def counted(path, *, say):
        read.append(path)
        decoded.release()
        return read_image(path, say=say)

    monkeypatch.setattr(score, "read_image", counted)
    pairs = [(tmp_path / f"dis/R0_{v:02d}.png", tmp_path / "ref/R0.png") for v in range(12)]

    class Waiting(Fidelity):
        def score(self, reference, distorted):
            if not ahead:  # the reference, this image and those ahead are read while it is scored
                assert all(decoded.acquire(timeout=10) for _ in range(4))
            ahead.append(len(read))
            return super().score(reference, distorted)

    in_order(Waiting(), pairs)
    assert ahead[0] == 4 and all(n <= k + 4 for k, n in enumerate(ahead))


def test_maps_are_named_after_their_targets(tmp_path, capsys):
    folder(tmp_path, 1, 2)
    save(tmp_path / "dis" / "R0_01.bmp", picture(0, (32, 36)))
    maps = tmp_path / "dis"  # nothing there is overwritten
    before = (maps / "R0_01.png").read_bytes()
    assert command(tmp_path, maps=maps) == 0
    names = {"R0_00-map.png", "R0_01-map.png", "R0_01.bmp-map.png"}
    assert {path.name for path in maps.glob("*-map*")} == names
    assert (maps / "R0_01.png").read_bytes() == before
    with Image.open(maps / "R0_00-map.png") as image:
        assert image.size == (36 + 84, 32) and image.mode == "RGB"


def test_map_that_cannot_be_written_leaves_the_score(tmp_path):
    folder(tmp_path, 1, 1)
    pairs = [(tmp_path / "dis/R0_00.png", tmp_path / "ref/R0.png")]
    maps = map_files(tmp_path / "missing", [t for t, _ in pairs])

    def draw(position, images, quality):
        save_map(maps[position], images[-1], quality, (0, 100))

    (result,) = in_order(Fidelity(), pairs, map_writer=draw)
    assert result.score == 100 and result.error.startswith("no map: ")
    assert set(to_json([result])[0]) == {"target", "reference", "score", "error"}


def test_heat_map_goes_from_purple_to_yellow():
    image = np.full((40, 60, 3), 128, np.uint8)
    values = np.repeat(np.linspace(-1, 11, 60)[None], 40, axis=0)
    drawn = heat_map(image, values, 0.0, 10.0).astype(int)
    assert drawn.shape == (40, 60 + 84, 3)
    left, right = drawn[20, 0], drawn[20, 59]
    assert left[2] > left[1] and right[1] > right[2]
    legend = drawn[:, 60 + 10]
    assert legend[0, 1] > legend[-1, 1] + 100
    np.testing.assert_array_equal(drawn[:, 0], np.repeat(left[None], 40, axis=0))


def test_remarks_are_said_once(tmp_path, capsys):
    folder(tmp_path, 1, 3)
    for path in (tmp_path / "dis").iterdir():
        with Image.open(path) as image:
            image.putalpha(200)
            image.save(path)
    assert command(tmp_path, as_json=True) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 3 and err.count("mid-grey") == 1


def test_no_reference_metric(tmp_path, capsys):
    folder(tmp_path, 1, 2)
    metric = Fidelity(full_reference=False)
    pairs, _ = chosen_files([str(tmp_path / "dis")], [])
    assert score_pairs(metric, pairs, as_json=True, maps=tmp_path / "maps") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 2 and set(found[0]) == {"target", "score"} and not metric.prepared
    assert len(list((tmp_path / "maps").iterdir())) == 2
    assert command(tmp_path, metric) == 0
    assert "the references are not used" in capsys.readouterr().err
    with pytest.raises(UserError, match="give --reference"):
        score_pairs(Fidelity(), pairs)


def test_failure_of_one_pair(tmp_path, capsys):
    folder(tmp_path, 1, 1)
    (tmp_path / "dis" / "R0_00.png").write_bytes(b"")
    assert command(tmp_path) == 1
    out, err = capsys.readouterr()
    assert out == "" and err == f"error: {tmp_path}/dis/R0_00.png: empty file\n"


def test_csv_of_results(tmp_path):
    path = tmp_path / "scores.csv"
    write_csv(path, [Result(Path("a,b.png"), None, 1.5), Result(Path("c.png"), Path("r.png"), error="bad")])
    expected = 'target,reference,score,error\n"a,b.png",,1.5,\nc.png,r.png,,bad\n'
    assert path.read_text() == expected


def test_in_a_pipe_a_line_a_file_as_they_come(tmp_path, capsys):
    folder(tmp_path, 1, 1)
    odd = tmp_path / "dis" / "R0_a\tb\nc.png"
    (tmp_path / "dis" / "R0_00.png").copy(odd) if hasattr(Path, "copy") else odd.write_bytes(
        (tmp_path / "dis" / "R0_00.png").read_bytes()
    )
    assert command(tmp_path) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == [f"{tmp_path}/dis/R0_00.png\t100.0000", f"{tmp_path}/dis/R0_a\\tb\\nc.png\t100.0000"]


class Stopped(Fidelity):
    """Is interrupted after some scores."""

    after: int = 0

    def stream(self, pairs):
        for number, score in enumerate(super().stream(pairs)):
            if number == self.after:
                raise KeyboardInterrupt
            yield score


def test_a_stopped_start_is_gone_on_with(tmp_path, capsys):
    folder(tmp_path, 3, 4)
    table, whole = tmp_path / "scores.csv", tmp_path / "whole.csv"
    (tmp_path / "dis" / "R1_02.png").write_bytes(b"")
    assert command(tmp_path, table=whole) == 1
    for after in (0, 3, 1, 2):
        metric = Stopped()
        metric.after = after
        with pytest.raises(KeyboardInterrupt):
            command(tmp_path, metric, table=table)
        assert after or not table.exists()  # until there is a score
    rows = table.read_text().splitlines()
    assert rows[0] == "target,reference,score,error" and len(rows) >= 7
    (journal,) = tmp_path.glob("scores.csv.*")
    with journal.open("a") as file:
        file.write('["cut off')
    metric = Fidelity()
    assert command(tmp_path, metric, table=table) == 1
    assert table.read_text() == whole.read_text() and not journal.exists()
    assert "6 of 12 are scored already" in capsys.readouterr().err


def test_what_changed_meanwhile_is_scored_again(tmp_path):
    folder(tmp_path, 1, 3)
    table = tmp_path / "scores.csv"
    metric = Stopped()
    metric.after = 2
    with pytest.raises(KeyboardInterrupt):
        command(tmp_path, metric, table=table)
    with pytest.raises(UserError, match="scores of another metric"):
        command(tmp_path, Fidelity(weights="b"), table=table)
    save(tmp_path / "dis" / "R0_00.png", picture(5, (32, 36)))
    assert command(tmp_path, table=table) == 0
    scores = [float(row.split(",")[2]) for row in table.read_text().splitlines()[1:]]
    assert scores[0] < 90
    assert command(tmp_path, Fidelity(weights="b"), table=table, recompute=True) == 0


def test_maps_that_are_there_are_not_drawn_again(tmp_path, capsys):
    folder(tmp_path, 1, 4)
    options = {"table": tmp_path / "scores.csv", "maps": tmp_path / "maps"}
    metric = Stopped()
    metric.after = 3
    with pytest.raises(KeyboardInterrupt, match=r"^\d of 4 images are done; run the same"):
        command(tmp_path, metric, **options)
    drawn = sorted((tmp_path / "maps").iterdir())
    assert len(drawn) >= 2
    before = [path.stat().st_mtime_ns for path in drawn]
    assert command(tmp_path, **options) == 0
    assert "of 4 are scored already; --recompute scores all again" in capsys.readouterr().err
    assert [path.stat().st_mtime_ns for path in drawn[:2]] == before[:2]
    assert len(list((tmp_path / "maps").iterdir())) == 4


def test_one_target_of_two_references_has_two_maps(tmp_path):
    folder(tmp_path, 1, 1)
    save(tmp_path / "ref" / "other.png", picture(7, (32, 36)))
    target = tmp_path / "dis" / "R0_00.png"
    pairs = [(target, tmp_path / "ref" / name) for name in ("R0.png", "other.png")]
    assert score_pairs(Fidelity(), pairs, maps=tmp_path / "maps") == 0
    names = [path.name for path in (tmp_path / "maps").iterdir()]
    assert len(names) == 2 and all(re.fullmatch(r"R0_00-map-[0-9a-f]{8}\.png", name) for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recompute": True}, "--recompute without --csv"),
        ({"full_scale": True}, "--full-scale without --map or --page"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, options, message):
    folder(tmp_path, 1, 1)
    with pytest.raises(UserError, match=f"{message} has no effect"):
        command(tmp_path, **options)


def test_one_of_two_sizes_is_scaled_on_request(tmp_path):
    image = picture(0, (32, 48))
    reference, target = tmp_path / "r.png", tmp_path / "t.png"
    save(reference, image)
    save(target, image[::2, ::2])
    (result,) = in_order(Fidelity(), [(target, reference)])
    assert "differ" in result.error
    for resize in ("target", "reference"):
        (result,) = in_order(Fidelity(), [(target, reference)], resize=resize)
        assert result.score > 60
    save(tmp_path / "m.png", np.full((16, 24, 3), 255, np.uint8))
    pairs, masks = [(target, reference)], {target: tmp_path / "m.png"}
    (result,) = in_order(Fidelity(), pairs, resize="target", masks=masks)
    assert result.score > 60
    with pytest.raises(UserError, match="--resize both: expected target or reference"):
        score_pairs(Fidelity(), [(target, reference)], resize="both")


def test_masks_show_what_is_scored(tmp_path, capsys):
    image = picture(0, (40, 40))
    damaged = image.copy()
    damaged[:, 20:] = 0
    save(tmp_path / "ref" / "a.png", image)
    save(tmp_path / "dis" / "a_1.png", damaged)
    mask = np.zeros((40, 40, 3), np.uint8)
    mask[:, :20] = 255
    save(tmp_path / "masks" / "a.png", mask)
    pairs, masks = chosen_files(*([str(tmp_path / name)] for name in ("dis", "ref", "masks")))
    assert score_pairs(Fidelity(), pairs, masks=masks) == 0
    assert capsys.readouterr().out == "100.0000\n"
    assert score_pairs(Fidelity(), pairs) == 0
    assert float(capsys.readouterr().out) < 90


def test_results_as_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    folder(tmp_path, 1, 3)
    (tmp_path / "dis" / "R0_01.png").write_bytes(b"")
    path = tmp_path / "scores.parquet"
    stopped = Stopped()
    stopped.after = 1
    with pytest.raises(KeyboardInterrupt):
        command(tmp_path, stopped, table=path)
    assert not path.exists()
    assert command(tmp_path, table=path) == 1
    table = parquet.read_table(path).to_pylist()
    assert [row["score"] is None for row in table] == [False, True, False]
    assert table[0]["target"].endswith("R0_00.png") and "empty file" in table[1]["error"]
