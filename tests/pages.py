"""What a page of documentation asks its reader to run: blocks of Python, and commands."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# What marks a block that needs the network or a real model: a comment before it, which
# may end the heading above.
FENCE = re.compile(r"(<!-- real -->\n+)?```(\w*)\n(.*?)```", re.DOTALL)
# A command on a line of its own: in a fenced block, or indented by four spaces.
COMMAND = re.compile(r"^(?: {4})?((?:python|pytest|pip|git) .*)$", re.MULTILINE)
# A command within a sentence, in backquotes.
INLINE_COMMAND = re.compile(r"`(python [^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


class Block(NamedTuple):
    """A block of Python."""

    code: str
    is_real: bool


def all_pages() -> list[Path]:
    """Return the README, the pages of docs/, and the page for contributors."""
    docs = sorted((ROOT / "docs").glob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs]


def python_blocks(page: Path) -> list[Block]:
    """Return the Python blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for mark, language, code in FENCE.findall(text):
        if language == "python":
            blocks.append(Block(code, is_real=bool(mark)))
    return blocks


def commands(page: Path) -> list[list[str]]:
    """Return the commands of a page as words, those joined by && apart.

    Comments are left out, and so are the blocks of Python.
    """
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)
    lines = COMMAND.findall(text) + INLINE_COMMAND.findall(text)
    result = []
    for line in lines:
        for part in line.split("&&"):
            result.append(shlex.split(part, comments=True))
    return result


def links(page: Path) -> list[str]:
    """Return the targets of a page's links to files of the repository."""
    text = page.read_text(encoding="utf-8")
    targets = LINK.findall(text)
    return [target for target in targets if not target.startswith("http")]
