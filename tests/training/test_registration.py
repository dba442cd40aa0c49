"""Keras loads models that were compiled with kseg's losses, whichever is imported first."""

import subprocess
import sys

import keras
import pytest

from kseg.loading import load
from kseg.training import losses, metrics


@pytest.mark.parametrize(
    "imports", ["import kseg.training; import keras", "import keras; import kseg.training"]
)
def test_compiled_models_load(imports, small_keras, tmp_path):
    model = load(small_keras)
    loss = losses.SegmentationLoss("focal+dice")
    model.compile(keras.optimizers.SGD(), loss, metrics=[metrics.MeanIoU(11)])
    model.save(tmp_path / "compiled.keras")
    code = f"{imports}\nprint(keras.models.load_model({str(tmp_path / 'compiled.keras')!r}).loss)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "SegmentationLoss" in result.stdout, result.stderr
