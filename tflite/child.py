"""A file in a process of its own, where a runtime may abort and memory is the file's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from kseg.errors import KsegError
from kseg.shipped import is_model

_SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
# Where the Vulkan loader looks for a system's.
_DRIVERS = [Path(folder, "vulkan/icd.d") for folder in ("/etc", "/usr/share", "/usr/local/share")]


class Child:
    """``python -m MODULE FILE ARGUMENT... FD``; messages of bytes go both ways over FD.

    Args:
        module: to run.
        path: of the file, which errors name.
        arguments: for the module.
        timeout: seconds for every answer.
    """

    def __init__(self, module: str, path: str | Path, *arguments: str, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                # Without -P the folder that kseg was called in would come before its packages.
                [sys.executable, "-P", "-m", module, str(path), *arguments, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                env=_environment(path),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())

    def ask(self, message: bytes) -> bytes:
        """Sends a message and waits for the answer."""
        try:
            self._connection.send_bytes(message)
        except BrokenPipeError:
            raise self._failure() from None
        return self.receive()

    def receive(self) -> bytes:
        """The next message.

        Raises:
            KsegError: the process ended, or gave none in time and was ended.
        """
        if not self._connection.poll(self._timeout):
            self.close()
            raise KsegError(f"{self._path}: its process gave no answer in {self._timeout:.0f} s")
        try:
            return self._connection.recv_bytes()
        except (EOFError, ConnectionResetError):
            raise self._failure() from None

    def _failure(self) -> KsegError:
        # Its own end is slow where a GPU's work goes on; its exit code says why.
        self.close(patience=30)
        return KsegError(f"{self._path}: its process ended (code {self.process.returncode})")

    def close(self, patience: float = 2) -> None:
        """Ends the process, by force after so many seconds."""
        self._connection.close()
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _environment(path: str | Path) -> dict[str, str]:
    """The child's: SwiftShader where there is no other Vulkan driver."""
    environment = {"XDG_RUNTIME_DIR": tempfile.gettempdir(), **os.environ}
    if not is_model(path):
        # TensorFlow, which no other file needs, takes seconds to load and 500 MB.
        environment["KERAS_BACKEND"] = "numpy"
    named = environment.keys() & {"VK_ICD_FILENAMES", "VK_DRIVER_FILES"}
    installed = any(any(folder.glob("*.json")) for folder in _DRIVERS)
    if not named and not installed and _SWIFTSHADER.exists():
        environment["VK_ICD_FILENAMES"] = str(_SWIFTSHADER)
        # The Vulkan loader lies beside its driver there.
        paths = [environment.get("LD_LIBRARY_PATH"), str(_SWIFTSHADER.parent)]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    return environment
