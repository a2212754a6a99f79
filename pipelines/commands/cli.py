"""The `maskmill` command: parses, calls one command, turns errors into messages and exit codes.

Only the standard library is imported here, so that `--help` answers at once; each command imports what it needs.
"""

import argparse
import importlib
import json
import logging
import os
import signal
import sys
from types import FrameType, ModuleType

from maskmill.pipelines.commands.options import LateParser
from maskmill.schemas.command import DONE, INTERRUPTED, run_command, unknown_command
from maskmill.schemas.errors import InputError

TOO_MANY_FAILURES = 3  # an exit code; the others are those of errors and of `schemas.command`

COMMANDS = {
    "plan": "count inputs, time a sample, say hours and bytes; builds nothing",
    "build": "build a mask dataset, or resume one",
    "cluster": "ask a cluster, before a build, for all that the build needs of it",
    "status": "how far a build is, from any machine",
    "retry": "build again the parts in which images failed",
    "report": "make the mask-quality report again, or measure against other annotations",
    "compare": "compare the mask quality of two datasets, image by image",
    "validate": "check every byte and record of a dataset against its manifest",
    "view": "draw one image with its masks and ground truth",
    "export": "write a dataset in another tool's form: COCO, webdataset, Hugging Face, label PNGs",
    "import": "build a dataset whose masks were made elsewhere: COCO results, SAM, MCG, label PNGs",
    "masks": "list the mask generators: layers, parameters, packages, cost",
    "ranker": "train the models of mcg from your own annotated pictures",
    "warmup": "compile the kernels once per machine, for worker images",
}

_EPILOG = """\
exit codes: 0 done; 1 internal error; 2 wrong use; 3 done, but too many images failed; 4 an input or the output cannot be
read or written; 5 validation failed; 130 interrupted (the same command resumes)"""


def _module(command: str) -> ModuleType:
    # `import` is a keyword, so nobody could import a module of that name
    name = "import_masks" if command == "import" else command
    return importlib.import_module(f"maskmill.pipelines.commands.{name}")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every command. Options are declared by `pipelines.commands.NAME.add_options`."""
    parser = argparse.ArgumentParser(
        prog="maskmill",
        description="Build and inspect object-mask datasets: FH, MCG-style, grids and ground truth, as sharded TFRecords.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=LateParser)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        _module(name).add_options(command)
    return parser


def split_beam_args(argv: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those after the first `--`, which are Beam's."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    own, beam_args = split_beam_args(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if unknown := unknown_command(own, COMMANDS):
        print(f"maskmill: {unknown}", file=sys.stderr)
        return 2
    try:
        args = parser.parse_args(own)
    except SystemExit as stop:  # argparse prints its own message
        return int(stop.code or 0)
    if args.version:
        from maskmill.pipelines.parts.provenance import versions

        print("maskmill", versions()["maskmill"])
        return DONE
    if not args.command:
        parser.print_help()
        return 2
    if beam_args and args.command not in ("build", "cluster", "import", "ranker", "report"):
        print(f"maskmill: arguments after -- are for Beam; {args.command} runs no Beam job of yours", file=sys.stderr)
        return 2
    args.beam_args = beam_args
    _set_up_logging(args.debug)
    command = _module(args.command)
    return run_command(
        "maskmill",
        lambda: command.run(args),
        debug=args.debug,
        interrupted="\nmaskmill: interrupted",
        trace="\nRun with --debug for the traceback.",
    )


def _set_up_logging(debug: bool) -> None:
    """Log lines look like our messages.

    Three things that Beam says are left out: its remark on a BigQuery client that nobody here uses, and of a failed job the
    stack of the step that failed, and what job servers in Java tell, a page of theirs. The cause is in the exception that
    follows, and in our sentence.
    """
    logging.basicConfig(level=logging.WARNING, format="maskmill: %(message)s")

    def wanted(record: logging.LogRecord) -> bool:
        of_a_job_server = record.name == "root" and record.module == "portable_runner"
        of_a_step = record.name.startswith("apache_beam.runners") and bool(record.exc_info)
        return "apitools not found" not in record.getMessage() and (debug or not (of_a_job_server or of_a_step))

    for handler in logging.getLogger().handlers:
        handler.addFilter(wanted)


def on_interrupt(how_to_resume: str) -> None:
    """Makes Ctrl-C and a polite kill end this process at once, with a word on how to go on.

    At once is safe: whatever is not committed does not exist for the next run. Waiting for threads of Beam would not be.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        chained = signal.getsignal(signal.SIGINT)
        if number == signal.SIGTERM and callable(chained) and chained is not stop:
            # Beam ends the job servers that it started here on Ctrl-C only, and then calls us.
            chained(signal.SIGINT, frame)
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar may have hidden it
        os.write(2, f"{cursor}\nmaskmill: interrupted; {how_to_resume}\n".encode())
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def end_at_once(message: str) -> None:
    """Ends this process with a sentence and the code of an input, or output, that cannot be used.

    For threads, where others wait for storage that will not answer: no exception would reach them. At once is safe, as it is
    in `on_interrupt`.
    """
    os.write(2, f"\nmaskmill: {message}\n".encode())
    os._exit(InputError.exit_code)


def print_json(value: object) -> None:
    """One JSON document on stdout, for scripts."""
    print(json.dumps(value, indent=1, sort_keys=True))


if __name__ == "__main__":
    sys.exit(main())
