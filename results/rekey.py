"""Give the rows of a folder their present keys: `python results/rekey.py FOLDER`.

A row's key is the hash of the settings that differ from the defaults. Rows are always
read by the key that their config has now; this brings the stored keys up to date after
a change of what a key is. Configs and metrics stay as they are, byte for byte.
"""

import json
import sys
from pathlib import Path

from lora_jax.experiment.config import key
from lora_jax.results import files


def rekeyed(line: str) -> str:
    row = json.loads(line)
    row["key"] = key(row["config"])
    return json.dumps(row, sort_keys=True, separators=(",", ":"))


def main(folder: Path) -> None:
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text().splitlines()
        new = [rekeyed(line) for line in lines]
        keys = {json.loads(line)["key"] for line in new}
        if len(keys) < len(new):
            sys.exit(f"{path}: two rows have one key; nothing was written")
        files.write(path, "\n".join(new) + "\n")
        changed = sum(old != line for old, line in zip(lines, new, strict=True))
        print(f"{path}: {changed} of {len(lines)} rows have a new key")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
