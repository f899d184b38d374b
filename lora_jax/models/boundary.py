"""Where errors about somebody else's file become one kind of error, with its name."""

from collections.abc import Iterator
from contextlib import contextmanager

# In characters: a value in a message may be a list of a million numbers.
MAX_LINE = 400


@contextmanager
def errors_about(source: str) -> Iterator[None]:
    """Turn errors into a ValueError that begins with `source`, in lines of a length.

    Errors of the system, such as a file that is not there, stay as they are. All others
    are about values that nobody expected, whatever Python calls them.
    """
    try:
        yield
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"{source}: {_clip(error)}") from None
    except Exception as error:
        name = type(error).__name__
        raise ValueError(
            f"{source}: expected the values of a model, got others ({name}: "
            f"{_clip(error)}); fetch the files again"
        ) from None


def _clip(error: Exception) -> str:
    lines = []
    for line in str(error).split("\n"):
        is_long = len(line) > MAX_LINE
        lines.append(f"{line[:MAX_LINE]} ..." if is_long else line)
    return "\n".join(lines)
