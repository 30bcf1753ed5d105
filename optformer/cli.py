"""Placeholder until the command line is written."""


def main() -> int:
    return 0
