"""The same network in PyTorch, to measure against: written as one would write it there.

NCHW in channels-last memory, padding inside the convolutions where it is symmetric, ReLU in
place behind a BatchNorm. The network is a ``torch.fx.GraphModule``: plain generated code
that frees what is read for the last time.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np
import torch
from keras import KerasTensor
from keras import layers as kl
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import skip_init

import kseg
from kseg.layers import MatchSize, Normalize, PaddedAveragePooling, Resize


def twin(model: kseg.SegmentationModel) -> nn.Module:
    """A PyTorch network of the same function, with a copy of the weights, in eval mode.

    It takes float32 (N, 3, H, W), best in channels-last memory, and gives (N, C, H, W)
    logits; ``parameters()`` are the trainable weights of a model that has nothing frozen.
    In training the moving variances differ by n / (n - 1), which PyTorch takes and Keras
    does not.

    Args:
        model: with one output.

    Raises:
        KsegError: a layer that is not known here, or known with other options.
    """
    if len(model.outputs) != 1:
        raise kseg.KsegError(f"{model.name}: has {len(model.outputs)} outputs; a twin has one")
    # Every layer of a network is called once, so that it has one input and one output.
    calls = [
        (layer, keras.tree.flatten(layer.input), layer.output)
        for layer in model.layers
        if not isinstance(layer, kl.InputLayer)
    ]
    builder = _Builder(Counter(id(x) for _, inputs, _ in calls for x in inputs))
    for layer, inputs, result in calls:
        builder.add(layer, inputs, result)
    return builder.finish(model.outputs[0])


class _Builder:
    """The graph so far; ``readers`` counts the calls that read a tensor, by its id."""

    def __init__(self, readers: Counter[int]) -> None:
        self._readers = readers
        self._graph = torch.fx.Graph()
        self._image = self._graph.placeholder("image")
        self._modules: dict[str, nn.Module] = {}
        self._nodes: dict[int, torch.fx.Node] = {}
        # Zeros around a tensor that the convolution behind it may take up.
        self._padded: dict[int, tuple[kl.ZeroPadding2D, KerasTensor]] = {}
        self._makers: dict[int, keras.Layer] = {}

    def add(self, layer: keras.Layer, inputs: Sequence[KerasTensor], result: KerasTensor) -> None:
        """The call of a layer."""
        self._makers[id(result)] = layer
        kind = type(layer)
        if kind is kl.ZeroPadding2D:
            self._padded[id(result)] = (layer, inputs[0])
            return
        if kind in _FUNCTIONS:
            nodes = [self._node(x) for x in inputs]
            if kind is kl.Concatenate:
                _only(layer, axis=-1)
            self._nodes[id(result)] = _FUNCTIONS[kind](self._graph, nodes)
            return
        if kind not in _MODULES:
            raise kseg.KsegError(
                f"{layer.name}: a {kind.__name__} has no twin; write it in benchmarks/torch_twin.py"
            )
        module, source = _MODULES[kind](layer), inputs[0]
        if kind in (kl.Conv2D, kl.DepthwiseConv2D) and id(source) in self._padded:
            source = self._take_up(module, source)
        if isinstance(module, nn.ReLU | nn.ReLU6):
            maker = self._makers.get(id(source))
            # Only where nobody else reads the values, gradients included.
            module.inplace = (
                isinstance(maker, kl.BatchNormalization) and self._readers[id(source)] == 1
            )
        nodes = [self._node(x) for x in (source, *inputs[1:])]
        self._nodes[id(result)] = self._call(layer.name, module, *nodes)

    def _take_up(self, module: nn.Module, source: KerasTensor) -> KerasTensor:
        """Puts symmetric zeros into the convolution; what it then reads."""
        layer, inner = self._padded[id(source)]
        (top, bottom), (left, right) = layer.padding
        convolution = module[0] if isinstance(module, nn.Sequential) else module
        symmetric = top == bottom and left == right
        if not (symmetric and isinstance(convolution, nn.Conv2d) and not any(convolution.padding)):
            return source
        convolution.padding = (top, left)
        return inner

    def _call(self, name: str, module: nn.Module, *nodes: torch.fx.Node) -> torch.fx.Node:
        # "a" and "a.b" are both layers: with dots one would be a module within the other.
        name = name.replace(".", "__")
        self._modules[name] = module
        return self._graph.call_module(name, nodes)

    def _node(self, x: KerasTensor) -> torch.fx.Node:
        if id(x) not in self._nodes and id(x) in self._padded:
            layer, inner = self._padded[id(x)]
            (top, bottom), (left, right) = layer.padding
            module = nn.ZeroPad2d((left, right, top, bottom))
            self._nodes[id(x)] = self._call(layer.name, module, self._node(inner))
        return self._nodes.get(id(x), self._image)

    def finish(self, output: KerasTensor) -> nn.Module:
        """The network whose output this tensor is."""
        self._graph.output(self._node(output))
        network = torch.fx.GraphModule(self._modules, self._graph)
        return network.to(memory_format=torch.channels_last).eval()


class Affine(nn.Module):
    """``(x - mean) / std``, the channels first turned round where the network takes BGR."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], reverse: bool) -> None:
        super().__init__()
        self.reverse = reverse
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("factor", 1 / torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.reverse:
            x = x.flip(1)
        return (x - self.mean) * self.factor


class Interpolate(nn.Module):
    """Bilinear to the size of ``like``, or to a fixed one."""

    def __init__(self, align_corners: bool, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.align_corners, self.size = align_corners, size

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        size = self.size or like.shape[-2:]
        if x.shape[-2:] == size:
            return x
        return F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)


class Fit(nn.Module):
    """Cut off, or zeros, at the bottom and right, to the size of ``like``."""

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        (height, width), (h, w) = like.shape[-2:], x.shape[-2:]
        return x if (h, w) == (height, width) else F.pad(x, (0, width - w, 0, height - h))


class SamePad(nn.Module):
    """TensorFlow's "same" of a strided convolution, which depends on the size."""

    def __init__(
        self, kernel: tuple[int, int], strides: tuple[int, int], dilation: tuple[int, int]
    ) -> None:
        super().__init__()
        self.spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        self.strides = strides

    def forward(self, x: Tensor) -> Tensor:
        amounts = []
        # Columns first, as F.pad takes them.
        for i in (1, 0):
            size, stride = x.shape[2 + i], self.strides[i]
            total = max((-(-size // stride) - 1) * stride + self.spans[i] - size, 0)
            amounts += [total // 2, total - total // 2]
        return F.pad(x, amounts)


def _only(layer: keras.Layer, **wanted: Any) -> None:
    """Raises KsegError where an option has another value."""
    config = layer.get_config()
    for option, value in wanted.items():
        if config[option] != value:
            raise kseg.KsegError(
                f"{layer.name}: {type(layer).__name__} with {option} {config[option]!r} has no "
                "twin; write it in benchmarks/torch_twin.py"
            )


def _set(module: nn.Module, **values: np.ndarray) -> nn.Module:
    """Copies into the parameters and buffers of these names."""
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(torch.from_numpy(np.array(value)))
    return module


def _conv(layer: kl.Conv2D | kl.DepthwiseConv2D) -> nn.Module:
    kernel, *bias = layer.get_weights()
    if isinstance(layer, kl.DepthwiseConv2D):
        groups = kernel.shape[2]
        kernel = kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])
    else:
        groups, kernel = layer.groups, kernel.transpose(3, 2, 0, 1)
    size, strides, dilation = kernel.shape[2:], layer.strides, layer.dilation_rate
    padding, steps = (0, 0), []
    if layer.padding == "same":
        if set(strides) == {1} and all(k % 2 for k in size):
            padding = tuple(d * (k - 1) // 2 for k, d in zip(size, dilation, strict=True))
        elif size != (1, 1):
            steps.append(SamePad(size, strides, dilation))
    convolution = skip_init(
        nn.Conv2d,
        kernel.shape[1] * groups,
        len(kernel),
        size,
        stride=strides,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bool(bias),
    )
    steps.append(_set(convolution, weight=kernel, **({"bias": bias[0]} if bias else {})))
    if layer.activation is not keras.activations.linear:
        steps.append(_activation(layer))
    return nn.Sequential(*steps) if len(steps) > 1 else steps[0]


def _activation(layer: keras.Layer) -> nn.Module:
    functions = {
        keras.activations.relu: nn.ReLU,
        keras.activations.relu6: nn.ReLU6,
        keras.activations.sigmoid: nn.Sigmoid,
    }
    if layer.activation not in functions:
        raise kseg.KsegError(f"{layer.name}: its activation has no twin")
    return functions[layer.activation]()


def _transposed_conv(layer: kl.Conv2DTranspose) -> nn.Module:
    _only(layer, padding="valid", output_padding=None, activation="linear")
    kernel, *bias = layer.get_weights()
    kernel = kernel.transpose(3, 2, 0, 1)
    module = skip_init(
        nn.ConvTranspose2d,
        *kernel.shape[:2],
        kernel.shape[2:],
        stride=layer.strides,
        dilation=layer.dilation_rate,
        bias=bool(bias),
    )
    return _set(module, weight=kernel, **({"bias": bias[0]} if bias else {}))


def _batch_norm(layer: kl.BatchNormalization) -> nn.Module:
    _only(layer, center=True, scale=True, axis=-1)
    gamma, beta, mean, variance = layer.get_weights()
    module = nn.BatchNorm2d(len(gamma), eps=layer.epsilon, momentum=1 - layer.momentum)
    return _set(module, weight=gamma, bias=beta, running_mean=mean, running_var=variance)


def _relu(layer: kl.ReLU) -> nn.Module:
    _only(layer, negative_slope=0.0, threshold=0.0)
    if layer.max_value is None:
        return nn.ReLU()
    _only(layer, max_value=6.0)
    return nn.ReLU6()


def _prelu(layer: kl.PReLU) -> nn.Module:
    (slopes,) = layer.get_weights()
    if slopes.size != slopes.shape[-1]:
        raise kseg.KsegError(f"{layer.name}: PReLU with a slope a pixel has no twin")
    return _set(nn.PReLU(slopes.size), weight=slopes.ravel())


def _global_pool(layer: kl.GlobalAveragePooling2D) -> nn.Module:
    _only(layer, keepdims=True)
    return nn.AdaptiveAvgPool2d(1)


def _cropping(layer: kl.Cropping2D) -> nn.Module:
    (top, bottom), (left, right) = layer.cropping
    return nn.ZeroPad2d((-left, -right, -top, -bottom))


_MODULES: dict[type, Callable[[Any], nn.Module]] = {
    kl.Conv2D: _conv,
    kl.DepthwiseConv2D: _conv,
    kl.Conv2DTranspose: _transposed_conv,
    kl.BatchNormalization: _batch_norm,
    kl.ReLU: _relu,
    kl.PReLU: _prelu,
    kl.GlobalAveragePooling2D: _global_pool,
    kl.Cropping2D: _cropping,
    kl.Dropout: lambda layer: nn.Dropout(layer.rate),
    Normalize: lambda layer: Affine(layer.mean, layer.std, layer.channel_order == "BGR"),
    PaddedAveragePooling: lambda layer: nn.AvgPool2d(
        layer.size, layer.strides, padding=layer.size // 2
    ),
    Resize: lambda layer: Interpolate(layer.convention == "align_corners", layer.size),
    MatchSize: lambda layer: Fit(),
}
_FUNCTIONS: dict[type, Callable[[torch.fx.Graph, list[torch.fx.Node]], torch.fx.Node]] = {
    kl.Add: lambda graph, xs: reduce(lambda a, b: graph.call_function(operator.add, (a, b)), xs),
    kl.Multiply: lambda graph, xs: reduce(
        lambda a, b: graph.call_function(operator.mul, (a, b)), xs
    ),
    kl.Concatenate: lambda graph, xs: graph.call_function(torch.cat, (xs, 1)),
}
