"""The command line from beginning to end: a table is written, a model trained on it, used, and judged.

    python examples/command_line.py

Everything lies in a temporary folder that is gone afterwards; `--keep FOLDER` keeps it.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def write(path: Path, count: int, seed: int) -> None:
    """A table of penguins that never were: two measures, an island, and the species."""
    rng = np.random.default_rng(seed)
    species, islands = ["Adelie", "Chinstrap", "Gentoo"], ["Biscoe", "Dream"]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["bill_mm", "mass_g", "island", "species"])
        for kind in rng.integers(0, 3, count):
            bill, mass = rng.normal([38, 49, 47][kind], 2), rng.normal([3700, 3750, 5100][kind], 300)
            rows.writerow(
                [f"{bill:.1f}", f"{mass:.0f}", islands[int(rng.random() < (kind == 1) * 0.8 + 0.1)], species[kind]]
            )


def run(*arguments: str, folder: Path) -> str:
    """What `crossentropy ...` prints; it ends the example where it fails."""
    print(f"$ crossentropy {' '.join(arguments)}")
    done = subprocess.run(
        [sys.executable, "-m", "crossentropy", *arguments], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def main() -> None:
    """Train, predict, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "penguins.csv", 400, seed=0)
        write(folder / "more.csv", 100, seed=1)
        print(run("train", "--data", "penguins.csv", "--label", "species", "--out", "model", folder=folder))
        print("\n".join(run("predict", "model/model.skops", "more.csv", folder=folder).splitlines()[:4]), "…", sep="\n")
        print(run("evaluate", "model/model.skops", "more.csv", folder=folder))


if __name__ == "__main__":
    main()
