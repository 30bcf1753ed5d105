"""`python -m optformer.data.tfds ...`: TFDS's `build` command with `study_corpus` registered.

Takes the arguments of `tfds build`.  The program `tfds` (4.9.10) requires Apache Beam, because its other commands need
it; building a dataset does not.
"""

import sys

from absl import app
from tensorflow_datasets.scripts.cli import build, cli_utils

from optformer.data.tfds import study_corpus


def main(arguments: build.Args) -> None:
    try:
        arguments.execute()
    except (ValueError, OSError) as error:
        sys.exit(f"tfds build: error: {' '.join(str(error).split())}")


if __name__ == "__main__":
    # Referenced only because importing the module registers the builder.
    app.run(main, flags_parser=cli_utils.make_flags_parser(build.Args, description=str(study_corpus.__doc__)))
