"""Libraries that only some uses need: what is said where one is missing, and which extra of the package brings it."""

import contextlib
import importlib.util
from collections.abc import Iterator


class MissingExtraError(ModuleNotFoundError):
    """A library is not installed.  The message names the library, what needs it, and how to install it."""


@contextlib.contextmanager
def from_extra(extra: str, user: str) -> Iterator[None]:
    """Around imports of libraries that an extra brings.

        with from_extra("train", user="training"):
            import optax

    It decorates functions as well.  Where such blocks are nested, the innermost one speaks.

    Args:
      extra: its name in `pyproject.toml`.
      user: what needs the libraries; the message begins with it.

    Raises:
      MissingExtraError: an import failed.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except ModuleNotFoundError as error:
        if (error.name or "optformer").partition(".")[0] == "optformer":
            raise  # a fault of ours, which no installation mends
        raise _missing(extra, user, error.name) from error
    except ImportError as error:  # Ray without its extra `tune` raises this
        message = f"{user} needs libraries that cannot all be imported ({error}): {install_command(extra)}"
        raise MissingExtraError(message, name=error.name) from error


def require(library: str, extra: str, user: str) -> None:
    """Checks, without importing it, that a library is there that will be needed later.

    Args:
      library: name of the module.
      extra, user: as for `from_extra`.

    Raises:
      MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec(library) is None:
        raise _missing(extra, user, library)


def install_command(extra: str) -> str:
    """What to type in a shell."""
    return f"pip install 'optformer[{extra}]'"


def _missing(extra: str, user: str, library: str | None) -> MissingExtraError:
    return MissingExtraError(
        f"{user} needs {library!r}, which is not installed: {install_command(extra)}", name=library
    )
