"""One reader for every published format."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kseg.checkpoints.hdf5 import read_hdf5
from kseg.checkpoints.pytorch import read_pytorch
from kseg.checkpoints.tflite import read_tflite
from kseg.errors import KsegError, first_line
from kseg.files import suffix_of


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint under their published names, in published layout.

    Args:
        path: a PyTorch file (zip or legacy; nested dicts give dotted names), a TF1
            prefix (``model.ckpt`` of ``model.ckpt.index``), a .safetensors file,
            weights of Keras in .h5 or .weights.h5 ("layer/variable", in the latter with
            the variable's number), or a .tflite file under TF-Slim's names.

    Raises:
        KsegError: missing, damaged, of no known format, or a pickle that asks for more
            than tensors, containers and numbers.
    """
    path = Path(path)
    try:
        if Path(f"{path}.index").is_file():
            return _read_tensorflow(path)
        if path.suffix == ".index" and path.is_file():
            return _read_tensorflow(path.with_suffix(""))
        if not path.is_file():
            raise KsegError(
                "no such checkpoint; name a .pth, .safetensors, .h5, .tflite or TF1 prefix"
            )
        if suffix_of(path) == ".h5":
            return read_hdf5(path)
        if suffix_of(path) == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        if suffix_of(path) == ".tflite":
            return read_tflite(path)
        return read_pytorch(path)
    except KsegError as error:
        raise KsegError(f"{path}: {error}") from None
    except Exception as error:  # a damaged file can raise nearly anything
        raise KsegError(
            f"{path}: not a readable checkpoint ({first_line(error)}); fetch or save it again"
        ) from error


def _read_tensorflow(prefix: Path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    _check_index(Path(f"{prefix}.index"))
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


# LevelDB's table format: two places, of offset and size, and a magic number.
_FOOTER = 48


def _check_index(path: Path) -> None:
    """ValueError where TensorFlow would make room for what an index says that it has."""
    content = path.read_bytes()
    numbers, number, shift = [], 0, 0
    for byte in content[-_FOOTER:]:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    if len(content) < _FOOTER or max(numbers[:4], default=0) > len(content):
        raise ValueError("its index is damaged")
