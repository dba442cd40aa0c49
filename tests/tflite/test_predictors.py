"""What files take and give, by hand."""

import numpy as np
import pytest

import kseg
from kseg.tflite.predictors import TensorIO, thread_count


def tensors(input_type, output_type="float32", scale=0.0, zero_point=0):
    types = np.dtype(input_type), np.dtype(output_type)
    return TensorIO(*types, (1, 1, 2, 3), scale, zero_point)


def test_uint8_input_is_rounded_and_limited():
    """A cast alone would cut digits off and start again at 0 above 255."""
    image = np.array([[[0.4, 0.6, 254.7], [-3, 255.4, 300], [1.5, 2.5, 7]]], np.float32)
    got = tensors("uint8").encode(image)
    assert got.dtype == np.uint8
    # Halves go to the even number.
    np.testing.assert_array_equal(got, [[[[0, 1, 255], [0, 255, 255], [2, 2, 7]]]])


def test_float_input_is_as_it_is():
    image = np.array([[[0.4, -3, 300]]], np.float32)
    got = tensors("float32").encode(image)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, image[None])


@pytest.mark.parametrize(("scale", "zero_point"), [(0.25, -128), (0.5, 7)])
def test_int8_output_is_scaled(scale, zero_point):
    """r = S (q - Z), arXiv:1712.05877, Equation 1."""
    output = np.array([[[[-128, 0, 127]]]], np.int8)
    got = tensors("float32", "int8", scale, zero_point).decode(output)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, [[[scale * (q - zero_point) for q in (-128, 0, 127)]]])


@pytest.mark.parametrize("threads", ["2", 2.0, 0])
def test_threads(threads):
    with pytest.raises(kseg.KsegError, match=f"threads is {threads!r}; it must be a"):
        thread_count(threads)
