"""A .tflite file run operator by operator, each by LiteRT in a model of its own.

Only tensors that are still to be read are in memory, where an interpreter that keeps all of
them takes tens of gigabytes at 1024x2048; and an operator can be run again on other values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from kseg.errors import KsegError, first_line
from kseg.quiet import quiet_stderr
from kseg.tflite.flatbuffer import Flatbuffer, Operator


class Stepwise:
    """A .tflite model of one subgraph.

    Args:
        content: of the model.
        threads: that LiteRT takes.

    Attributes:
        operators: that depend on the input, in the order in which they run.
        constants: by the numbers of their tensors, those included that operators make of
            constants alone; weights in 8 or 16 bits are float32.
        inputs, outputs: numbers of the model's tensors.

    Raises:
        KsegError: several subgraphs, as of loops, or an operator that LiteRT cannot run.
    """

    def __init__(self, content: bytes, threads: int = 1) -> None:
        self._model, self._threads = Flatbuffer(content), threads
        if (count := self._model.graphs) != 1:
            raise KsegError(
                f"the file has {count} graphs, such as loops' bodies; convert a model without loops"
            )
        self.inputs, self.outputs = self._model.ends
        self.constants = self._model.main_constants()
        self.operators: list[Operator] = []
        for operator in self._model.main_operators():
            if {i for i in operator.inputs if i >= 0} <= self.constants.keys():
                self.constants |= self._folded(operator)
            else:
                self.operators.append(operator)

    def _folded(self, operator: Operator) -> dict[int, np.ndarray]:
        """The outputs of an operator of constants alone."""
        first, *others = [i for i in dict.fromkeys(operator.inputs) if i >= 0]
        if operator.kind == "DEQUANTIZE":
            return {operator.outputs[0]: self.constants[first].astype(np.float32)}
        # LiteRT runs nothing without an input.
        constants = {i: self.constants[i] for i in others}
        return self.run(operator, {first: self.constants[first]}, constants)

    def run(
        self,
        operator: Operator,
        values: Mapping[int, np.ndarray],
        constants: Mapping[int, np.ndarray] | None = None,
        *,
        activation: bool = True,
    ) -> dict[int, np.ndarray]:
        """The outputs of an operator by the numbers of their tensors.

        Args:
            operator: of ``operators``.
            values: of its inputs that are no constants, by the numbers of their tensors.
            constants: in place of the model's own.
            activation: False leaves out the one that is fused into the operator.

        Raises:
            KsegError: LiteRT cannot run it alone.
        """
        constants = self.constants if constants is None else constants
        fed = [i for i in dict.fromkeys(operator.inputs) if i >= 0 and i not in constants]
        model = self._model.alone(
            operator,
            {i: constants[i] for i in operator.inputs if i in constants},
            {i: values[i].shape for i in fed},
            activation,
        )
        try:
            with quiet_stderr():
                interpreter = Interpreter(model_content=model.content, num_threads=self._threads)
                interpreter.allocate_tensors()
                for detail, i in zip(interpreter.get_input_details(), fed, strict=True):
                    interpreter.set_tensor(detail["index"], values[i])
                interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise KsegError(
                f"{operator.name}: LiteRT cannot run {operator.kind} alone ({first_line(error)})"
            ) from error
        results = [interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()]
        return dict(zip(operator.outputs, results, strict=True))

    def in_order(self) -> Iterator[tuple[Operator, list[int]]]:
        """Every operator, and the tensors that nothing reads after it."""
        readers = Counter(i for operator in self.operators for i in set(operator.inputs))
        readers.update(self.outputs)
        for operator in self.operators:
            readers.subtract(set(operator.inputs))
            ends = {*operator.inputs, *operator.outputs} - {-1} - self.constants.keys()
            yield operator, [i for i in ends if not readers[i]]
