"""What a metric is given: lists of any sizes, one reference of many, bytes, files; a free model."""

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from iqa_jax.errors import UserError
from iqa_jax.scoring.metric import BlindMetric, FullReferenceMetric
from tests import miniature
from tests.scoring.test_doors import CONFIG, SIZE, Bright

pytestmark = pytest.mark.quick


class Near(Bright):
    """Scores how near the brightness of distorted windows is to that of the reference; counts references."""

    config = CONFIG

    def __init__(self, full_reference=True):
        super().__init__(full_reference)
        self.seen = 0

    def features(self, windows, count):
        self.seen += count
        return super().features(windows / np.float32(255) if windows.dtype == np.uint8 else windows, count)

    def scores(self, reference, windows, count):
        bright = super().scores(None, windows, count)
        return bright if reference is None else 1 - np.abs(bright - reference[0][: len(windows)])


def metric(**options):
    return FullReferenceMetric(Near(), {"sha256": "0" * 64}, **options)


SIZES = [(40, 40), (70, 33), (32, 64), (100, 90)]
REFERENCES = [miniature.picture(k, size) for k, size in enumerate(SIZES)]
DISTORTED = [miniature.noisy(image, 60.0, k) // 2 for k, image in enumerate(REFERENCES)]


def alone(its=None):
    its = its or metric()
    return np.array([its(r, d) for r, d in zip(REFERENCES, DISTORTED, strict=True)])


def encoded(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer


def test_lists_of_any_sizes_have_their_scores_in_order(tmp_path):
    its = metric(batch_size=3)
    expected = alone()
    assert np.ptp(expected) > 0.01
    paths = [tmp_path / f"{k}.png" for k in range(len(SIZES))]
    for path, image in zip(paths, DISTORTED, strict=True):
        miniature.save(path, image)
    for references, distorted in (
        (REFERENCES, DISTORTED),
        (tuple(REFERENCES), paths),
        ([encoded(image) for image in REFERENCES], [encoded(image).getvalue() for image in DISTORTED]),
        (its.prepare(REFERENCES), list(map(Image.open, paths))),
    ):
        found = its(references, distorted)
        assert found.shape == (4,) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
        its.check(references, distorted)
    found = its(REFERENCES[2:3], DISTORTED[2:3])  # a list of one has one
    np.testing.assert_allclose(found, expected[2:3], atol=1e-6)
    blind = BlindMetric(Bright(False), {"sha256": "0" * 64})
    np.testing.assert_allclose(blind(DISTORTED), [blind(image) for image in DISTORTED], atol=1e-6)
    blind.check(DISTORTED)


def test_one_reference_serves_a_list_of_results():
    reference = REFERENCES[0]
    results = [miniature.noisy(reference, 20.0 * k, k) for k in range(5)]
    its = metric()
    expected = np.array([its(reference, result) for result in results])
    for given in (reference, encoded(reference), its.prepare(reference)):
        before = its.model.seen
        np.testing.assert_allclose(its(given, results), expected, atol=1e-6)
        windows = len(its._places(reference))
        assert its.model.seen - before in (0, windows)  # not once for each result
    batch = its.prepare(np.stack([reference] * 5))
    np.testing.assert_allclose(its(batch, results), expected, atol=1e-6)


def test_arrays_that_are_filled_anew_have_their_own_scores():
    """Decoders of video give one buffer again and again."""
    references = [miniature.picture(k, (40, 40)) for k in range(5)]
    results = [miniature.noisy(image, 30.0 * k, k) for k, image in enumerate(references)]
    its, blind = metric(), BlindMetric(Bright(False), {"sha256": "0" * 64})
    reference, distorted = np.zeros((2, 40, 40, 3), np.uint8)

    def filled():
        for original, result in zip(references, results, strict=True):
            reference[:], distorted[:] = original, result
            yield reference, distorted

    expected = [its(*pair) for pair in zip(references, results, strict=True)]
    assert np.ptp(expected) > 0.001
    np.testing.assert_allclose(list(its.stream(filled())), expected, atol=1e-6)
    alone = list(blind.stream((image,) for _, image in filled()))
    np.testing.assert_allclose(alone, [blind(image) for image in results], atol=1e-6)
    prepared = its.prepare(reference)
    reference[:] = 0
    np.testing.assert_allclose(its(prepared, results[-1]), expected[-1], atol=1e-6)


def test_threads_share_a_prepared_reference(monkeypatch):
    monkeypatch.setattr("iqa_jax.scoring.metric.KEPT_WINDOWS", 4)  # of large images, features do not stay
    reference = miniature.picture(0, (200, 200))
    results = [miniature.noisy(reference, 5.0 * k, k) for k in range(12)]
    its = metric(batch_size=3)
    quick = its.model.features
    monkeypatch.setattr(its.model, "features", lambda *given: (time.sleep(0.002), quick(*given))[1])
    prepared = its.prepare(reference)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda result: its(prepared, result), results))
    np.testing.assert_allclose(found, [its(reference, result) for result in results], atol=1e-6)


def test_the_same_open_file_may_stand_for_all():
    file = encoded(REFERENCES[0])
    assert metric()([file, file], [file, REFERENCES[0]]).tolist() == [1, 1]
    assert float(metric()(file, file)) == 1


def test_masks_of_a_list():
    its = metric()
    masks = [np.zeros(size, bool) for size in SIZES]
    for mask in masks:
        mask[:SIZE, :SIZE] = True
    expected = [its(r, d, mask=m) for r, d, m in zip(REFERENCES, DISTORTED, masks, strict=True)]
    np.testing.assert_allclose(its(REFERENCES, DISTORTED, mask=masks), expected, atol=1e-6)
    some = its(REFERENCES, DISTORTED, mask=[None, *masks[1:]])
    np.testing.assert_allclose(some, [alone()[0], *expected[1:]], atol=1e-6)
    one = its(REFERENCES[0], [DISTORTED[0]] * 2, mask=masks[0])
    np.testing.assert_allclose(one, [expected[0]] * 2, atol=1e-6)
    rows = list(zip(REFERENCES, DISTORTED, [None, *masks[1:]], strict=True))
    np.testing.assert_allclose(list(its.stream(rows)), some, atol=1e-6)


def test_prepared_references_of_a_list_belong_to_their_metric():
    its = metric()
    prepared = its.prepare(REFERENCES)
    assert prepared.shape is None and len(prepared.references) == 4
    with pytest.raises(UserError, match="a reference that another metric prepared"):
        metric()(prepared, DISTORTED)
    with pytest.raises(UserError, match="expected a list of 4 images, the prepared reference's"):
        its(prepared, DISTORTED[0])
    with pytest.raises(UserError, match="reference: a list of 4, and distorted one of 2"):
        its(prepared, DISTORTED[:2])


def test_a_map_and_a_check_of_bytes():
    reference, distorted = encoded(REFERENCES[0]), encoded(DISTORTED[0]).getvalue()
    found = metric().map(reference, distorted)
    np.testing.assert_array_equal(found.values, metric().map(REFERENCES[0], DISTORTED[0]).values)
    metric().check(reference, distorted)
    metric().check(metric_of := encoded(REFERENCES[0]), metric_of)


@pytest.mark.parametrize(
    ("reference", "distorted", "message"),
    [
        (REFERENCES, DISTORTED[:3], "reference: a list of 4, and distorted one of 3; expected as many"),
        (REFERENCES[0], [], "distorted: an empty list"),
        (
            REFERENCES[0],
            DISTORTED,
            r"reference \(40, 40, 3\) and distorted\[1\] \(70, 33, 3\) differ in shape",
        ),
        (REFERENCES[:1], [np.zeros((40, 40, 5))], r"distorted\[0\]: shape \(40, 40, 5\)"),
        (REFERENCES[:1], [b"no image"], r"distorted\[0\]: bytes: not an image"),
        ([b"", b""], DISTORTED[:2], r"reference\[0\]: bytes: empty file"),
        (REFERENCES[:1], [DISTORTED[0][None]], r"distorted\[0\] .*expected one image"),
        (REFERENCES[:1], DISTORTED[0], "reference: a list; expected a NumPy or JAX array"),
        (REFERENCES[:1], [DISTORTED[0].tolist()], r"distorted\[0\]: a list; expected a NumPy"),
        (REFERENCES[:1], [None], r"distorted\[0\]: a NoneType"),
    ],
)
def test_what_is_wrong_with_a_list_is_numbered(reference, distorted, message):
    for call in (metric(), metric().check):
        with pytest.raises(UserError, match=message):
            call(reference, distorted)


def test_a_mask_of_another_size_is_numbered():
    with pytest.raises(UserError, match=r"mask\[1\]: shape \(3, 3\)"):
        metric()(REFERENCES[:2], DISTORTED[:2], mask=[None, np.ones((3, 3))])
    with pytest.raises(UserError, match=r"mask: shape \(40, 40\)"):
        metric()(REFERENCES[:2], DISTORTED[:2], mask=np.ones((40, 40)))
    with pytest.raises(UserError, match="mask: a list of 1, and distorted one of 2"):
        BlindMetric(Bright(False), {"sha256": "0" * 64})(DISTORTED[:2], mask=[None])
