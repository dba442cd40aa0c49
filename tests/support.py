"""What tests share beside fixtures."""

import contextlib
import re
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from PIL import Image

from kseg import checkpoints, layers
from kseg.card import Normalization
from kseg.data import CITYSCAPES, DataSet, open_dataset
from kseg.evaluation import LabelMaps
from kseg.networks import Variant

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    """A block of code of a page, and the line of the page before it."""

    text: str
    page: Path
    line: int


def code_blocks(page: Path, language: str = "python") -> list[Block]:
    """The fenced blocks of a language on a page of the documentation; "" for those without one."""
    text = page.read_text()
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
    return [
        Block(textwrap.dedent(match[3]), page, text[: match.start(3)].count("\n"))
        for match in fence.finditer(text)
        if match[2] == language
    ]


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Runs a block as it is printed, with its page's line numbers in errors."""
    exec(compile("\n" * block.line + block.text, str(block.page), "exec"), names)


def write_camvid(folder: Path, counts: dict[str, int], size: tuple[int, int] = (48, 64)) -> None:
    """Sky (0) above a random horizon, road (3) below it, a void (11) column."""
    rng = np.random.default_rng(7)
    for split, count in counts.items():
        (folder / split).mkdir()
        (folder / f"{split}annot").mkdir()
        for i in range(count):
            label = np.full(size, 3, np.uint8)
            label[: rng.integers(12, 36)] = 0
            label[:, :3] = 11
            image = np.where(label[..., None] == 0, 200, 60) + rng.integers(0, 40, (*size, 3))
            Image.fromarray(image.astype(np.uint8)).save(folder / split / f"{i:03d}.png")
            Image.fromarray(label).save(folder / f"{split}annot" / f"{i:03d}.png")


def write_maps(folder: Path, count: int, seed: int = 5) -> tuple[DataSet, LabelMaps]:
    """Frames in Cityscapes' layout with label maps beside them, most of them right.

    Ids in blocks of 5 x 7 pixels, a tenth of the pixels of the label maps at random;
    riders, cars and bicycles are instances.
    """
    rng = np.random.default_rng(seed)
    table = CITYSCAPES.file_table()
    for number in range(count):
        name = f"bonn_{number:06d}_000019"
        labels = table[rng.integers(0, 20, (8, 9))].repeat(5, 0).repeat(7, 1)
        wide = labels.astype(np.uint16)
        things = np.isin(labels, (25, 26, 33))
        instances = np.where(things, wide * 1000 + rng.integers(0, 9, dtype=np.uint16), wide)
        noise = rng.random(labels.shape) < 0.1
        answer = np.where(noise, table[rng.integers(0, 20, labels.shape)], labels)
        for path, pixels in (
            (f"leftImg8bit/val/bonn/{name}_leftImg8bit", np.zeros((*labels.shape, 3), np.uint8)),
            (f"gtFine/val/bonn/{name}_gtFine_labelIds", labels),
            (f"gtFine/val/bonn/{name}_gtFine_instanceIds", instances),
            (f"maps/{name}_pred_labelIds", answer),
        ):
            file = folder / f"{path}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return open_dataset("cityscapes", folder, "val"), LabelMaps(folder / "maps")


def without_time(report: dict[str, Any]) -> dict[str, Any]:
    """Of a score as JSON."""
    return {key: value for key, value in report.items() if key != "seconds"}


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Within it no file grows beyond so many bytes: the system's own error, EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run_kseg(*args: object, **kwargs) -> subprocess.CompletedProcess:
    """`python -m kseg ARGS` in a process of its own."""
    return _run([sys.executable, "-m", "kseg"], args, **kwargs)


def run_small(*args: object, **kwargs) -> subprocess.CompletedProcess:
    """`run_kseg` where the zoo has the row "small" too."""
    return _run(with_small(), args, **kwargs)


def _run(command: list[str], args: Sequence[object], **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*command, *map(str, args)], capture_output=True, text=True, timeout=600, **kwargs
    )


def with_small() -> list[str]:
    """A command that is `python -m kseg` where the zoo has the row "small" too."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from kseg.zoo import VARIANTS; from support import SMALL; VARIANTS.update(SMALL)\n"
        "from kseg.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", code]


def small(x: keras.KerasTensor, num_classes: int, *, auxiliary: bool = False, dropout: float = 0.0):
    """What takes seconds to trace where a real network takes ten: for the tests of training."""
    half = layers.conv_bn_prelu(x, 8, 3, strides=2, epsilon=1e-3, name="stem")
    x = layers.conv_bn_prelu(half, 16, 3, strides=2, epsilon=1e-3, name="stage")
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    logits = layers.conv(x, num_classes, 1, name="classifier")
    if not auxiliary:
        return logits
    return {
        "logits": logits,
        "half": layers.conv(half, num_classes, 1, name="half.conv"),
        "quarter": layers.conv(x, num_classes, 1, name="quarter.conv"),
    }


SMALL = {
    "small": Variant(
        builder=small,
        normalization=Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        backbone=("stem", "stage"),
        classifier=("classifier",),
    )
}


def randomize_statistics(model) -> None:
    """Moving statistics as after training, so that no normalisation is the identity."""
    rng = np.random.default_rng(2)
    for variable in model.non_trainable_variables:
        if "moving" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))


def varied(model: keras.Model) -> keras.Model:
    """BatchNorm statistics and offsets that show a wrong border or a lost layer."""
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(weight + 0.1 * np.abs(rng.standard_normal(weight.shape)))
    return model


def outputs_of(model: keras.Model, x: np.ndarray) -> Any:
    """Arrays, by a call: to trace a network, as ``predict`` does, takes longer than to run it."""
    return keras.tree.map_structure(np.asarray, model(x, training=False))


def random_tensors(model) -> dict[str, np.ndarray]:
    """A published checkpoint for the model, values 0.1..1."""
    rng = np.random.default_rng(0)
    shapes = checkpoints.published_shapes(model)
    return {name: rng.uniform(0.1, 1, shape).astype("float32") for name, shape in shapes.items()}


def values_of_layers(
    graph: keras.Model, layers: Sequence[str], x: np.ndarray
) -> dict[str, np.ndarray]:
    """What layers give within a graph, by their names.

    Layers of a graph that was made of another have outputs there too, those of a clone have not.
    """
    clone = keras.models.clone_model(graph)
    clone.set_weights(graph.get_weights())
    outputs = [clone.get_layer(layer).output for layer in layers]
    return dict(zip(layers, outputs_of(keras.Model(clone.input, outputs), x), strict=True))
