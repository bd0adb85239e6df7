"""The command line: verbs and their flags, a mistake in one line, errors as exit codes.

A verb is a `Verb`: its words for the help, the function that adds its flags to a parser, and the
function that does it. What a launcher offers is a `Program`, and `main` runs it. The flags stand
beside what the verb does, in the verbs.py of a package, which imports what is heavy inside its
functions: so `--help` and a mistyped flag are answered without JAX.
"""

import argparse
import io
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from rnnlab.errors import OutOfMemoryError, RnnlabError, exhausted, one_line, out_of_memory
from rnnlab.run import environment, places, signals


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"rnnlab: {one_line(message)} (see {self.prog} --help)\n")


class Call(NamedTuple):
    """What a verb is called with."""

    flags: argparse.Namespace
    overrides: list[str]  # "key=value" of each --config.KEY=VALUE, in their order
    program: "Program"


class Verb(NamedTuple):
    """One verb of the command line."""

    name: str
    summary: str  # a phrase, for the list of verbs
    details: str  # sentences, which follow the summary in the verb's own help
    add_flags: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Call], int | None]  # its exit code, None for 0; raises an RnnlabError
    configurable: bool = False  # whether it takes --config.KEY=VALUE
    writes_into: bool = False  # whether it writes into a folder --workdir that is there already


class Program(NamedTuple):
    """What a launcher offers, and how to start it again."""

    name: str  # how it is started, as the help shows it
    description: str
    epilog: str  # in which {start} stands for the name
    verbs: Sequence[Verb]
    prepare: Callable[[], None]  # sets up the process, once the flags are known to be right
    command: tuple[str, ...]  # the words that start it in another process


def main(program: Program, arguments: list[str]) -> int:
    """Run the verb that the arguments name; the exit code.

    Raises SystemExit for bad flags, with code 2, and after --help.
    """
    try:
        return run(program, arguments)
    except KeyboardInterrupt:  # in a process that is not `launch`ed: a notebook's, a test's
        print(signals.INTERRUPTED, end="", file=sys.stderr)
        return 130


def launch(program: Program, arguments: list[str]) -> NoReturn:
    """`main` as a process of its own, to its end; after `signals.end_process`."""
    try:
        code = run(program, arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        signals.leave(signal.SIGINT)
    signals.end_with(code)


def run(program: Program, arguments: list[str]) -> int:
    """`main` but for an interrupt, which it lets pass."""
    overrides, rest = split(arguments)
    top = parser(program)
    flags = top.parse_args(rest)
    verb = next(verb for verb in program.verbs if verb.name == flags.verb)
    if overrides and not verb.configurable:
        *names, last = [v.name for v in program.verbs if v.configurable]
        top.error(f"--config.KEY is for {', '.join(names)} and {last}, not for {verb.name}")

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character of the text
    try:
        environment.check_system()
        for name, value in vars(flags).items():
            if isinstance(value, places.Place):
                value.check(f"--{name}")
        program.prepare()
        if verb.writes_into and flags.workdir:
            _refuse_links(Path(flags.workdir))
        return verb.run(Call(flags, overrides, program)) or 0
    except RnnlabError as error:
        print(f"rnnlab: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has gone, `| head` say
        sys.stderr.close()
        return 0
    except OSError as error:
        print(f"rnnlab: {one_line(error)}", file=sys.stderr)
        return 5
    except Exception as error:
        if exhausted(error):
            print(f"rnnlab: {out_of_memory(error)}", file=sys.stderr)
            return OutOfMemoryError.exit_code
        if told := environment.fault():
            print(f"rnnlab: {one_line(told)}", file=sys.stderr)
            return 2
        raise


def line(verb: str, *words: object) -> str:
    """A command to be copied: as this process was started, then the verb and its flags, quoted for a
    shell."""
    return " ".join([*started(), verb, *(quoted(str(word)) for word in words)])


def started() -> list[str]:
    """The words that start the launcher, as a person types them."""
    begun = Path(sys.argv[0])
    if begun.name == "__main__.py" and begun.parent.name == "rnnlab":
        return ["python", "-m", "rnnlab"]
    if begun.name == "rnnlab":  # the script of the installed package
        return ["rnnlab"]
    checkout = Path(__file__).resolve().parents[2] / "launch.py"
    return ["python", "launch.py"] if checkout.is_file() else ["python", "-m", "rnnlab"]


def quoted(word: str) -> str:
    """A word as a shell reads it. What a message on one line would change - newlines, two spaces - is in
    the quotes that bash, zsh and ksh have for such."""
    if word.isprintable() and not re.search(r"\s{2}|[^\S ]", word):
        return shlex.quote(word)
    kept = (c if c.isprintable() and c not in " \\'" else _escaped(c) for c in word)
    return f"$'{''.join(kept)}'"


def _escaped(character: str) -> str:
    content = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in content)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(config overrides as "key=value", all other arguments)."""
    overrides, rest = [], []
    words = iter(arguments)
    for word in words:
        if word.startswith("--config."):
            key, separator, value = word.removeprefix("--config.").partition("=")
            if not separator:
                value = next(words, None)
                overrides.append(key if value is None else f"{key}={value}")
            else:
                overrides.append(f"{key}={value}")
        else:
            rest.append(word)
    return overrides, rest


def parser(program: Program) -> Parser:
    """The parser of all verbs; the name of the one that is given is `verb` in its flags."""
    top = Parser(
        prog=program.name,
        description=program.description,
        epilog=program.epilog.format(start=program.name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in program.verbs:
        summary = verb.summary
        sub = verbs.add_parser(
            verb.name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {verb.details}",
            allow_abbrev=False,
        )
        verb.add_flags(sub)
    return top


def no_flags(parser: argparse.ArgumentParser) -> None:
    """Of a verb that has none."""


def _refuse_links(folder: Path) -> None:
    """Raises UsageError if something would be written through a link in the folder, or in those in
    it; its checkpoints are not written."""
    from rnnlab.run.folder import no_links

    inner = (path for path in folder.glob("*/") if path.name != "checkpoints")
    no_links([folder, *inner])
