"""Scales, mirror, windows and output strides, against the same by hand."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import kseg
from kseg.card import Card, Normalization
from kseg.data import open_dataset
from kseg.evaluation import InferenceSettings, evaluate
from kseg.predictor import KerasPredictor, predict_labels
from kseg.zoo import at_output_stride, backbone_stride

CARD = Card(
    name="shades",
    options={},
    num_classes=3,
    dataset=None,
    class_names=None,
    colors=None,
    void_channels=(),
    preprocessing=True,
    normalization=Normalization((90.0, 90.0, 90.0), (1.0, 1.0, 1.0)),
    resize="align_corners",
)


class Shades:
    """Logits that are the image over 50, or any function of (image, its red)."""

    runtime = "test"

    def __init__(self, function=None, input_size=None, **card):
        self.card, self.input_size = CARD.replace(**card), input_size
        self.function = function or (lambda image: image / 50)
        self.sizes = []

    def __call__(self, image):
        self.sizes.append(image.shape[:2])
        return np.asarray(self.function(np.asarray(image)), np.float32)


def picture(height=9, width=13):
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


def softmax(x):
    e = np.exp(np.float64(x) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def across(image):
    """Logits that differ from left to right: not the mirror of the mirror's."""
    ramp = np.linspace(0, 6, image.shape[1])[:, None] * [1, -1, 0.5]
    return image / 40 + ramp


def test_flip_is_the_mean_of_the_softmax():
    image = picture(30, 40)
    mirror = across(image[:, ::-1] * 1.0)[:, ::-1]
    want = (softmax(across(image * 1.0)) + softmax(mirror)).argmax(-1)
    np.testing.assert_array_equal(predict_labels(Shades(across), image, flip=True), want)
    assert (want != predict_labels(Shades(across), image)).any()
    # The mean of the logits is something else.
    assert (want != (across(image * 1.0) + mirror).argmax(-1)).any()


def test_scales_as_deeplab_makes_them(tiny_resize):
    """Sizes (n - 1) s + 1 with align_corners; the resizing against TensorFlow's own."""
    image = picture()
    network = Shades()
    labels = predict_labels(network, image, scales=(0.5, 1, 1.75))
    assert network.sizes == [(5, 7), (9, 13), (15, 22)]
    total = 0
    for size in network.sizes:
        total = total + softmax(tiny_resize(tiny_resize(image, size) / 50, (9, 13)))
    np.testing.assert_array_equal(labels, total.argmax(-1))


@pytest.fixture
def tiny_resize():
    """TensorFlow's bilinear resizing, with align_corners as DeepLab's code calls it."""
    import tensorflow as tf

    def resize(array, size, **convention):
        convention = convention or {"align_corners": True}
        array = np.asarray(array, np.float32)[None]
        return tf.compat.v1.image.resize_bilinear(array, size, **convention)[0].numpy()

    return resize


HALF_PIXEL = {"half_pixel_centers": True}


def test_sizes_of_scales_are_cut_off():
    """As ``int`` in DeepLab's ``scale_dimension``, and not below one pixel."""
    for resize, sizes in (
        ("align_corners", [(7, 10), (1, 1), (1, 1)]),  # 9 and 13 x 0.75 + 1 are 7.75 and 10.75
        ("half_pixel", [(7, 10), (1, 1), (1, 1)]),  # 7.5 and 10.5
    ):
        network = Shades(resize=resize)
        predict_labels(network, picture(10, 14), scales=(0.75, 0.07, 0.01))
        assert network.sizes == sizes


def test_every_resizing_has_its_convention(tiny_resize):
    """Image and labels half-pixel, and between them as the network resizes."""
    image, inner, outer, size = picture(), (10, 12), (13, 17), (21, 30)
    logits = np.random.default_rng(2).normal(size=(4, 5, 3)).astype(np.float32)
    seen = []
    network = Shades(lambda pixels: seen.append(pixels) or logits, output="stride-logits")

    def crf(pixels, logits):
        seen.append((pixels, logits))
        return logits

    way = dict(size=size, input_size=inner, pad_to=outer)
    labels = predict_labels(network, image, crf=crf, **way)
    pixels, (guide, refined) = seen
    # TensorFlow's places are float32: 1e-6 of a pixel, of differences up to 255
    np.testing.assert_allclose(pixels[:10, :12], tiny_resize(image, inner, **HALF_PIXEL), atol=1e-3)
    np.testing.assert_allclose(guide, tiny_resize(image, size, **HALF_PIXEL), atol=1e-3)
    want = tiny_resize(tiny_resize(logits, outer)[:10, :12], size, **HALF_PIXEL)
    np.testing.assert_allclose(refined, want, atol=1e-5)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, want.argmax(-1))


def test_a_padded_input_may_be_the_files_size():
    """The image is padded to it, not resized."""
    seen = []
    network = Shades(lambda image: seen.append(image) or image, input_size=(9, 16))
    image = picture()
    labels = predict_labels(network, image, pad_to=(9, 16))
    np.testing.assert_array_equal(labels, image.argmax(-1))
    np.testing.assert_array_equal(seen[0][:, :13], image)
    np.testing.assert_array_equal(seen[0][:, 13:], np.full((9, 3, 3), 90))


def test_padding_of_classes_is_cropped():
    image = picture()
    network = Shades(lambda pixels: pixels.argmax(-1), output="argmax")
    labels = predict_labels(network, image, pad_to=(12, 16))
    assert network.sizes == [(12, 16)]
    np.testing.assert_array_equal(labels, image.argmax(-1))


def test_padding_is_in_rgb():
    """A network that takes BGR has its mean in BGR."""
    seen = []
    normalization = Normalization((10.0, 20.0, 30.0), (1.0, 1.0, 1.0), "BGR")
    network = Shades(lambda image: seen.append(image) or image, normalization=normalization)
    predict_labels(network, picture(), pad_to=(10, 13))
    np.testing.assert_array_equal(seen[0][9], np.full((13, 3), (30, 20, 10)))


def test_windows_of_stride_logits(tiny_resize):
    """Every window's logits become the window's size before the mean."""
    image, seen = picture(5, 8), []
    want, counts = np.zeros((5, 8, 3)), np.zeros((1, 8, 1))
    for left in (0, 3):
        view = across(image[:, left : left + 5] * 1.0)
        want[:, left : left + 5] += softmax(tiny_resize(view[::2, ::2], (5, 5)))
        counts[:, left : left + 5] += 1
    network = Shades(lambda pixels: across(pixels)[::2, ::2], output="stride-logits")
    way = dict(window=(5, 5), overlap=0.4, crf=lambda _, logits: seen.append(logits) or logits)
    labels = predict_labels(network, image, **way)
    np.testing.assert_array_equal(labels, want.argmax(-1))
    # float32 probabilities
    np.testing.assert_allclose(np.exp(seen[0]), want / counts, atol=1e-6)


def test_scales_of_padded_inputs():
    network = Shades(resize="half_pixel")
    labels = predict_labels(network, picture(), pad_to=(12, 16), scales=(0.5, 1.25), flip=True)
    assert network.sizes == [(6, 8)] * 2 + [(15, 20)] * 2
    assert labels.shape == (9, 13)


@pytest.mark.parametrize("overlap", [0, None, 0.5, 0.9])
def test_windows_of_a_local_network_are_the_whole(overlap):
    """A network that looks at one pixel does not see where its windows end."""
    image = picture()
    network = Shades()
    # A third where nothing is said.
    way = {} if overlap is None else {"overlap": overlap}
    labels = predict_labels(network, image, window=(4, 5), **way)
    np.testing.assert_array_equal(labels, predict_labels(Shades(), image))
    assert set(network.sizes) == {(4, 5)}
    rows, columns = {0: (3, 3), None: (3, 4), 0.5: (4, 5), 0.9: (6, 9)}[overlap]
    assert len(network.sizes) == rows * columns


def test_windows_that_overlap_are_the_mean_of_the_softmax():
    image = picture(4, 6)
    want = np.zeros((4, 6, 3))
    for left in (0, 2):
        want[:, left : left + 4] += softmax(across(image[:, left : left + 4] * 1.0))
    labels = predict_labels(Shades(across), image, window=(4, 4), overlap=0.5)
    np.testing.assert_array_equal(labels, want.argmax(-1))


def test_a_frame_below_the_window_is_padded_with_the_mean():
    seen = []
    network = Shades(lambda image: seen.append(image) or image, input_size=(6, 16))
    image = picture(5, 13)
    labels = predict_labels(network, image, window=(6, 16))
    np.testing.assert_array_equal(labels, image.argmax(-1))
    np.testing.assert_array_equal(seen[0][5:], np.full((1, 16, 3), 90))
    np.testing.assert_array_equal(seen[0][:5, :13], image)


def test_void_channels_take_part():
    """The first channel wins where it is brightest, in every way to score, and is no class."""
    image = picture()
    image[:4], image[4] = (250, 0, 0), (0, 0, 250)
    for way in ({}, {"flip": True}, {"scales": (1, 2)}, {"window": (4, 5)}):
        labels = predict_labels(Shades(void_channels=(0,)), image, **way)
        assert (labels[:3] == 255).all()
        assert (labels[4] == 1).all() or way.get("scales")
    classes = Shades(lambda image: image.argmax(-1), output="argmax", void_channels=(0,))
    want = np.array([255, 0, 1])[image.argmax(-1)]
    np.testing.assert_array_equal(predict_labels(classes, image), want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x / 255, "the image reaches from 0 to 1; it must be RGB 0..255"),
        (lambda x: x - 128.0, "reaches from -128 to 127"),
        (lambda x: x.astype(np.int32) * 257, "reaches from 0 to 6.554e[+]04"),
        (lambda x: x[..., 0], r"is \(9, 13\); .* repeat the grey channel three times"),
        (lambda x: np.dstack([x, x[..., 0]]), r"is \(9, 13, 4\); .* leave the alpha channel out"),
        (lambda x: x[None], r"is \(1, 9, 13, 3\); .* give the images of a batch one by one"),
    ],
)
def test_what_is_no_image(change, message):
    image = picture()
    image[0, 0], image[0, 1] = 0, 255
    with pytest.raises(kseg.KsegError, match=message):
        predict_labels(Shades(), change(image))
    want = predict_labels(Shades(), image)
    for same in (image.astype(np.float32), Image.fromarray(image), tf.constant(image)):
        np.testing.assert_array_equal(predict_labels(Shades(), same), want)


def test_crf_on_top_of_the_mean():
    image = picture()
    seen = []

    def crf(pixels, logits):
        seen.append(logits)
        return -logits

    labels = predict_labels(Shades(across), image, flip=True, crf=crf)
    mirror = across(image[:, ::-1] * 1.0)[:, ::-1]
    mean = (softmax(across(image * 1.0)) + softmax(mirror)) / 2
    # float32 probabilities
    np.testing.assert_allclose(np.exp(seen[0]), mean, atol=1e-6)
    np.testing.assert_array_equal(labels, mean.argmin(-1))


def test_vanished_probabilities_stay_finite():
    seen = []
    far = Shades(lambda image: image * [1, 0, 0] * 1e4)
    predict_labels(far, picture(), flip=True, crf=lambda _, x: seen.append(x) or x)
    assert np.isfinite(seen[0]).all()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ({"scales": ()}, "at least one"),
        ({"scales": (1, 0)}, "all above 0"),
        ({"window": (0, 4)}, r"window is \(0, 4\); it must be \(H, W\), both at"),
        ({"input_size": (4, 0)}, r"input_size is \(4, 0\); it must be \(H, W\)"),
        ({"pad_to": (-1, 4)}, r"pad_to is \(-1, 4\); it must be \(H, W\)"),
        ({"input_size": 64}, r"input_size is 64; it must be \(H, W\)"),
        ({"window": (4.5, 4)}, "window is 4.5; it must be a whole number"),
        ({"scales": 1.5}, r"scales is 1.5; .* \(1.5,\) for one"),
        ({"window": (4, 4), "overlap": 1}, "overlap is 1"),
        ({"window": (4, 4), "overlap": "0.5"}, "overlap has '0.5'; it must be finite"),
        ({"scales": ("1",)}, "scales has '1'; it must be finite numbers"),
        ({"flip": "no"}, "flip is 'no'; it must be bool"),
    ],
)
def test_settings_out_of_range(way, message, tiny_camvid):
    with pytest.raises(kseg.KsegError, match=message):
        predict_labels(Shades(), picture(), **way)
    # No image is to blame.
    data = open_dataset("camvid", tiny_camvid, "val")
    with pytest.raises(kseg.KsegError, match=message) as error:
        evaluate(Shades(), data, **way)
    assert "png" not in str(error.value)


def test_settings_are_the_keywords():
    image = picture(30, 40)
    keywords = dict(input_size=(24, 36), scales=(0.5, 1), flip=True, window=(16, 16), overlap=0.5)
    settings = InferenceSettings(**keywords)
    want = predict_labels(Shades(across), image, **keywords)
    np.testing.assert_array_equal(predict_labels(Shades(across), image, settings), want)
    assert (want != predict_labels(Shades(across), image)).any()
    # JSON has lists for tuples.
    assert InferenceSettings(**{**keywords, "scales": [0.5, 1], "window": [16, 16]}) == settings
    with pytest.raises(kseg.KsegError, match="settings and flip, overlap are both given"):
        predict_labels(Shades(), image, settings, flip=True, overlap=0)
    with pytest.raises(TypeError, match="'mirror'"):
        predict_labels(Shades(), image, mirror=True)


def test_a_file_of_one_size_takes_its_windows_alone():
    network = Shades(input_size=(4, 5))
    assert predict_labels(network, picture(), window=(4, 5)).shape == (9, 13)
    with pytest.raises(kseg.KsegError, match=r"takes \(4, 5\) .* only, not \(2, 3\)"):
        predict_labels(network, picture(), scales=(0.5, 1))
    with pytest.raises(kseg.KsegError, match=r"takes \(4, 5\) .* only, not \(4, 4\)"):
        predict_labels(network, picture(), window=(4, 4))
    with pytest.raises(kseg.KsegError, match=r"takes \(4, 5\) .* only, not \(5, 4\)"):
        predict_labels(network, picture(), input_size=(5, 4))


@pytest.mark.parametrize("size", [(8, 16), (12, 12)])
def test_padding_does_not_cut(size):
    with pytest.raises(kseg.KsegError, match=r"pad_to .* is smaller than the image \(9, 13\)"):
        predict_labels(Shades(), picture(), pad_to=size)


def test_the_models_own_size():
    model = kseg.create_model("cgnet_m3n21", num_classes=3, m=2, n=2, input_shape=(48, 64, 3))
    assert KerasPredictor(model).input_size == (48, 64)


@pytest.mark.parametrize(
    "way", [{"flip": True}, {"scales": (2,)}, {"window": (4, 4)}, {"crf": lambda *_: None}]
)
def test_a_file_of_classes_is_refused(way):
    network = Shades(lambda image: image[..., 0], output="argmax")
    with pytest.raises(kseg.KsegError, match="gives classes; scales, flip, window"):
        predict_labels(network, picture(), **way)


@pytest.mark.parametrize(
    ("output", "shape"),
    [
        ("logits", (9, 12, 3)),
        ("logits", (9, 13, 4)),
        ("logits", (9, 13)),
        ("stride-logits", (2, 2, 4)),
        ("argmax", (9, 12)),
        ("argmax", (9, 13, 3)),
    ],
)
def test_outputs_of_another_size(output, shape):
    network = Shades(lambda image: np.zeros(shape), output=output)
    with pytest.raises(kseg.KsegError, match=r"the output is .* as the card says"):
        predict_labels(network, picture())


def test_dilations_follow_the_output_stride():
    card = CARD.replace(name="deeplab_v3_plus_mobilenet_v2", options={"atrous_rates": (2, 4)})
    assert at_output_stride(card, 8).options == {"atrous_rates": (4, 8), "output_stride": 8}
    free = card.replace(options={"output_stride": 16})
    assert backbone_stride(at_output_stride(free, 8)) == 8
    # DeepLabv3+ trains at 16 where nothing is said (Section 4).
    assert backbone_stride(card.replace(name="deeplab_v3_plus_xception65", options={})) == 16
    assert backbone_stride(card.replace(name="cgnet_m3n21", options={})) is None
    assert at_output_stride(free, 8).options == {"output_stride": 8}
    with pytest.raises(kseg.KsegError, match="cgnet_m3n21 has no option 'output_stride'"):
        at_output_stride(card.replace(name="cgnet_m3n21"), 8)


def test_output_stride_of_a_trained_model():
    """The weights at stride 8 are those of a model that was built at 8."""
    options = dict(num_classes=3, depth_multiplier=0.25, aspp_filters=8, decoder_filters=8)
    name = "deeplab_v3_plus_mobilenet_v2"
    trained = kseg.create_model(name, **options)
    dense = kseg.create_model(name, output_stride=8, **options)
    rng = np.random.default_rng(0)
    for variable in trained.trainable_variables:
        if len(shape := variable.shape) == 4:
            # depthwise kernels end with 1; He's deviation keeps the signal up
            fan_in = np.prod(shape[:2] if shape[-1] == 1 else shape[:3])
            variable.assign(rng.normal(0, np.sqrt(2 / fan_in), shape))
    dense.set_weights(trained.get_weights())
    image = picture(65, 81)
    predictor = KerasPredictor(trained, output_stride=8)
    assert predictor.card.options["output_stride"] == 8
    want = KerasPredictor(dense)(image)
    # float32 noise
    scale = np.abs(want).max()
    np.testing.assert_allclose(predictor(image), want, atol=1e-5 * scale)
    assert np.abs(want - KerasPredictor(trained)(image)).max() > 1e-2 * scale
    with pytest.raises(kseg.KsegError, match="output_stride is 12"):
        KerasPredictor(trained, output_stride=12)


def test_prediction_is_not_compiled_by_xla(small_row, monkeypatch):
    """On one GPU Keras does so by itself, for each size anew; here the model was told to."""
    compiled = []
    real = tf.function

    def function(step=None, **options):
        compiled.append((getattr(step, "__name__", ""), options.get("jit_compile")))
        return real(step, **options)

    model = kseg.create_model("small", num_classes=3)
    model.compile(jit_compile=True)
    monkeypatch.setattr(tf, "function", function)
    predictor = KerasPredictor(model)
    for size in ((40, 48), (48, 40), (56, 64)):
        assert predictor(picture(*size)).shape == (*size, 3)
    assert ("one_step_on_data_distributed", None) in compiled
    # The step within it, which Keras wraps for XLA alone.
    assert "one_step_on_data" not in [name for name, _ in compiled]
    assert model.jit_compile
