"""Several devices and processes end where one does."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kseg
from kseg.cli import main
from kseg.training.distribution import open_distribution
from support import ROOT, with_small, write_camvid

ARGUMENTS = (
    *("train", "--model", "small", "--dataset", "camvid"),
    *("--batch-size", "4", "--crop", "32", "40", "--batch-norm", "sync", "--epochs", "2"),
    # Adam divides by the gradient's size: where that is nothing but rounding, so is the step.
    *("--optimizer", "sgd", "--learning-rate", "0.01", "--encoder-rate", "0.5"),
    # A second optimizer after the first epoch; a history that the first worker alone has.
    *("--freeze-encoder-epochs", "1", "--patience", "5", "--ema", "0.5"),
)


@pytest.fixture(scope="module")
def images(small_keras, tmp_path_factory) -> Path:
    """Eight to train on, three to score on: neither two nor four share these evenly.

    Beside them lies a teacher, which every run has.
    """
    folder = tmp_path_factory.mktemp("images")
    write_camvid(folder, {"train": 8, "val": 3})
    shutil.copy(small_keras, folder / "teacher.keras")
    return folder


def arguments(images: Path, run_dir: Path, *extra: str) -> list[str]:
    data = ("--data-dir", str(images), "--teacher", str(images / "teacher.keras"))
    return [*ARGUMENTS, *data, "--run-dir", str(run_dir), *extra]


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]


def weights(run_dir: Path) -> list[np.ndarray]:
    return keras.models.load_model(run_dir / "model.keras").get_weights()


def scores(run_dir: Path) -> np.ndarray:
    """(epochs, 4): loss and mean IoU in training and validation."""
    columns = [1, 3, 4, 5, 6]
    rows = np.genfromtxt(run_dir / "history.csv", delimiter=",", skip_header=1, usecols=columns)
    return rows[:, 1:]


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "alone"
    assert main(arguments(images, run_dir, "--distribution", "one")) == 0
    return run_dir


@pytest.fixture(scope="module")
def untrained() -> list[np.ndarray]:
    """What every run starts from."""
    keras.utils.set_random_seed(0)
    return kseg.create_model("small", num_classes=11).get_weights()


def assert_close(run_dir: Path, alone: Path, untrained: list[np.ndarray]) -> None:
    """The same way within a thousandth of its length: float32 sums in another order.

    A replica's share that is weighted wrongly, or statistics of its own, turn it by more
    than a tenth.
    """
    off, length = (
        np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(first, second, strict=True)))
        for first, second in (
            (weights(run_dir), weights(alone)),
            (untrained, weights(alone)),
        )
    )
    assert length > 0.1
    assert off < 1e-3 * length
    np.testing.assert_allclose(scores(run_dir), scores(alone), rtol=1e-3)


FOUR_DEVICES = """
    import keras
    import numpy as np
    import tensorflow as tf
    from kseg.cli import main
    from kseg.training.optimizers import LossScale
    from kseg.zoo import VARIANTS
    from support import SMALL

    cpu = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * 4
    tf.config.set_logical_device_configuration(cpu, parts)

    def step(overflowing):
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            x = keras.Input((1,))
            y = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(x)
            model = keras.Model(x, y)
            optimizer = LossScale(keras.optimizers.SGD(0.1), initial_scale=2.0)
            model.compile(optimizer, loss=lambda label, found: found * label)
        labels = np.ones((2, 1), "float32")
        labels[overflowing] = np.inf
        batches = tf.data.Dataset.from_tensor_slices((np.ones((2, 1), "float32"), labels)).batch(2)
        model.fit(batches, verbose=0)
        numbers = model.get_weights()[0].item(), optimizer.dynamic_scale
        return [float(keras.ops.convert_to_numpy(number)) for number in numbers]

    VARIANTS.update(SMALL)
    overflows = [step(0), step(1)]
    codes = [main(arguments) for arguments in json.loads(sys.argv[1])]
    print(json.dumps([overflows, codes]))
"""


@dataclasses.dataclass
class Devices:
    """What a process with four CPUs found.

    Attributes:
        run_dir: of a training on all four.
        refusal: what standard error has of one whose batch they cannot share.
        overflows: by the replica on which it was, the weight and the loss' scale after it.
    """

    run_dir: Path
    refusal: str
    overflows: list[list[float]]


@pytest.fixture(scope="module")
def four(images, tmp_path_factory) -> Devices:
    run_dir = tmp_path_factory.mktemp("runs") / "four"
    mirrored = arguments(images, run_dir, "--distribution", "mirrored")
    path = f"import json, sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
    result = subprocess.run(
        [
            *(sys.executable, "-c", path + textwrap.dedent(FOUR_DEVICES)),
            json.dumps([[*mirrored, "--batch-size", "3"], mirrored]),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    overflows, codes = json.loads(result.stdout.splitlines()[-1])
    assert codes == [1, 0], result.stderr[-3000:]
    return Devices(run_dir, result.stderr, overflows)


def test_four_devices_equal_one(four, alone, untrained):
    assert_close(four.run_dir, alone, untrained)


def test_a_batch_that_the_replicas_cannot_share(four):
    assert "batch size is 3; 4 replicas need a multiple of it" in four.refusal


@pytest.mark.parametrize("overflowing", [0, 1])
def test_an_overflow_on_one_replica_leaves_the_step_out(overflowing, four):
    """The weight stays, and the loss' scale is halved."""
    assert four.overflows[overflowing] == [1.0, 1.0]


def test_a_process_has_one_strategy():
    """A second one would number its collective operations as the first one's: other shapes fail."""
    first, second = (open_distribution("mirrored").strategy for _ in range(2))
    assert first is second


def cluster(images: Path, run_dir: Path) -> list[subprocess.Popen]:
    """Two workers on this machine."""
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return [
        subprocess.Popen(
            [*with_small(), *arguments(images, run_dir)],
            env={
                **os.environ,
                "TF_CONFIG": json.dumps(
                    {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                ),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def together(images, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "together"
    for process in cluster(images, run_dir):
        finish(process)
    return run_dir


def test_two_workers_equal_one_process(together, alone, untrained):
    assert_close(together, alone, untrained)
    assert (together / "rank-1/checkpoints").is_dir()
    assert not (together / "rank-1/model.keras").exists()
    model = keras.models.load_model(together / "model.keras")
    assert type(model) is kseg.SegmentationModel


def test_two_workers_have_the_same_weights(together):
    """Their last states, every variable of the optimizer included."""
    import h5py

    def tensors(file: Path) -> dict[str, np.ndarray]:
        found = {}
        with h5py.File(file) as opened:
            opened.visititems(
                lambda name, item: (
                    found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
                )
            )
        return found

    name = "checkpoints/step-00000004.weights.h5"
    first, second = (tensors(folder / name) for folder in (together, together / "rank-1"))
    assert len(first) > 20
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])


def test_a_killed_worker_changes_nothing(images, together, tmp_path):
    """SIGKILL to one after the first epoch; both are started again."""
    run_dir = tmp_path / "run"
    processes = cluster(images, run_dir)
    state = run_dir / "rank-1/checkpoints/step-00000002.weights.h5"
    deadline = time.monotonic() + 300
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    processes[1].send_signal(signal.SIGKILL)
    time.sleep(1)
    processes[0].kill()
    for process in processes:
        process.communicate()
    assert not (run_dir / "model.keras").exists()
    for process in cluster(images, run_dir):
        finish(process)
    for a, b in zip(weights(run_dir), weights(together), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_worker_that_is_not_there(monkeypatch):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(kseg.KsegError, match=r"task.index 2; the 2 workers count from 0"):
        open_distribution()


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {}}'])
def test_a_damaged_tf_config(text, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(kseg.KsegError, match="it must name cluster"):
        open_distribution()


def test_gpu_memory_is_taken_as_needed(monkeypatch):
    """TensorFlow's default would take nearly all memory of every GPU."""
    grown = {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [f"{kind}:0", f"{kind}:1"])
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grown.__setitem__)
    open_distribution("one")
    assert grown == {"GPU:0": True, "GPU:1": True}

    def late(*_):
        raise RuntimeError("Physical devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", late)
    assert open_distribution("one").replicas == 1
