"""What both commands do with the outcome of what they run: messages for people, exit codes for scripts."""

import os
import sys
from collections.abc import Callable, Iterable

from maskmill.schemas.errors import InputError, MaskmillError, did_you_mean

DONE, INTERNAL, INTERRUPTED = 0, 1, 130


def run_command(prog: str, run: Callable[[], int | None], *, debug: bool, interrupted: str, trace: str) -> int:
    """Runs a command; says on standard error in one line what stopped it.

    Args:
        prog: what the line begins with, the command's name.
        run: the command; returns its exit code, None for 0.
        debug: let errors through, for their traceback.
        interrupted: what to say after Ctrl-C.
        trace: what to say after a fault of ours: how to see where it is.

    Returns:
        The exit code: of the error's class for those meant for the user, 4 for a file that cannot be used, 130 after
        Ctrl-C, 1 for a fault of ours.
    """
    try:
        return run() or DONE
    except KeyboardInterrupt:
        return _say(interrupted, INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` is no failure
        return DONE
    except Exception as error:
        if debug:
            raise
        if isinstance(error, MaskmillError):
            return _say(f"{prog}: {error}", error.exit_code)
        if isinstance(error, OSError) and error.filename and error.strerror:
            return _say(f"{prog}: {error.filename}: {error.strerror}", InputError.exit_code)
        line = (str(error).strip().splitlines() or [""])[0][:300]
        return _say(f"{prog}: internal error: {type(error).__name__}: {line}{trace}", INTERNAL)


def unknown_command(argv: list[str], commands: Iterable[str]) -> str:
    """What is wrong with the first word, where it is none of the commands; "" where it is one, or there is none."""
    word = next((word for word in argv if not word.startswith("-")), None)
    if word is None or word in commands:
        return ""
    hint = did_you_mean(word, commands)
    known = ", ".join(commands)
    return f"there is no command {word!r}{hint + ' The' if hint else '; the'} commands are {known}"


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
