"""The input pipeline: geometry, order and what stays the same."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kseg
import kseg.training
from kseg.training import augment, pipeline
from kseg.training.augment import Augmentation
from support import write_camvid

CROP = (32, 40)


def batches(folder, count, **options):
    options = {"crop": CROP, "batch_size": 2, "start_step": 0, **options}
    stream = kseg.training.dataset("camvid", folder, "train", **options)
    return [tuple(t.numpy() for t in batch) for batch in stream.take(count)]


def test_shapes_and_ranges(tiny_camvid):
    for image, label in batches(tiny_camvid, 3):
        assert image.shape == (2, *CROP, 3)
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 255
        assert label.shape == (2, *CROP)
        assert label.dtype == np.uint8
        assert set(np.unique(label)) <= {0, 3, 255}
    # XLA compiles for shapes that are known before.
    stream = kseg.training.dataset("camvid", tiny_camvid, "train", crop=CROP, batch_size=2)
    assert [spec.shape.as_list() for spec in stream.element_spec] == [[2, *CROP, 3], [2, *CROP]]


def test_a_stream_from_step_k_continues_the_undisturbed_one(tiny_camvid):
    whole = batches(tiny_camvid, 7)
    rest = batches(tiny_camvid, 3, start_step=4)
    for (a, b), (c, d) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


@pytest.mark.parametrize(
    ("options", "digest"),
    [
        ({}, "c7a2cbe30868149b"),
        (dict(scale=(0.4, 0.7), seed=3, start_step=5), "04901638d41adccb"),
        (dict(crop=(48, 64), scale=(1, 1), jitter=0, batch_size=4), "2973f9d13bb9d168"),
    ],
)
def test_the_stream_is_what_it_was(options, digest, tmp_path):
    """Labels that an earlier kseg gave: runs that it began go on."""
    write_camvid(tmp_path, {"train": 6})
    labels = b"".join(label.tobytes() for _, label in batches(tmp_path, 10, **options))
    assert hashlib.sha256(labels).hexdigest()[:16] == digest


def test_the_seed_decides(tiny_camvid):
    first, second = (batches(tiny_camvid, 1, seed=s)[0][0] for s in (0, 1))
    assert not np.array_equal(first, second)


def plain(**options):
    """No augmentation but order: whole images, scale 1."""
    return dict(crop=(48, 64), scale=(1, 1), flip=False, jitter=0, **options)


def test_every_pass_shows_every_image_once_in_a_new_order(tiny_camvid):
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    originals = [data.labelled(s)[0] for s in data.samples]
    orders = []
    for images in np.array_split(
        np.concatenate([image for image, _ in batches(tiny_camvid, 9, **plain())]), 3
    ):
        orders.append([match(image, originals) for image in images])
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def match(image, originals) -> int:
    (index,) = [i for i, o in enumerate(originals) if np.array_equal(o, image)]
    return index


def test_iterating_again_is_a_new_pass(tiny_camvid):
    stream = kseg.training.dataset("camvid", tiny_camvid, "train", crop=CROP, batch_size=2)
    assert int(stream.cardinality()) == 3
    passes = [np.concatenate([x.numpy() for x, _ in stream]) for _ in range(2)]
    assert passes[0].shape == (6, *CROP, 3)
    assert not np.array_equal(*passes)


def test_image_and_label_stay_together(tiny_camvid):
    """Sky is above 200, road below 100, at every scale and flip."""
    image, label = map(np.concatenate, zip(*batches(tiny_camvid, 9, jitter=0), strict=True))
    assert image[erode(label == 0)].min() >= 200
    assert image[erode(label == 3)].max() <= 100


def erode(mask: np.ndarray) -> np.ndarray:
    """Without the pixels that interpolation mixes with another class."""
    kept = mask.copy()
    for axis in (1, 2):
        for shift in (-2, -1, 1, 2):
            kept &= np.roll(mask, shift, axis)
    kept[:, :2] = kept[:, -2:] = False
    kept[:, :, :2] = kept[:, :, -2:] = False
    return kept


def test_padding(tiny_camvid):
    """At scale 0.5 the image of 48 x 64 is 24 x 32 inside a crop of 32 x 40."""
    options = dict(scale=(0.5, 0.5), jitter=0.5, pad_value=(1, 2, 3), flip=True)
    for image, label in batches(tiny_camvid, 3, **options):
        padding = (image == (1, 2, 3)).all(-1)
        assert (padding.sum((1, 2)) == 32 * 40 - 24 * 32).all()
        assert (label[padding] == 255).all()


def source_window(extent, crop, factor, where):
    window = augment.window_of(extent, crop, factor, where)
    return augment.visible_part(extent, crop, window)


def test_window_covers_the_source_evenly():
    """Every start is as likely: 4 windows of 7 in 10 pixels, each a quarter of the range."""
    starts = [
        int(source_window(tf.constant(10), 7, tf.constant(1.0), tf.constant(u))[0][0])
        for u in (0.0, 0.24, 0.26, 0.49, 0.51, 0.74, 0.76, 0.99)
    ]
    assert starts == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("factor", [0.37, 0.5, 0.99, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("extent", [5, 48, 101])
def test_window_is_whole(extent, factor):
    for where in np.linspace(0, 0.999, 7):
        source, padding = source_window(
            tf.constant(extent), 32, tf.constant(factor, tf.float32), tf.constant(where, tf.float32)
        )
        first, last = source.numpy()
        assert 0 <= first < last <= extent
        assert padding.numpy().min() >= 0
        shown = 32 - padding.numpy().sum()
        assert shown >= 1
        # the scale that the crop shows is the one asked for, to a pixel's rounding
        assert shown == pytest.approx((last - first) * factor, abs=1 + factor)


def test_jitter_is_what_it_says():
    image = tf.constant([[[100.0, 150.0, 50.0]]])
    grey = 0.299 * 100 + 0.587 * 150 + 0.114 * 50
    same = augment.jitter_colours(image, tf.constant([1.0, 1.0, 1.0]))
    np.testing.assert_allclose(same, image, rtol=1e-5)
    np.testing.assert_allclose(
        augment.jitter_colours(image, tf.constant([1.0, 1.0, 0.0])), [[[grey] * 3]], rtol=1e-5
    )
    np.testing.assert_allclose(
        augment.jitter_colours(image, tf.constant([1.2, 1.0, 1.0])), image * 1.2, rtol=1e-5
    )
    contrast = (np.asarray(image) - 127.5) * 0.5 + 127.5
    np.testing.assert_allclose(
        augment.jitter_colours(image, tf.constant([1.0, 0.5, 1.0])), contrast, rtol=1e-5
    )


def test_whole_images(tiny_camvid):
    stream = kseg.training.dataset("camvid", tiny_camvid, "val", batch_size=2)
    ((image, label),) = list(stream)
    data = kseg.data.open_dataset("camvid", tiny_camvid, "val")
    for i, sample in enumerate(data.samples):
        want = data.labelled(sample)
        np.testing.assert_array_equal(image[i], want[0])
        np.testing.assert_array_equal(label[i], want[1])
    train = kseg.training.dataset("camvid", tiny_camvid, "train", batch_size=4)
    assert [len(image) for image, _ in train] == [4, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(crop=None, augment=True), "crop is None"),
        (dict(crop=(0, 8)), "crop is"),
        (dict(crop=8), "crop is 8; training needs a height and a width"),
        (dict(crop=CROP, scale=0.5), r"scale is 0\.5; it must be two positive numbers in order"),
        (dict(crop=CROP, flip="no"), "flip is 'no'; it must be bool"),
        (dict(crop=CROP, scale=(2, 1)), "scale is"),
        (dict(crop=CROP, scale=(0, 1)), "scale is"),
        (dict(crop=CROP, jitter=1), "jitter is 1"),
        (dict(crop=CROP, batch_size=9), "has 6 images, fewer than the batch size 9"),
        (dict(crop=CROP, batch_size=0), "batch size is 0"),
        (dict(batch_size=0), "batch size is 0"),
        (dict(crop=CROP, start_step=-1), "start step is -1; steps count from 0"),
    ],
)
def test_refusals(options, message, tiny_camvid):
    with pytest.raises(kseg.KsegError, match=message):
        kseg.training.dataset("camvid", tiny_camvid, "train", **options)


def test_bad_files_are_named(tmp_path):
    write_camvid(tmp_path, {"train": 2})
    Image.new("L", (64, 48), 77).save(tmp_path / "trainannot/001.png")
    with pytest.raises(tf.errors.OpError, match=r"001\.png: has ids \[77\]"):
        batches(tmp_path, 1)


def test_a_sample_that_cannot_be_read_is_replaced_by_the_next(tmp_path, capsys):
    """After the last one comes the first."""
    write_camvid(tmp_path, {"train": 4})
    for name in ("001", "003"):
        (tmp_path / f"train/{name}.png").write_bytes(b"")
    data = kseg.data.open_dataset("camvid", tmp_path, "train")
    originals = [data.labelled(data.samples[i])[0] for i in (0, 2)]
    skipped: dict[str, str] = {}
    augmentation = Augmentation(pad_value=(0, 0, 0), **plain())
    stream = pipeline.augmented(
        data, augmentation, batch_size=4, seed=0, start_step=0, skipped=skipped
    )
    shown = [match(image.numpy(), originals) for image, _ in stream.take(8)]
    assert [shown[:4].count(i) for i in (0, 1)] == [shown[4:].count(i) for i in (0, 1)] == [2, 2]
    assert sorted(skipped) == ["001", "003"]
    assert all(f"{name}.png: not a readable image" in skipped[name] for name in skipped)
    assert capsys.readouterr().err.count("kseg: left out") == 2


@pytest.mark.parametrize("batch_size", [2, 4])
def test_names_of_a_step(batch_size, tiny_camvid):
    """The images that a step shows, in the second epoch too; an epoch has whole batches alone."""
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    originals = [data.labelled(s)[0] for s in data.samples]
    for step, (images, _) in enumerate(batches(tiny_camvid, 5, batch_size=batch_size, **plain())):
        shown = [data.samples[match(image, originals)].name for image in images]
        assert pipeline.names_at(data, step, batch_size=batch_size, seed=0) == shown
        assert len(set(shown)) == batch_size


def test_workers_share_every_batch(tiny_camvid):
    """Two parts of one, side by side, are the batches of one reader."""
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    augmentation = augment.Augmentation(
        CROP, scale=(0.5, 2.0), flip=True, jitter=0.2, pad_value=(0, 0, 0)
    )

    def images(part):
        stream = pipeline.augmented(
            data, augmentation, batch_size=4, seed=3, start_step=1, part=part
        )
        return np.stack([image.numpy() for image, _ in stream.take(8 // part[1])])

    first, second = images((0, 2)), images((1, 2))
    joined = np.concatenate([first[:2], second[:2], first[2:], second[2:]])
    np.testing.assert_array_equal(images((0, 1)), joined)


def test_workers_share_whole_images(tiny_camvid):
    data = kseg.data.open_dataset("camvid", tiny_camvid, "train")
    counts = [len(list(pipeline.whole_images(data, (rank, 4)))) for rank in range(4)]
    assert counts == [2, 2, 1, 1]
