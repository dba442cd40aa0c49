"""classes.txt as people write it: read rightly, or refused by the line."""

import pytest

import kseg
from kseg.data import CAMVID, CITYSCAPES, first_difference, never_occurring
from kseg.data.class_files import read_classes
from kseg.errors import KsegWarning

ROAD, CAR = (128, 64, 128), (64, 0, 128)


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "classes.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_classes(path)

    return read


@pytest.mark.parametrize(
    "content",
    [
        "road\ncar\n",
        "\ufeffroad\r\ncar\r\n",
        "road\rcar",
        "road  \n\tcar\n\n\n",
        "road\ncar\n".encode("utf-16"),
        "\ufeffroad\ncar".encode("utf-16-be"),
        '"road",1,2,3\ncar\n',
    ],
)
def test_names(read, content):
    classes = read(content)
    assert (classes.names, classes.file_ids) == (("road", "car"), (0, 1))
    assert classes.void_ids == (255,)


@pytest.mark.parametrize(
    "content",
    [
        "road #804080\ncar #400080",
        "road,#804080\ncar,#400080",
        "road,128,64,128\ncar,64,0,128\n",
        "road, 128, 64, 128\r\ncar, 64, 0, 128\r\n",
        "road;128;64;128\ncar;64;0;128",
        "road\t128\t64\t128\ncar\t64\t0\t128",
        "road 128 64 128\ncar 64 0 128",
        "128 64 128 road\n64 0 128\tcar",
        "name,r,g,b\nroad,128,64,128\ncar,64,0,128\n",
        "\ufeffName;R;G;B\r\nroad;128;64;128\r\ncar;64;0;128\r\n",
        "r,g,b,name\n128,64,128,road\n64,0,128,car\n",
        "id,name,red,green,blue\n0,road,128,64,128\n1,car,64,0,128\n",
        "0,road,128,64,128\n1,car,64,0,128\n",
        "class,color\nroad,#804080\ncar,#400080\n",
        "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:64,0,128::\n",
    ],
)
def test_colours(read, content):
    classes = read(content)
    assert classes.names == ("road", "car")
    assert classes.colors == (ROAD, CAR)
    assert classes.file_ids == (0, 1)
    assert classes.chosen_colors == (True, True)


@pytest.mark.parametrize(
    ("content", "names", "file_ids", "void_ids"),
    [
        ("ignore\nroad\ncar", ("road", "car"), (1, 2), (0,)),
        ("ignore: 0\nroad\ncar", ("road", "car"), (1, 2), (0,)),
        ("Ignore = 0\nroad\ncar", ("road", "car"), (1, 2), (0,)),
        ("road\nignore\ncar", ("road", "car"), (0, 2), (1,)),
        ("road\ncar\nignore", ("road", "car"), (0, 1), (2,)),
        ("road\ncar\nignore: 100, 7", ("road", "car"), (0, 1), (100, 7)),
        ("ignore: 0 1\nroad\ncar", ("road", "car"), (2, 3), (0, 1)),
        ("ignore 0 0 0\nroad\ncar", ("road", "car"), (1, 2), (0,)),
        ("7: road\n26: car", ("road", "car"), (7, 26), (255,)),
        ("7,road\n26,car\nignore: 0", ("road", "car"), (7, 26), (0,)),
        ("0: ignore\n1: road\n2: car", ("road", "car"), (1, 2), (0,)),
        ("road: 1\ncar: 2", ("road", "car"), (1, 2), (255,)),
        ("car,2\nroad,1", ("car", "road"), (2, 1), (255,)),
        ("ignore: 255\nroad\ncar", ("road", "car"), (0, 1), (255,)),
        ("ignored\nroad, dry\nC++", ("ignored", "road, dry", "C++"), (0, 1, 2), (255,)),
        ("red\ngreen\nblue", ("red", "green", "blue"), (0, 1, 2), (255,)),
    ],
)  # fmt: skip
def test_ids(read, content, names, file_ids, void_ids):
    classes = read(content)
    assert (classes.names, classes.file_ids, classes.void_ids) == (names, file_ids, void_ids)
    table = classes.label_table()
    assert [table[i] for i in file_ids] == list(range(len(names)))
    assert {int(table[i]) for i in (*void_ids, 255)} == {255}
    assert (table == 254).sum() == 256 - len({*file_ids, *void_ids, 255})


def test_colour_of_what_is_ignored(read):
    classes = read("ignore #000000\nroad #804080\n")
    assert (classes.void_ids, classes.void_colors) == ((0,), ((0, 0, 0),))
    assert (classes.file_ids, classes.colors) == ((1,), (ROAD,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\nroad\ncar", "line 1: 'name' looks like a header; remove it"),
        ("id name\n0 road\n1 car", "line 1: 'id name' looks like a header; separate the columns"),
        ("name,r,g,b,kind\nroad,1,2,3,flat", "line 1: 'name,r,g,b,kind' is no header"),
        ("r,g,b\n1,2,3", "line 1: 'r,g,b' is no header"),
        ("name,r,g,b\nroad,1,2", "line 2: has 3 fields, the header has 4"),
        ("road,1,2,3\ncar,1,2", "line 2: 'car,1,2' is not understood"),
        ("road,1,2,3,255", "line 1: 'road,1,2,3,255' is not understood"),
        ("road,0.5,0.25,0.5", "line 1: 0.5,0.25,0.5 is no colour"),
        ("road\ncar,1,2,300", "line 2: 1,2,300 is no colour"),
        ("0 1 2 3 road", "line 1: '0 1 2 3 road' is not understood"),
        ("road\ncar\nignore: 0", "line 3: id 0 is in line 1 already; every line is an id"),
        ("ignore: 2\na\nb\nc", "line 4: id 2 is in line 1 already"),
        ("0: road\ncar", "line 2: has no id, but other lines have"),
        ("0: road\n0: car", "line 2: id 0 is in line 1 already"),
        ("255: road\n0: car", "line 1: id 255 is too large"),
        ("ignore\n", "has no class, only ids to ignore"),
        ("\ufeffroad\nroad", "line 2: 'road' is in line 1 already"),
        ("road\ncar\n".encode("utf-16-le"), "has NUL characters; save it as UTF-8"),
        ("// my classes\nroad", "line 1: '// my classes' is no class"),
        (
            "__ignore__\n_background_\nroad",
            "line 1: '__ignore__' is no class; every line is",
        ),
        ("# my classes\nroad", "line 1: has no name; every line is a class"),
        ("Straße".encode("cp1252"), "cannot be read as UTF-8 text"),
    ],
)
def test_refused(read, content, message):
    with pytest.raises(kseg.KsegError) as error:
        read(content)
    assert message in str(error.value)
    assert "classes.txt" in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_that_look_like_ids(read):
    with pytest.warns(KsegWarning, match="'1 road' is read as the name of id 0"):
        assert read("1 road\n2 car").names == ("1 road", "2 car")
    with pytest.warns(KsegWarning, match=r"'road 2' is read as .* before them \(NAME: ID\)"):
        assert read("sky 0\nroad 2\ncar 1").names == ("sky 0", "road 2", "car 1")
    # Equal to the ids, they do no harm.
    assert read("0 road\n1 car").file_ids == (0, 1)


def test_first_difference():
    assert first_difference(("a", "b"), ("a", "b")) is None
    assert first_difference(("a", "b"), ("a", "c")) == "class 1 is 'b' here and 'c' there"
    assert first_difference(("a",), ("a", "c")) == "class 1 is missing here and 'c' there"
    assert "'\\ufeffa' here and 'a' there" in first_difference(("\ufeffa",), ("a",))
    found = first_difference(CITYSCAPES.names, CAMVID.names)
    assert found == "class 0 is 'road' here and 'sky' there"


def test_never_occurring(read):
    classes = read("ground\nthing\nwall\n")
    assert never_occurring(classes, [1, 2, 3], 7) is None
    assert never_occurring(classes, [0, 0, 0], 0) is None
    assert never_occurring(classes, [0, 0, 0], 5).startswith("all pixels of the labels are ignored")
    assert "2 of 3 classes never occur: thing, wall; 255 is ignored, so save masks" in (
        never_occurring(classes, [9, 0, 0], 4)
    )
    assert "1 of 3 classes never occur: ground; if the ids start at 1" in (
        never_occurring(classes, [0, 4, 4], 0)
    )
    assert never_occurring(CAMVID, [0] + [1] * 10, 4) == "1 of 11 classes never occur: sky"
