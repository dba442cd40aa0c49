"""Class-uniform crops: which images and places they show, counted in NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kseg
import kseg.training
from kseg.data import open_dataset
from kseg.training import pipeline, prepare
from kseg.training.augment import Augmentation, visible_part, window_of
from kseg.training.class_uniform import class_sampler, find_pixel, rare_sampler

SIZE, CROP, BATCH = (40, 48), (9, 12), 4
# Where the crops are not scaled: a pixel of the image says its row, column and number.
PLAIN = dict(crop=CROP, batch_size=BATCH, scale=(1, 1), flip=False, jitter=0, start_step=0)
ROUNDS = 150
# A mean of independent draws is further off with one seed in two million.
SIGMAS = 5
GROUND, THING, RARE, ABSENT = range(4)


def labels():
    """Eight images; a rare class of 1, 1 and 6 pixels; one image is void."""
    result = np.zeros((8, *SIZE), np.uint8)
    result[1:5, 10:24, 8:30] = THING
    result[1, 20, 25] = RARE
    result[2, 1, 46] = RARE  # at a border, where no crop is centred on it
    result[6, 30:32, 30:33] = RARE
    result[7] = 255
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four classes, of which the split has three."""
    folder = tmp_path_factory.mktemp("classes")
    rows, columns = np.indices(SIZE)
    for i, label in enumerate(labels()):
        image = np.stack([rows, columns, np.full(SIZE, i)], -1).astype(np.uint8)
        for kind, pixels in (("images", image), ("labels", label)):
            (folder / kind / "train").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / "train" / f"{i}.png")
    (folder / "classes.txt").write_text("ground\nthing\nrare\nabsent\n")
    return folder


def examples(folder, share, count=BATCH * ROUNDS, records=None, **options):
    options = {**PLAIN, **options}
    source = None if records else folder
    stream = kseg.training.dataset(
        "folder", source, "train", class_uniform=share, records=records, **options
    )
    batches = [tuple(x.numpy() for x in batch) for batch in stream.take(count // BATCH)]
    return tuple(np.concatenate(part) for part in zip(*batches, strict=True))


def shares_of_rare(image, starts):
    """(n,) share of the rare class in crops of an image that start there."""
    windows = np.lib.stride_tricks.sliding_window_view(labels()[image] == RARE, CROP)
    return windows.mean((2, 3))[tuple(np.transpose(starts))]


def outcomes(uniform):
    """(n, 2): probability of each crop by the definition, and the rare class' share of it."""
    places = np.subtract(SIZE, CROP)
    if not uniform:
        starts = np.argwhere(np.ones(places + 1))
        shares = [shares_of_rare(i, starts) for i in range(8)]
        return np.stack([np.full(8 * len(starts), 1 / (8 * len(starts))), np.ravel(shares)], 1)
    rows = []
    for kind in (GROUND, THING, RARE):
        images = [i for i in range(8) if (labels()[i] == kind).any()]
        for i in images:
            pixels = np.argwhere(labels()[i] == kind)
            starts = (pixels - np.array(CROP) // 2).clip(0, places)
            chance = 1 / (3 * len(images) * len(pixels))
            rows += [(chance, share) for share in shares_of_rare(i, starts)]
    return np.array(rows)


@pytest.mark.parametrize(("share", "want"), [(0, 0.00074), (0.5, 0.00468), (1, 0.00862)])
def test_share_of_the_rare_class(share, want, folder):
    """Of the pixels of the crops: 0.07 %, 0.47 and 0.86 %, whatever the seed."""
    table = np.concatenate(
        [outcomes(uniform) * (part, 1) for uniform, part in ((False, 1 - share), (True, share))]
    )
    assert table[:, 0].sum() == pytest.approx(1)
    mean = (table[:, 0] * table[:, 1]).sum()
    assert mean == pytest.approx(want, abs=5e-6)
    sigma = np.sqrt((table[:, 0] * (table[:, 1] - mean) ** 2).sum() / (BATCH * ROUNDS))
    found = examples(folder, share)[1]
    assert (found == RARE).mean() == pytest.approx(mean, abs=SIGMAS * sigma)


def test_classes_images_and_pixels_are_uniform(folder):
    images, found = examples(folder, 1.0)
    numbers = images[:, 0, 0, 2].astype(int)
    assert 7 not in numbers
    has = np.array([[(label == kind).any() for label in labels()] for kind in range(3)])
    want = (has / has.sum(1, keepdims=True) / 3).sum(0)
    got = np.bincount(numbers, minlength=8) / len(numbers)
    np.testing.assert_allclose(
        got, want, atol=SIGMAS * np.sqrt(want.max() / len(numbers)), err_msg="images"
    )
    middle = tuple(np.array(CROP) // 2)
    at = images[:, middle[0], middle[1], :2].astype(int)
    single = (numbers == 1) & (found == RARE).any((1, 2))
    # Image 1 is drawn for the rare class in one of nine; few of its other crops show it.
    exact = (at[single] == (20, 25)).all(1)
    assert exact.mean() > 0.5
    assert exact.sum() == pytest.approx(len(numbers) / 9, abs=SIGMAS * np.sqrt(len(numbers) / 9))
    block = (numbers == 6) & (found[:, middle[0], middle[1]] == RARE)
    shown, counts = np.unique(at[block], axis=0, return_counts=True)
    assert shown.tolist() == [[r, c] for r in (30, 31) for c in (30, 31, 32)]
    np.testing.assert_allclose(counts, block.sum() / 6, atol=SIGMAS * np.sqrt(block.sum() / 6))


def test_a_part_of_the_examples(folder):
    """Evenly spread, the same in every epoch; the others are those of the plain stream."""
    plain, all_drawn = examples(folder, 0.0, 64), examples(folder, 1.0, 64)
    for share, drawn in ((0.25, [3, 7]), (0.3, [3, 6]), (0.5, [1, 3, 5, 7])):
        is_drawn = np.isin(np.arange(64) % 8, drawn)
        for got, a, b in zip(examples(folder, share, 64), plain, all_drawn, strict=True):
            np.testing.assert_array_equal(got[~is_drawn], a[~is_drawn])
            np.testing.assert_array_equal(got[is_drawn], b[is_drawn])


def test_the_stream_goes_on_and_records_and_workers_give_it(folder, tmp_path):
    options = dict(crop=(32, 40), scale=(0.5, 2), flip=True, jitter=0.2, seed=3)
    images, found = examples(folder, 0.5, 48, **options)
    rest = examples(folder, 0.5, 16, start_step=8, **options)
    np.testing.assert_array_equal(images[32:], rest[0])
    np.testing.assert_array_equal(found[32:], rest[1])

    data = open_dataset("folder", folder, "train")
    records = prepare(data, tmp_path, workers=1)
    np.testing.assert_array_equal(
        examples(None, 0.5, 48, records=records.folder, **options)[1], found
    )

    augmentation = Augmentation((32, 40), (0.5, 2), True, 0.2, (127.5,) * 3)
    samplers = pipeline.open_samplers(data.sample_pixels(), 4, 0.5, 0)
    parts = [
        pipeline.augmented(
            data,
            augmentation,
            batch_size=BATCH,
            seed=3,
            start_step=0,
            part=(rank, 2),
            samplers=samplers,
        ).take(24)
        for rank in (0, 1)
    ]
    halves = [np.stack([image.numpy() for image, _ in part]) for part in parts]
    joined = np.stack([half.reshape(12, 2, 32, 40, 3) for half in halves], 1)
    np.testing.assert_array_equal(joined.reshape(48, 32, 40, 3), images)


def test_names_of_a_step(folder):
    data = open_dataset("folder", folder, "train")
    samplers = pipeline.open_samplers(data.sample_pixels(), 4, 0.5, 0)
    numbers = examples(folder, 0.5, 16)[0][:, 0, 0, 2].astype(int).reshape(4, 4)
    for step, shown in enumerate(numbers):
        names = pipeline.names_at(data, step, batch_size=BATCH, seed=0, samplers=samplers)
        assert names == [str(i) for i in shown]


@pytest.mark.parametrize(("mix", "mixed"), [(0.5, [0, 2, 4, 6]), (1.0, range(8))])
def test_rare_classes_of_another_image_are_pasted(mix, mixed, folder):
    """Every pasted pixel says whence it is; the whole example is built of that in NumPy."""
    plain, plain_labels = examples(folder, 0.0)
    images, found = examples(folder, 0.0, class_mix=mix)
    is_mixed = np.isin(np.arange(len(images)) % 8, list(mixed))
    np.testing.assert_array_equal(images[~is_mixed], plain[~is_mixed])
    np.testing.assert_array_equal(found[~is_mixed], plain_labels[~is_mixed])

    data = open_dataset("folder", folder, "train")
    samplers = pipeline.open_samplers(data.sample_pixels(), 4, 0, mix)
    names = [
        pipeline.names_at(data, step, batch_size=BATCH, seed=0, samplers=samplers)
        for step in range(4)
    ]
    assert all(len(step) == BATCH * (1 + mix) for step in names)
    donors, middles = [], []
    for i in np.flatnonzero(is_mixed):
        (y, x), *_ = np.argwhere(found[i] == RARE)
        places = np.argwhere((images[i] != plain[i]).any(-1))
        if len(places):
            y, x = places[0]
        row, column, number = images[i, y, x].astype(int)
        top, left = row - y, column - x
        window = slice(top, top + CROP[0]), slice(left, left + CROP[1])
        label = labels()[number][window]
        donor = np.stack([*np.indices(SIZE)[(slice(None), *window)], np.full(CROP, number)], -1)
        rare = label == RARE
        want = np.where(rare[..., None], donor, plain[i])
        np.testing.assert_array_equal(images[i], want)
        np.testing.assert_array_equal(found[i], np.where(rare, RARE, plain_labels[i]))
        donors.append(number)
        middles.append((top + CROP[0] // 2, left + CROP[1] // 2))
    counts = [donors.count(number) for number in (1, 2, 6)]
    assert sum(counts) == len(donors)
    np.testing.assert_allclose(counts, len(donors) / 3, atol=SIGMAS * np.sqrt(len(donors) * 2 / 9))
    seen = {place for place, number in zip(middles, donors, strict=True) if number == 6}
    assert seen == {(r, c) for r in (30, 31) for c in (30, 31, 32)}
    shown = [str(i) for i in donors[: sum(map(len, names)) - 4 * BATCH]]
    assert [name for step in names for name in step[BATCH:]] == shown


def test_pasting_goes_on_and_follows_the_other_settings(folder, tmp_path):
    """Padding, mirror, colours and the order of class-uniform crops, from records too."""
    options = dict(crop=(32, 40), scale=(0.3, 2), flip=True, jitter=0.2, rotate=10.0)
    options |= dict(class_mix=0.4, pad_value=(1, 2, 3))
    images, found = examples(folder, 0.5, 32, **options)
    assert ((images == (1, 2, 3)).all(-1) & (found != 255)).sum() == 0
    rest = examples(folder, 0.5, 16, start_step=4, **options)
    np.testing.assert_array_equal(rest[0], images[16:])
    np.testing.assert_array_equal(rest[1], found[16:])
    records = prepare(open_dataset("folder", folder, "train"), tmp_path, workers=1)
    stored = examples(None, 0.5, 32, records=records.folder, **options)
    np.testing.assert_array_equal(stored[1], found)


def test_what_is_rare():
    """The half of the classes that occur with the fewest pixels, over all images."""
    counts = np.zeros((3, 256), int)
    counts[:, :6] = [[50, 9, 0, 0, 1, 7], [50, 0, 30, 0, 1, 0], [0, 0, 0, 0, 1, 3]]
    counts[:, 255] = 1
    sampler = rare_sampler(counts, 6, 0.5)
    # 100, 9, 30, none, 3 and 10 pixels
    assert sampler.classes.tolist() == [1, 4]
    assert sampler.images.tolist() == [0, 0, 1, 2]
    assert sampler.ends.tolist() == [1, 4]
    label = tf.constant([[0, 1, 4, 5, 255]])
    assert sampler.has(label).numpy().tolist() == [[False, True, True, False, False]]
    with pytest.raises(kseg.KsegError, match="the labels have too few"):
        rare_sampler(counts[:, [0] * 256], 1, 0.5)


def test_find_pixel():
    label = np.random.default_rng(0).choice([0, 1, 7, 255], (5, 9), p=[0.6, 0.2, 0.1, 0.1])
    label[2] = 0
    for kind in (0, 1, 7):
        pixels = np.argwhere(label == kind)
        for i, pixel in enumerate(pixels):
            for part in (0, 0.5, 1 - 1e-9):
                where = tf.constant((i + part) / len(pixels), tf.float64)
                got = find_pixel(tf.constant(label, tf.uint8), tf.constant(kind), where)
                assert got.numpy().tolist() == pixel.tolist()
    none = find_pixel(tf.constant(label, tf.uint8), tf.constant(3), tf.constant(0.9, tf.float64))
    assert none.numpy().tolist() == [-1, -1]


def source_window(extent, crop, factor, *place):
    return visible_part(extent, crop, window_of(extent, crop, factor, *place))


@pytest.mark.parametrize("extent", [5, 32, 101])
@pytest.mark.parametrize("factor", [0.37, 1.0, 2.0])
def test_the_window_around_a_pixel(factor, extent):
    """Of all windows the one whose middle is nearest; without a pixel the one of ``where``."""
    arguments = tf.constant(extent), 32, tf.constant(factor, tf.float32)
    length = round(32 / factor)
    free = range(min(extent - length, 0), max(extent - length, 0) + 1)
    for middle in {0, 1, extent // 2, extent - 1}:
        start = min(free, key=lambda first: abs(first + length // 2 - middle))
        got, padding = source_window(*arguments, tf.constant(0.3), tf.constant(middle))
        assert got.numpy().tolist() == [max(start, 0), min(start + length, extent)]
        if length <= extent:
            assert got[0] <= middle < got[1]
            assert padding.numpy().tolist() == [0, 0]
    for window in zip(
        source_window(*arguments, tf.constant(0.3), tf.constant(-1)),
        source_window(*arguments, tf.constant(0.3)),
        strict=True,
    ):
        np.testing.assert_array_equal(*window)


def test_a_sample_that_is_skipped_may_lack_the_class(tmp_path, folder):
    """The image that takes its place is cut anywhere."""
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
        for i in (5, 6):
            path = folder / kind / "train" / f"{i}.png"
            (tmp_path / kind / "train" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "classes.txt").write_text("ground\nthing\nrare\n")
    (tmp_path / "images/train/6.png").write_bytes(b"")
    data = open_dataset("folder", tmp_path, "train")
    skipped = {}
    options = {key: PLAIN[key] for key in ("crop", "scale", "flip", "jitter")}
    stream = pipeline.augmented(
        data,
        Augmentation(**options, pad_value=(0, 0, 0)),
        batch_size=2,
        seed=0,
        start_step=0,
        skipped=skipped,
        samplers=pipeline.open_samplers(data.sample_pixels(skip_bad=True), 3, 1.0, 0),
    )
    assert {int(image[0, 0, 2]) for image, _ in stream.take(16)} == {5}
    assert list(skipped) == ["6"]


def test_refusals(folder):
    for share in (-0.1, 1.5):
        with pytest.raises(kseg.KsegError, match=f"class_uniform is {share}; it must be 0 to 1"):
            examples(folder, share)
        with pytest.raises(kseg.KsegError, match=f"class_mix is {share}; it must be 0 to 1"):
            examples(folder, 0, class_mix=share)
        for name in ("class_uniform", "class_mix"):
            config = kseg.training.TrainingConfig("small", "folder", **{name: share})
            with pytest.raises(kseg.KsegError, match=f"{name} is {share}"):
                config.check()
    with pytest.raises(kseg.KsegError, match="the labels have too few"):
        class_sampler(np.eye(256, dtype=int)[[255]], 3, 0.5)
