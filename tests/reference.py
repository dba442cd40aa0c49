"""What the reference implementations computed (tests/data/fixtures/README.md)."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import make_weights
import numpy as np

import kseg
from support import ROOT

FIXTURES = ROOT / "tests" / "data" / "fixtures"
# Times the reference's own float32 noise, on every intermediate tensor.
NOISE_FACTOR = 10


class Reference(NamedTuple):
    """A fixture: its manifest, the arrays that were stored, weights and input of the network."""

    manifest: dict[str, Any]
    want: Any
    tensors: dict[str, np.ndarray]
    image: np.ndarray

    def check(self, tap: str, got: np.ndarray, limit: float | None = None) -> None:
        """Shape and values of an array; ``limit`` is ten times the noise where it is None."""
        facts = self.manifest["arrays"][tap]
        assert list(got.shape) == facts["shape"], tap
        if f"{tap}__rows" in self.want:
            got = got[:, self.want[f"{tap}__rows"]][:, :, self.want[f"{tap}__cols"]]
            got = got[..., self.want[f"{tap}__chs"]]
        error = np.abs(got - self.want[tap]).max()
        limit = NOISE_FACTOR * facts["fp32_noise"] if limit is None else limit
        assert error <= limit, f"{tap}: {error:.3g} > {limit:.3g}"


def open_reference(name: str, find_weights: Callable[[str], Path] | None = None) -> Reference:
    """A fixture, its generated weights and input checked by their sums.

    Args:
        find_weights: where the published weights of a name lie, for fixtures that have such.
    """
    manifest = json.loads((FIXTURES / f"{name}.json").read_text())
    if "weights_file" in manifest:
        path = find_weights(manifest["weights_file"])
        assert hashlib.sha256(path.read_bytes()).hexdigest() == manifest["weights_sha256"]
        tensors = kseg.checkpoints.read(path)
    else:
        tensors = make_weights.make_weights(manifest)
    image = make_weights.make_input(manifest)
    make_weights.check(manifest, tensors, image)
    return Reference(manifest, np.load(FIXTURES / f"{name}.npz"), tensors, image)
