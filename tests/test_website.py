"""The documentation site's pages, without Zensical: `make docs` builds them, strictly."""

import json
import re

import check_site
import model_cards
import pytest
import website
import yaml

import kseg
from kseg.networks import cgnet
from kseg.training.recipes import RECIPES
from kseg.zoo import VARIANTS
from support import ROOT, code_blocks


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return website.pages()


def test_every_network_has_a_card(pages):
    for name in kseg.list_models():
        text = pages[f"models/{name}.md"]
        assert text.startswith(f"# {name}\n")
        # The parameters of the row, and both kinds of file.
        assert f"{VARIANTS[name].parameters:,}, with" in text
        assert "## TensorFlow Lite: CPU and GPU accelerator" in text
        assert "## ONNX Runtime" in text
        assert f"({name}.md)" in pages["models/index.md"]


def test_facts_of_a_card(pages):
    text = pages["models/cgnet_m3n21.md"]
    assert "[arXiv:1811.08201](https://arxiv.org/abs/1811.08201)" in text
    assert "[github.com/wutianyiRosun/CGNet](https://github.com/wutianyiRosun/CGNet)" in text
    assert "`camvid-train:cgnet_m3n21` comes with kseg: trained on camvid train, 71.36 %" in text
    assert "is for research; so are weights trained on it" in text
    assert "| `n` | `21` |" in text
    assert "## Recipe cgnet_cityscapes" in text
    # Of the table: w8 of the shipped weights.
    assert "| w8 | 71.35 | -0.01 | 729 | 558 |" in text
    for title, recipe in RECIPES.items():
        assert f"## Recipe {title}\n" in pages[f"models/{recipe.values['model']}.md"]


def test_a_new_row_and_a_new_table(monkeypatch, tmp_path):
    """Need no hand: a network that no table has, a table that no code names."""
    monkeypatch.setitem(VARIANTS, "new_network", cgnet.VARIANTS["cgnet_m3n15"])
    monkeypatch.setattr(model_cards.table, "RESULTS", tmp_path)
    (tmp_path / "half.csv").write_text("model,loss\nnew_network,0.25\nenet,a|b\n")
    made = model_cards.pages()
    assert "## half\n" in made["models/new_network.md"]
    assert "| loss |\n| --- |\n| 0.25 |" in made["models/new_network.md"]
    assert r"| a\|b |" in made["models/enet.md"]
    assert "[new_network](new_network.md)" in made["models/index.md"]


def test_the_readme_is_split(pages):
    """Sections with pages of their own, and the table of networks left to the cards."""
    for title, path in website.SECTIONS.items():
        assert pages[path].startswith(f"# {title}\n")
        assert f"## {title}\n" not in pages["index.md"]
    assert "| cgnet_m3n21 |" not in pages[website.SECTIONS["What a model is"]]


def test_links():
    found = {"README.md": "index.md", "docs/a.md": "a.md", "results/x.csv": "results/x.csv"}
    text = "[a](../a.md#b) [x](../../results/x.csv) [s](../../README.md#how-scores-are-made)"
    text += " [r](../../README.md#install) [w](https://w.org) [h](#here) [m](../../Makefile)"
    assert website.for_site(text, "docs/ko/b.md", "ko/b.md", found) == (
        "[a](../a.md#b) [x](../results/x.csv) [s](../scores.md) [r](../index.md#install) "
        "[w](https://w.org) [h](#here) m"
    )
    with pytest.raises(ValueError, match=r"docs/ko/b\.md: the link gone\.md leads nowhere"):
        website.for_site("[g](gone.md)", "docs/ko/b.md", "ko/b.md", found)


def test_navigation(pages):
    entries = [{"First": ["index.md", "m/"]}, {"Rest": ["*", "z.md"]}]
    paths = ["index.md", "m/b.md", "m/index.md", "m/a.md", "z.md", "c.md"]
    assert website.navigation(entries, paths) == [
        {"First": ["index.md", "m/index.md", "m/a.md", "m/b.md"]},
        {"Rest": ["c.md", "z.md"]},
    ]
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = re.findall(r"[\w/.-]+\.md", json.dumps(website.navigation(settings["nav"], [*pages])))
    assert sorted(named) == sorted(pages)


def test_split_names():
    source = """
    def f(self, height: int) -> None:
        x, y: int
    Args:
        size: of it.
        height, width: of the input,
            in pixels.
        *args, **kwargs: the rest.
    """
    assert (
        website.split_names(source)
        == """
    def f(self, height: int) -> None:
        x, y: int
    Args:
        size: of it.
        height: of the input,
            in pixels.
        width: of the input,
            in pixels.
        *args: the rest.
        **kwargs: the rest.
    """
    )


def test_notebook():
    """Its cells of code are the page's blocks."""
    path = ROOT / "docs" / website.TUTORIAL
    cells = website.notebook(path.read_text())["cells"]
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    assert code == [block.text.strip() for block in code_blocks(path)]
    text = [cell["source"] for cell in cells if cell["cell_type"] == "markdown"]
    assert text[0].startswith("# From a folder")
    assert not any("```python" in cell for cell in text)


def test_faults_of_a_site(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="b.html#y">b</a> <a href="gone.html">c</a> <a href="#z">d</a>'
        '<a href="https://e.org">e</a><script src="https://cdn.org/f.js"></script><img src="g.png">'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#x">a</a>')
    assert check_site.faults(tmp_path) == [
        "a.html: loads https://cdn.org/f.js",
        "a.html: b.html#y has no such anchor",
        "a.html: gone.html is not there",
        "a.html: #z has no such anchor",
        "a.html: g.png is not there",
    ]
    assert check_site.faults(tmp_path / "empty") == [f"{tmp_path / 'empty'}: has no pages"]
