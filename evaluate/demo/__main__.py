"""`python -m optformer.evaluate.demo`, which `make demo` calls."""

import argparse
from pathlib import Path

from rich.console import Console

from optformer.evaluate.demo.run import run_demo


def main() -> None:
    parser = argparse.ArgumentParser(description="The main job end to end; see the docstring of the package.")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for log, model, pictures")
    parser.add_argument("--train-minutes", type=float, default=3.0, help="limit of the fine-tuning")
    arguments = parser.parse_args()
    run_demo(arguments.out, arguments.train_minutes, Console())


if __name__ == "__main__":
    main()
