"""`tests.harness.terminals` follows a correct page and fails an incorrect one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.harness import terminals
from tests.harness.markdown import MarkdownPage
from tests.harness.terminals import Reader


def follow(tmp_path: Path, text: str) -> Path:
    """Follows a page; returns its folder."""
    reader = Reader(MarkdownPage.of("page.md", text), tmp_path, {})
    reader.follow()
    return reader.folder


def test_files_commands_and_outputs_are_followed(tmp_path: Path) -> None:
    folder = follow(
        tmp_path,
        """
```python title="app/hello.py"
import sys
print("hello", sys.argv[1])
print("0123456789abcdef0123 at 2026-01-01 10:00:00 UTC took 3.1 ms")
```

- Indented, as in a list:

  ```bash
  cd app
  export WHO=you
  ```

```bash
python hello.py $WHO
```

```text
hello y...
fedcba98765432100000 at 2020-12-31 23:59:59 UTC took 17 ms
```

<!-- test:file app/hidden.txt
x --\\> y
-->
""",
    )
    assert (folder / "app" / "hidden.txt").read_text() == "x --> y\n"


@pytest.mark.parametrize("shown", ["one", "one\ntwo\nthree", "one\nTwo", "two\none", "", "one\n...\nthree"])
def test_a_wrong_output_is_reported(tmp_path: Path, shown: str) -> None:
    with pytest.raises(AssertionError, match=r"page.md:6: actual output"):
        follow(tmp_path, f"```bash\necho one; echo two\n```\n\n\n```text\n{shown}\n```\n")


def test_dots_match_any_lines(tmp_path: Path) -> None:
    follow(tmp_path, "```bash\necho one; echo two; echo three\n```\n```text\none\n...\n```\n")
    assert not (tmp_path / "work" / "one").exists()


@pytest.mark.parametrize("commands", ["false; true", "false | cat", "python -c 'raise SystemExit(3)'"])
def test_a_failing_command_is_reported(tmp_path: Path, commands: str) -> None:
    with pytest.raises(AssertionError, match=r"page.md:1: exit code"):
        follow(tmp_path, f"```bash\n{commands}\n```\n")


def test_a_command_that_should_fail_but_succeeds_is_reported(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"page.md:2: exit code 0"):
        follow(tmp_path, "<!-- test: exits 1 -->\n```bash\ntrue\n```\n")
    (tmp_path / "again").mkdir()
    follow(tmp_path / "again", "<!-- test: exits 3 -->\n```bash\nexit 3\n```\n")


FOREVER = """
```bash title="Terminal 1"
echo started 42; exec python -c 'import signal; signal.pause()'
```

```text
started 42
```
"""


def test_a_terminal_runs_until_ctrl_c_and_its_output_can_be_named(tmp_path: Path) -> None:
    follow(
        tmp_path,
        FOREVER.replace("exec python -c 'import signal; signal.pause()'", "exec sleep 600")
        + """
<!-- test: let NUMBER = started (\\d+) -->
```bash
echo NUMBER
```

```text
42
```

<!-- test: ctrl-c Terminal 1 -->
```bash title="Terminal 1"
echo again
```

```text
again
```
""",
    )


def test_a_program_that_fails_at_ctrl_c_is_reported(tmp_path: Path) -> None:
    stubborn = "exec python -c 'import signal, sys; signal.signal(2, lambda *_: sys.exit(9)); signal.pause()'"
    page = FOREVER.replace("exec python -c 'import signal; signal.pause()'", stubborn)
    page = page.replace("echo started 42; ", "").replace("started 42", "")
    page = page.replace("signal.pause()", 'print("ready", flush=True); signal.pause()').replace(
        "```text\n\n", "```text\nready\n"
    )
    with pytest.raises(AssertionError, match="Terminal 1: Ctrl-C ended it with 9"):
        follow(tmp_path, page)


def test_a_missing_output_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminals, "DEADLINE", 1.0)
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"page.md:6: actual output:\nstarted 42"):
        follow(tmp_path, FOREVER.replace("```text\nstarted 42", "```text\nfinished"))
    assert time.monotonic() - started < 20


def test_a_command_that_ends_early_is_reported(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"page.md:4: ended after printing\nx"):
        follow(tmp_path, '```bash title="Terminal 1"\necho x\n```\n```text\ny\n```\n')


def test_pip_accepts_only_installed_distributions(tmp_path: Path) -> None:
    follow(tmp_path, "```bash\npip install 'polos-redis[embedded,server]' pytest\n```\n")
    for wrong in ("polos-redis[nothing]", "no-such-distribution-1", "polos-redis>=99"):
        folder = tmp_path / wrong
        folder.mkdir()
        with pytest.raises(AssertionError, match=r"page.md:1: exit code 1"):
            follow(folder, f"```bash\npip install '{wrong}'\n```\n")


def test_a_port_is_replaced_and_shown_unchanged(tmp_path: Path) -> None:
    folder = follow(
        tmp_path,
        """
```bash
echo port 8000 | tee port.txt
```

```text
port 8000
```
""",
    )
    assert (folder / "port.txt").read_text() != "port 8000\n"
