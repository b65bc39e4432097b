# ruff: noqa: E501 (tables of code and texts)
"""What may be said of an exception: everything the researcher wrote, nothing of a patient."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from flip_fl.app.redact import scrub
from flip_fl.app.vocabulary import Vocabulary
from tests.support.app import TableSource, run, write_app

# Values of one row. Some are plain words: a patient's name or diagnosis may be in any dictionary.
CANARY = {
    "name": "Zorkmid Quvenzhane",
    "accession_id": "ACC0098817263",
    "diagnosis": "melancholia",
    "nhs": "943 476 5919",
    "born": "1931-07-14",
    "age": "87",
    "note": "fell off the ladder not in index",
    "odd": "?!x",
    "unicode": "Žižková",
}
COHORT = pd.DataFrame({name: [value] for name, value in CANARY.items()})

WAYS = {
    "float": "float(value)",
    "int": "int(value)",
    "key": "{}[value]",
    "key in a dict with keys": "{'benign': 0}[value]",
    "f-string": "raise ValueError(f'bad value {value!r} in this row')",
    "percent": "raise ValueError('bad value %s in this row' % value)",
    "concatenated": "raise RuntimeError('bad value ' + value)",
    "value alone": "raise RuntimeError(value)",
    "many arguments": "raise RuntimeError('bad', value, 17)",
    "a row": "raise ValueError(site.cohort().iloc[0].to_dict())",
    "a table": "raise ValueError(str(site.cohort()))",
    "own class": "class RowError(Exception):\n        pass\n    raise RowError(value)",
    "made-up class": "raise type(value, (ValueError,), {})('x')",
    "attribute": "getattr(site, value)",
    "name": "eval(value)",
    "compiled": "exec('raise ValueError(%r)' % value)",
    "a file's name": "exec(compile('1/0', value, 'exec'))",
    "a function's name": "exec('def f%s(): 1/0\\nf%s()' % (abs(hash(value)), abs(hash(value))))",
    "import": "__import__(value)",
    "open": "open('/nowhere/' + value)",
    "module": "import importlib; importlib.import_module(value)",
    "json": "import json; json.loads(value)",
    "literal": "import ast; ast.literal_eval(value)",
    "cause": "try:\n        float(value)\n    except ValueError as error:\n        raise RuntimeError('cannot use it') from error",
    "context": "try:\n        {}[value]\n    except KeyError:\n        raise RuntimeError(value)",
    "note": "error = ValueError('bad')\n    error.add_note(value)\n    raise error",
    "group": "raise ExceptionGroup('several ' + value, [ValueError(value)])",
    "assertion": "assert value == 'fine', value",
    "unpack": "a, b = [value]",
    "list remove": "[].remove(value)",
    "list index": "[].index(value)",
    "exit": "import sys; sys.exit(value)",
    "str raises": "class E(Exception):\n        def __str__(self):\n            raise ValueError(value)\n    raise E()",
    "numpy": "import numpy as np; np.array([value]).astype(float)",
    "numpy dates": "import numpy as np; np.datetime64(value + 'x')",
    "column": "site.cohort()[value]",
    "loc": "site.cohort().loc[value]",
    "pandas float": "site.cohort()[column].astype(float)",
    "pandas to_numeric": "import pandas as pd; pd.to_numeric(site.cohort()[column] + 'x')",
    "pandas to_datetime": "import pandas as pd; pd.to_datetime(site.cohort()[column] + 'x')",
    "pandas query": "site.cohort().query(value)",
    "pandas merge": "site.cohort().merge(site.cohort(), on=value)",
    "pandas category": "import pandas as pd; pd.Categorical.from_codes([5], categories=[value])",
    "strptime": "import datetime; datetime.datetime.strptime(value, '%Y')",
    "decimal": "import decimal; decimal.Decimal(value + 'x')",
    "uuid": "import uuid; uuid.UUID(value)",
    "enum": "from flip_fl.values import ModelStatus; ModelStatus(value)",
    "torch tensor": "import torch; torch.tensor([value])",
    "torch device": "import torch; torch.device(value)",
    "torch module": "model.get_submodule(value)",
    "torch load": "model.load_state_dict({value: model.weight})",
    "worker": (
        "import torch\n"
        "    class Rows(torch.utils.data.Dataset):\n"
        "        def __len__(self): return 1\n"
        "        def __getitem__(self, i): raise ValueError('bad row: ' + value)\n"
        "    list(torch.utils.data.DataLoader(Rows(), num_workers=1))"
    ),
    "print and log": "import logging, warnings; print(value); logging.error(value); warnings.warn(value); 1/0",
    "house error": "from flip_fl.app.faults import AppError; raise AppError(value)",
    "house subclass": "from flip_fl.errors import FlipError\n    raise FlipError('E0102', problem=value, usage='')",
}  # fmt: skip


def pieces(value: str) -> list[str]:
    """The value and its telling parts."""
    return [value, *(part for part in re.split(r"[^\w]+", value) if len(part) >= 4 and part != "index")]


@pytest.mark.parametrize("way", WAYS)
def test_no_value_of_a_row_leaves_in_a_failure(way: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever raises over whichever value, the report names type and place but none of the row's values."""
    for column, value in CANARY.items():
        trainer = (
            "def train(model, site, config):\n"
            f"    column = {column!r}\n"
            "    value = site.cohort()[column].iloc[0]\n"
            f"    {WAYS[way]}\n"
            "    return {'num_examples': 1}\n"
        )
        app = write_app(tmp_path / f"{column}{len(way)}", trainer=trainer)
        result = run(app, source=TableSource(COHORT))
        shown = capfd.readouterr()
        failure = result.failure
        if failure is None:
            # Some of these values are fine as, say, an age or a name.
            assert result.ok
            continue
        said = repr((failure, result.events)) + shown.out + shown.err
        for piece in pieces(value):
            assert not re.search(rf"(?<![\w]){re.escape(piece)}(?![\w])", _without_ids(said)), (
                way,
                piece,
                failure.traceback,
            )
        assert 'File "trainer.py", line ' in failure.traceback or way in ("torch load",)


def _without_ids(said: str) -> str:
    """The text without event ids, times and line numbers, which are digits of our own."""
    return re.sub(r"'(id|at)': '[^']*'|line \d+|base \d+|index \d+|size \d+|at most \d+|withheld: \d+", "", said)


HELPFUL = {
    "float(site.cohort()['name'].iloc[0])": "ValueError: could not convert string to float: <value>",
    "site.cohort()['accession_no']": "KeyError: 'accession_no'",
    "model.wieght": "AttributeError: 'Linear' object has no attribute 'wieght'",
    "undefined_name": "NameError: name 'undefined_name' is not defined",
    "[][3]": "IndexError: list index out of range",
    "1 / 0": "ZeroDivisionError: division by zero",
    "import no_such_package": "ModuleNotFoundError: No module named 'no_such_package'",
    "len(3)": "TypeError: object of type 'int' has no len()",
    "1 + 'a'": "TypeError: unsupported operand type(s) for +: 'int' and 'str'",
    "import torch; model(torch.zeros(4, 3))": "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 2x1)",
    "import torch; torch.zeros(3) + torch.zeros(4)": "RuntimeError: The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0",
    "raise ValueError('the cohort has no women')": "ValueError: the cohort has no women",
    "raise ValueError(f'expected {2} columns, got {site.cohort().shape[1]}')": "ValueError: expected <value> columns, got <value>",
    "config['LEARNING_RATE']": "KeyError: 'LEARNING_RATE'",
    "site.images(site.cohort().drop(columns='accession_id'))": "ValueError: The provided dataframe does not contain an 'accession_id' column.",
    "train()": "TypeError: train() missing 3 required positional arguments: 'model', 'site', and 'config'",
    "import numpy as np; np.zeros(3) @ np.zeros(4)": "ValueError: <message withheld",
    "open('/nowhere/x')": "FileNotFoundError: [Errno 2] No such file or directory: <value>",
}


@pytest.mark.parametrize("code", HELPFUL)
def test_the_researcher_still_finds_the_bug(code: str, tmp_path: Path) -> None:
    """Ordinary mistakes keep type, words, place and source line."""
    app = write_app(tmp_path / "app", trainer=f"def train(model, site, config):\n    {code}\n    return 1\n")
    failure = run(app, source=TableSource(COHORT)).failure
    assert failure is not None
    assert failure.headline.startswith(HELPFUL[code])
    assert f'  File "trainer.py", line 2, in train\n    {code}' in failure.traceback


def test_chains_keep_python_s_layout(tmp_path: Path) -> None:
    """A cause stands before its effect, with the sentence that every Python programmer knows."""
    trainer = """
    def train(model, site, config):
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("training cannot start") from error

    def inner():
        raise ValueError("no rows")
    """
    failure = run(write_app(tmp_path / "app", trainer=trainer)).failure
    assert failure is not None
    first, second = failure.traceback.split(
        "\n\nThe above exception was the direct cause of the following exception:\n\n"
    )
    assert first.endswith("ValueError: no rows")
    assert failure.headline == "RuntimeError: training cannot start"
    assert second.splitlines()[0] == "Traceback (most recent call last):"


def test_paths_of_the_site_are_not_told(tmp_path: Path) -> None:
    """File names are relative to the app or to where packages lie: a home folder may be called by its owner."""
    app = write_app(tmp_path / "app", trainer="import pandas as pd\ndef train(m, s, c):\n    pd.Series([1])['x']\n")
    failure = run(app).failure
    assert failure is not None
    assert str(tmp_path) not in failure.traceback
    assert 'File "pandas/core/series.py"' in failure.traceback


def test_a_deep_recursion_is_shortened(tmp_path: Path) -> None:
    """A thousand equal frames do not push the beginning and the end out of the report."""
    app = write_app(tmp_path / "app", trainer="def train(m, s, c):\n    return train(m, s, c)\n")
    failure = run(app).failure
    assert failure is not None
    assert failure.headline == "RecursionError: maximum recursion depth exceeded"
    assert "frames …" in failure.traceback
    assert len(failure.traceback) < 8_000


def test_a_syntax_error_of_the_app_shows_its_line(tmp_path: Path) -> None:
    """Source that the researcher wrote is no data."""
    app = write_app(tmp_path / "app", trainer="def train(model, site, config):\n    retrun 1\n")
    failure = run(app).failure
    assert failure is not None
    assert failure.headline == "SyntaxError: invalid syntax (trainer.py, line 2): retrun 1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("row Smith of table left", "row <value> of table <value>"),
        ("row", "<message withheld: 3 characters>"),
        ("a row 12 34 56", "<value> row <value>"),
        ("arrow of tables", "<message withheld: 15 characters>"),
        ("x" * 5000, "<message withheld: 5000 characters>"),
    ],
)
def test_only_whole_pieces_of_code_count(text: str, expected: str) -> None:
    """A literal inside a longer word is no literal, and single words are only trusted with their neighbours."""
    words = {"row ", " of table "} if expected.count("row") else {"row of"}
    if text.startswith("a row"):
        words = {"row "}
    assert scrub(text, Vocabulary(words=words)) == expected
