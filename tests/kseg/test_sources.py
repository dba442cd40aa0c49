"""Folders, patterns, videos and cameras as `kseg predict` takes them."""

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import kseg
from kseg import shipped
from kseg.cli import main
from kseg.evaluation import video
from kseg.evaluation.overlays import write_overlays
from kseg.evaluation.sources import Source, find_sources
from kseg.predictor import InferenceSettings, KerasPredictor, predict_labels
from kseg.streets import draw_scene

# Of an odd height, which H.264 does not have.
SIZE = (47, 64)
# Not evenly spaced: milliseconds.
TIMES = (0, 40, 80, 200, 240)
# H.264 keeps a drawn street to 30 dB; a lost or shifted frame has 15.
DECIBELS = 25


def make_video(path: Path) -> list[np.ndarray]:
    """Frames of drawn streets with the times above, without loss."""
    frames = [draw_scene(seed, *SIZE).image for seed in range(len(TIMES))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "rgb24"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for image, time in zip(frames, TIMES, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return frames


def frames_of(path: Path, kind: str) -> tuple[list[np.ndarray], list[float]]:
    """Pictures and seconds, as PyAV itself reads them."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [f.to_ndarray(format=kind) for f in frames], [f.time for f in frames]


def test_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.JPG", "b/c/1.png", "b/film.MOV", "b/notes.txt", "a.png", "[x].png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    found = find_sources(["a.png", "b", "b/*/*.png", "b/**/*.MOV", "[x].png"])
    assert [(str(s.path), s.name, s.is_video) for s in found] == [
        ("a.png", "a", False),
        ("b/2.JPG", "2", False),
        ("b/c/1.png", "c/1", False),
        ("b/film.MOV", "film", True),
        ("b/c/1.png", "1", False),
        ("b/film.MOV", "film", True),
        ("[x].png", "[x]", False),
    ]
    assert find_sources(["sample"]) == [Source(shipped.SAMPLE, "sample")]
    assert find_sources(["camera"]) == [Source(Path("/dev/video0"), "camera", is_video=True)]
    Path("sample").write_bytes(b"")
    assert find_sources(["sample"])[0].path == Path("sample")
    with pytest.raises(kseg.KsegError, match=r"\*\.bmp: no file fits this pattern"):
        find_sources(["*.bmp"])
    Path("empty").mkdir()
    with pytest.raises(kseg.KsegError, match=r"empty: has no images or videos \(\.bmp, "):
        find_sources(["empty"])


def test_links_and_names_with_a_dot(tmp_path):
    """As in a data set: a linked folder belongs to it, what a system puts there does not."""
    for name in ("in/a.jpg", "in/._a.jpg", "in/.ipynb_checkpoints/a-checkpoint.jpg", "more/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "in/link").symlink_to(tmp_path / "more")
    (tmp_path / "in/round").symlink_to(tmp_path)
    assert [source.name for source in find_sources([tmp_path / "in"])] == ["a", "link/b"]


def test_a_folder(tiny_keras, tmp_path, capsys):
    """Its images keep their places; side by side has image and overlay."""
    (tmp_path / "in/day").mkdir(parents=True)
    image = draw_scene(0, *SIZE).image
    for name in ("0.png", "day/0.png"):
        Image.fromarray(image).save(tmp_path / "in" / name)
    arguments = ["predict", str(tiny_keras), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--write", "labels", "side-by-side"]) == 0
    written = sorted(
        p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("out/**/*.png")
    )
    assert written == ["0.png", "0_pair.png", "day/0.png", "day/0_pair.png"]
    pair = np.asarray(Image.open(tmp_path / "out/0_pair.png"))
    np.testing.assert_array_equal(pair[: SIZE[0], : SIZE[1]], image)
    labels = predict_labels(KerasPredictor(tiny_keras), image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/day/0.png")), labels)
    assert "distorts" not in capsys.readouterr().err
    turned = [*arguments, "--write", "labels", "--input-size", "64", "47"]
    assert main(turned) == 0
    assert "0.png: is 47x64 and the network's input 64x47 (HxW), which" in capsys.readouterr().err
    assert main([*arguments, "--write", "masks"]) == 1
    assert "--write is ['masks']; it must be of labels, overlay" in capsys.readouterr().err


def test_a_video(tiny_keras, tmp_path):
    """Every frame's ids exactly, its overlay in H.264, and the times of the frames."""
    frames = make_video(tmp_path / "street.mov")
    seen = []
    predictor = KerasPredictor(tiny_keras)
    kinds = ("labels", "overlay", "side-by-side")
    source = find_sources([tmp_path / "street.mov"])
    list(
        write_overlays(
            predictor, source, tmp_path / "out", kinds=kinds, progress=lambda *n: seen.append(n)
        )
    )
    labels, times = frames_of(tmp_path / "out/street.mkv", "gray")
    np.testing.assert_allclose(times, np.array(TIMES) / 1000, atol=1e-9)
    assert len(labels) == len(frames)
    for got, image in zip(labels, frames, strict=True):
        np.testing.assert_array_equal(got, predict_labels(predictor, image))
    pairs, times = frames_of(tmp_path / "out/street_pair.mp4", "rgb24")
    np.testing.assert_allclose(times, np.array(TIMES) / 1000, atol=1e-4)
    for got, image in zip(pairs, frames, strict=True):
        error = got[: SIZE[0], : SIZE[1]].astype(float) - image
        assert 10 * np.log10(255**2 / np.mean(error**2)) > DECIBELS
    assert len({p.shape for p in frames_of(tmp_path / "out/street_overlay.mp4", "rgb24")[0]}) == 1
    assert seen == [(n, len(TIMES)) for n in range(1, len(TIMES) + 1)]


def test_a_telephone_held_upright(tmp_path):
    """Its frames lie on their side, and the file says by how much viewers turn them."""
    frames = make_video(tmp_path / "plain.mov")
    content = bytearray((tmp_path / "plain.mov").read_bytes())
    # ISO 14496-12, 8.3.2: the track header's matrix, 16.16 numbers; here 90 degrees clockwise.
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "phone.mov").write_bytes(content)
    turned = list(video.VideoReader(find_sources([tmp_path / "phone.mov"])[0]))
    for (got, _), image in zip(turned, frames, strict=True):
        np.testing.assert_array_equal(got, np.rot90(image, -1))


def test_a_dashcam(tmp_path):
    """AVI has no times: those of frames that were stored in another order do not rise."""
    grey = range(0, 240, 20)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        options = {"bf": "2", "b_strategy": "0", "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width = 32, 32
        for number, value in enumerate(grey):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, np.uint8), "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _, stored = frames_of(tmp_path / "a.avi", "rgb24")
    assert stored != sorted(stored)
    reader = video.VideoReader(Source(tmp_path / "a.avi", "a", is_video=True))
    writer = video.VideoWriter(tmp_path / "b.mp4", reader)
    for image, time in reader:
        writer.write(image, time)
    writer.close()
    pictures, times = frames_of(tmp_path / "b.mp4", "rgb24")
    # H.264 changes a grey picture by some levels; the next one is 20 brighter.
    np.testing.assert_allclose([p.mean() for p in pictures], grey, atol=5)
    # One frame each, but the one behind the first, whose time was a guess too.
    np.testing.assert_allclose(np.diff(times)[1:], 1 / 25, atol=1e-9)
    writer = video.VideoWriter(tmp_path / "c.mkv", reader)
    writer.write(image[..., 0], 2)
    with pytest.raises(kseg.KsegError, match=r"a\.avi: cannot be written as a video \(Invalid"):
        writer.write(image[..., 0], 1)


def test_errors_name_the_image(tiny_model, tmp_path):
    """And the frame of a video."""
    make_video(tmp_path / "street.mov")
    sources = find_sources(["sample", tmp_path / "street.mov"])
    for source, name in zip(sources, (str(shipped.SAMPLE), r"street\.mov, frame 1"), strict=True):
        files = write_overlays(
            KerasPredictor(tiny_model), [source], tmp_path, InferenceSettings(pad_to=(32, 32))
        )
        with pytest.raises(kseg.KsegError, match=rf"{name}: pad_to \(32, 32\) is smaller"):
            next(files)


def test_ctrl_c_ends_a_video(tiny_keras, tmp_path, monkeypatch):
    """As of a camera, which has no other end: the file has the frames so far."""
    make_video(tmp_path / "device.mov")

    class Interrupted(KerasPredictor):
        calls = 0

        def __call__(self, image):
            self.calls += 1
            if self.calls == 4:
                raise KeyboardInterrupt
            return super().__call__(image)

    source = Source(tmp_path / "device.mov", "camera", is_video=True)
    files = write_overlays(Interrupted(tiny_keras), [source], tmp_path / "out", kinds=["labels"])
    assert next(files) == tmp_path / "out/camera.mkv"
    with pytest.raises(KeyboardInterrupt):
        next(files)
    assert len(frames_of(tmp_path / "out/camera.mkv", "gray")[0]) == 3


def test_bad_videos(tiny_keras, tmp_path, capsys, monkeypatch):
    """One line that names the file, and nothing half-written."""
    make_video(tmp_path / "whole.mov")
    (tmp_path / "text.mp4").write_text("no video")
    for name, text in (("text", "not a readable video"), ("gone", "not a readable video")):
        path = tmp_path / f"{name}.mp4"
        assert main(["predict", str(tiny_keras), str(path), "--out", str(tmp_path / "out")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{path}: {text}" in line
        assert not list((tmp_path / "out").glob("*"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(kseg.KsegError, match=r"whole\.mov: needs av; install kseg\[video\]"):
        video.VideoReader(find_sources([tmp_path / "whole.mov"])[0])
