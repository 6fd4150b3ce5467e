"""The plugin on the page, with a level network of its own, trains with fairseq-train."""

import re
import shlex
from pathlib import Path

from tests.helpers.checkpoints import load
from tests.helpers.fairseq_commands import RunFairseq

PAGE = Path(__file__).parents[2] / "revcol_nlp/README.md"


def test_a_plugin_with_levels_of_its_own_trains_and_translates(
    tmp_path: Path, toy_data: Path, run_fairseq: RunFairseq
) -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Levels of your own")[2]
    code = re.search(r"```python\n(.*?)```", section, re.S)[1]
    plugin = tmp_path / "my_columns"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(code)
    command = re.search(r"```bash\nfairseq-train (.*?)```", section, re.S)[1]
    words = shlex.split(command.replace("\\\n", " "))
    here = {"DATA": str(toy_data), "my_columns": str(plugin)}
    run_fairseq(
        *("train", *(here.get(word, word) for word in words)),
        *("--num-workers", "0", "--save-dir", tmp_path / "run"),
    )
    checkpoint = tmp_path / "run/checkpoint_last.pt"
    names = load(checkpoint)["model"].keys()
    assert "encoder.revcol.columns.5.levels.3.network.conv.weight" in names
    assert "encoder.revcol.columns.0.levels.0.gamma" not in names
    done = run_fairseq(
        *("generate", toy_data, "--user-dir", plugin, "--path", checkpoint, "--cpu"),
        *("--beam", "1", "--max-len-b", "10"),
    )
    assert done.stdout.count("\nH-") == 60
