"""The commands of `optformer`, one module each.

Each has `add_arguments(parser)` and `run(arguments)`, which returns the exit code.  They import the other packages
inside functions, so that `--help` is quick.  User errors are raised as ValueError or OSError; the command line turns
them into one line on stderr and exit code 2.
"""
