"""What a page of documentation asks its reader to run: blocks of Python, and commands."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

# What marks a block that needs the network or a real model: a comment before it, which
# may end the heading above.
FENCE = re.compile(r"(<!-- real -->\n+)?```(\w*)\n(.*?)```", re.DOTALL)
PYTHON = re.compile(r"```python\n.*?```", re.DOTALL)
# A command on a line of its own: in a fenced block, or indented by four spaces.
COMMAND = re.compile(r"^(?: {4})?((?:python|pytest|pip|git) .*)$", re.MULTILINE)
# A command within a sentence, in backquotes.
INLINE_COMMAND = re.compile(r"`(python [^`\n]+)`")
# The target of a link, without the place in the page.
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


class Block(NamedTuple):
    """A block of Python."""

    code: str
    is_real: bool


def read(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


def all_pages() -> list[Path]:
    """Return the README, the pages of docs/, and the page for contributors."""
    docs = sorted((ROOT / "docs").glob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs]


def python_blocks(page: Path) -> list[Block]:
    """Return the Python blocks of a page, in order."""
    blocks = []
    for mark, language, code in FENCE.findall(read(page)):
        if language == "python":
            blocks.append(Block(code, is_real=bool(mark)))
    return blocks


def commands(page: Path) -> list[list[str]]:
    """Return the commands of a page as words, those joined by && apart.

    Comments are left out.
    """
    # A script in a block of Python may quote commands that are not there yet.
    text = PYTHON.sub("", read(page))
    lines = COMMAND.findall(text)
    lines += INLINE_COMMAND.findall(text)
    result = []
    for line in lines:
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            result.append(words)
    return result


def links(page: Path) -> list[str]:
    """Return the targets of a page's links to files of the repository."""
    targets = []
    for target in LINK.findall(read(page)):
        # No test asks the network.
        if not target.startswith("http"):
            targets.append(target)
    return targets
