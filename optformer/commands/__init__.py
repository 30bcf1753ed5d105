"""The commands of `optformer`, one module each.

Each has `add_arguments(parser)` and `run(arguments)`, which returns the exit code.  They reach every stage of the
project, by imports inside functions, so that `--help` is quick.  Mistakes are raised as ValueError or OSError; the
command line turns them into one line on stderr and exit code 2.
"""
