"""Models on the Hugging Face Hub: ``hf://USER/NAME``, or ``hf://USER/NAME@REVISION``."""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from kseg.card import Card
from kseg.errors import KsegError, first_line
from kseg.files import check_is_file, suffix_of
from kseg.lazy import import_extra

FILE = "model.keras"
_PAGE = "README.md"

# A Path has made one slash of two.
_NAME = re.compile(r"hf:/{1,2}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


def is_name(text: str) -> bool:
    """Whether a text names a repository of the hub rather than a file."""
    return text.startswith("hf:/")


def fetch(name: str) -> Path:
    """The repository's ``model.keras``, in the client's own cache after the first time.

    Raises:
        KsegError: a name of another form, no client, or a repository or file that cannot be had.
    """
    client, (repository, revision) = _client(name), _parts(name)
    try:
        return Path(client.hf_hub_download(repository, FILE, revision=revision))
    except Exception as error:  # the client and its transport raise their own
        raise KsegError(f"{name}: cannot be fetched ({first_line(error)})") from error


def push(files: Sequence[Path], card: Card, name: str, *, private: bool = False) -> str:
    """Uploads files of a model with a page about it, and gives the page's address.

    Args:
        files: one .keras file, which becomes ``model.keras``, and others, such as .tflite.
        card: of the model.
        name: of the repository, which is made where there is none.
        private: of a new repository.

    Raises:
        KsegError: no .keras file or several, files of one name or of the page's, a name of
            another form, no client, or a hub that refuses, as it does without
            ``hf auth login``, or cannot be reached.
    """
    client, (repository, revision) = _client(name), _parts(name)
    if revision is not None:
        raise KsegError(f"{name}: states a revision; leave @{revision} out")
    if [suffix_of(path) for path in files].count(".keras") != 1:
        raise KsegError(f"{name}: takes one .keras file, and others beside it")
    uploads: dict[str, Path] = {}
    for path in files:
        check_is_file(path, "a .keras, .tflite or .onnx file")
        upload = FILE if suffix_of(path) == ".keras" else path.name
        if upload.lower() == _PAGE.lower():
            raise KsegError(f"{path}: kseg writes {_PAGE} itself; leave it out or rename it")
        if upload in uploads:
            raise KsegError(f"{path}: {uploads[upload]} has the same name; rename one of the two")
        uploads[upload] = path
    with tempfile.TemporaryDirectory() as folder:
        for upload, path in uploads.items():
            shutil.copyfile(path, Path(folder, upload))
        Path(folder, _PAGE).write_text(_page(card, repository, files), "utf-8")
        api = client.HfApi()
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="kseg push")
        except Exception as error:  # as in fetch
            raise KsegError(
                f"{name}: cannot be uploaded to {api.endpoint} ({first_line(error)}); it must be "
                "reachable, and `hf auth login` states who you are"
            ) from error
        return f"{api.endpoint}/{repository}"


def _client(name: str) -> ModuleType:
    client = import_extra("huggingface_hub", "hub", name)
    # The package does not import it by itself.
    importlib.import_module("huggingface_hub.errors")
    return client


def _parts(name: str) -> tuple[str, str | None]:
    found = _NAME.fullmatch(name)
    if found is None:
        raise KsegError(f"{name}: no name of the hub; it is hf://USER/NAME, perhaps with @REVISION")
    return found["repository"], found["revision"]


def _page(card: Card, repository: str, files: Sequence[Path]) -> str:
    """The repository's README, with what the hub sorts by on top."""
    names = ", ".join(card.class_names or [f"{card.num_classes} classes without names"])
    others = "".join(f"- `{path.name}`\n" for path in files if suffix_of(path) != ".keras")
    size = "any" if card.input_size is None else "{} x {}".format(*card.input_size)
    return f"""---
library_name: kseg
pipeline_tag: image-segmentation
tags: [semantic-segmentation, keras, tflite]
---

# {repository.split("/")[1]}

Semantic segmentation by `{card.name}` of kseg.

| | |
| --- | --- |
| input | RGB 0..255, height x width {size} |
| classes | {names} |
| data set | {card.dataset or "not stated"} |
| weights | {card.weights} |

```python
import kseg

model = kseg.load("hf://{repository}")
```

`kseg predict hf://{repository} street.jpg --out out` from the command line.
{f"Other files:{chr(10)}{chr(10)}{others}" if others else ""}"""
