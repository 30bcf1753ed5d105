"""`python -m optformer.data.tfds ...`: TFDS's `build` command with `study_corpus` known to it.

Takes the arguments of `tfds build`.  The program `tfds` (4.9.10) starts only where Apache Beam is installed, whose
other commands need it; building a dataset does not.
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
    # Named here because nothing else refers to it: importing the module is what registers the builder.
    app.run(main, flags_parser=cli_utils.make_flags_parser(build.Args, description=str(study_corpus.__doc__)))
