# One command each, on a machine with Python 3.11 and git.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: test demo lint matrix kills fuzz docs wheel release audit clean

test: $(VENV)/installed lint
	$(RUN) -m pytest -n auto --dist loadfile

demo: $(VENV)/installed
	$(RUN) -m kseg demo

# mypy does not follow package_dir: build/typed has training and tflite where they are installed.
lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	rm -rf build/typed/kseg
	mkdir -p build/typed/kseg
	ln -s $(CURDIR)/kseg/* $(CURDIR)/training $(CURDIR)/tflite build/typed/kseg/
	cd build/typed && $(CURDIR)/$(RUN) -m mypy --config-file $(CURDIR)/setup.cfg --package kseg

# The site, in build/site, with the first tutorial as an executed notebook.
docs: $(VENV)/installed $(VENV)-docs/installed
	$(RUN) benchmarks/website.py
	JUPYTER_PATH=build/notebook/jupyter $(VENV)-docs/bin/jupyter execute --inplace build/notebook/*.ipynb
	cp build/notebook/*.ipynb build/docs/tutorials/
	rm -rf build/site
	$(VENV)-docs/bin/zensical build --strict --config-file build/mkdocs.yml
	$(RUN) benchmarks/check_site.py build/site

# build/lib would bring along modules that are no more.
wheel: $(VENV)/installed
	rm -rf build/lib dist
	$(RUN) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

# The wheel of a version, TAG=v0.1.0; the tag must be that of kseg/_version.py.
release: wheel
	test -f "dist/kseg-$(TAG:v%=%)-py3-none-any.whl"

# Hours for the whole zoo; killed, it goes on where it was.
matrix: $(VENV)/installed
	$(RUN) benchmarks/matrix.py
	$(RUN) benchmarks/pairs.py

# About four minutes of CPU time: commands killed at random moments, and what they write after that.
kills: $(VENV)/installed
	$(RUN) benchmarks/kills.py --seed 1

# About ten minutes: a thousand damaged files of each format that kseg reads.
fuzz: $(VENV)/installed
	$(RUN) benchmarks/fuzz.py

# Made anew when the pins or the package's metadata change.
$(VENV)/installed: requirements.txt requirements-hub.txt setup.cfg pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	$(RUN) -m pip install --quiet --no-deps -r requirements-hub.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# For the tests that run files in MediaPipe.
$(VENV)-mediapipe/installed: requirements-mediapipe.txt
	test -x $(VENV)-mediapipe/bin/python || $(PYTHON) -m venv $(VENV)-mediapipe
	$(VENV)-mediapipe/bin/pip install --quiet --no-deps -r requirements-mediapipe.txt
	touch $@

# For the tests of the Android app and of the web page: Kotlin's compiler and LiteRT.js.
.npm/installed: tests/kotlin/package.json tests/kotlin/package-lock.json tflite/web_page.py $(VENV)/installed
	mkdir -p .npm
	cp tests/kotlin/package.json tests/kotlin/package-lock.json .npm/
	npm ci --silent --prefix .npm
	cd .npm && npm pack --silent $$(../$(RUN) -c "from kseg.tflite.web_page import PACKAGES as p; print(*(x.name for x in p))")
	touch $@

# For the site: an environment of its own, so that it changes none of the suite's packages.
$(VENV)-docs/installed: requirements-docs.txt
	test -x $(VENV)-docs/bin/python || $(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/pip install --quiet -r requirements-docs.txt
	touch $@

# Known advisories of the pinned packages. It asks PyPI, so that it is no part of `make lint`.
audit:
	test -x $(VENV)-audit/bin/pip-audit || $(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --disable-pip --no-deps $(patsubst %,-r %,$(wildcard requirements*.txt))

clean:
	rm -rf $(VENV) $(VENV)-mediapipe $(VENV)-docs $(VENV)-audit .npm build dist *.egg-info runs
