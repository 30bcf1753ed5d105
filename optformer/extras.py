"""Optional libraries: the error if one is missing, which names the extra that installs it."""

import contextlib
import importlib.util
from collections.abc import Iterator


class MissingExtraError(ModuleNotFoundError):
    """A library is not installed.  The message names the library, what needs it, and how to install it."""


@contextlib.contextmanager
def from_extra(extra: str, user: str) -> Iterator[None]:
    """Context manager around imports of libraries that an extra installs.

        with from_extra("train", user="training"):
            import optax

    Also works as a decorator.  Of nested blocks, the innermost one determines the message.

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
            raise  # a missing module of this package: installing an extra would not help
        raise _missing(extra, user, error.name) from error
    except ImportError as error:  # Ray without its extra `tune` raises this
        message = f"{user} needs libraries that cannot all be imported ({error}): {install_command(extra)}"
        raise MissingExtraError(message, name=error.name) from error


def require(library: str, extra: str, user: str) -> None:
    """Checks that a library is installed, without importing it.

    Args:
      library: name of the module.
      extra, user: as for `from_extra`.

    Raises:
      MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec(library) is None:
        raise _missing(extra, user, library)


def install_command(extra: str) -> str:
    """The shell command that installs the extra."""
    return f"pip install 'optformer[{extra}]'"


def _missing(extra: str, user: str, library: str | None) -> MissingExtraError:
    return MissingExtraError(
        f"{user} needs {library!r}, which is not installed: {install_command(extra)}", name=library
    )
