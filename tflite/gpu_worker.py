"""Runs one .tflite file on the LiteRT GPU accelerator, in a process of its own.

A delegate can abort its process. ``python -m kseg.tflite.gpu_worker FILE FD`` takes the
bytes of input tensors from the connection FD and sends those of output tensors back; its
first message is empty, or says why the accelerator is not to be had.
"""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator

NO_ACCELERATOR = b"no GPU accelerator: LiteRT found no Vulkan driver that it takes"


def main() -> None:
    """Serves until the connection is closed."""
    file, connection = sys.argv[1], Connection(int(sys.argv[2]))
    try:
        model = CompiledModel.from_file(file, hardware_accel=HardwareAccelerator.GPU)
    except RuntimeError:
        # The reasons are on standard error; the exception has line numbers only.
        connection.send_bytes(NO_ACCELERATOR)
        return
    if not model.is_fully_accelerated():
        connection.send_bytes(b"the accelerator refuses some of its operators")
        return
    (signature,) = model.get_signature_list()
    (source,) = model.get_input_tensor_details(signature).values()
    (result,) = model.get_output_tensor_details(signature).values()
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    connection.send_bytes(b"")
    while True:
        try:
            values = np.frombuffer(connection.recv_bytes(), source["dtype"])
        except EOFError:
            return
        inputs[0].write(values.reshape(source["shape"]))
        model.run_by_index(0, inputs, outputs)
        count, dtype = int(np.prod(result["shape"])), np.dtype(result["dtype"])
        connection.send_bytes(np.asarray(outputs[0].read(count, dtype), dtype).tobytes())


if __name__ == "__main__":
    main()
