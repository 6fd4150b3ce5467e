"""The Python on the core's page runs, and prints what the page says."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "revcol_nlp/columns/README.md"


def test_your_own_columns(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    shapes, difference = capsys.readouterr().out.splitlines()
    assert f"# {shapes}\n" in code
    assert float(difference) <= 1e-6
