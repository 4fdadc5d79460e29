"""Cli: from the arguments to a verb, and from whatever goes wrong to one line and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from ringq import log
from ringq.cli import exit_codes
from ringq.cli.options import nearest
from ringq.cli.printing import table, visible
from ringq.errors import AlreadyServed, RingqError
from ringq.version import VERSION


class LazyGroup(click.Group):
    """A group whose verbs live in modules of their own: naming one imports it, listing all imports none."""

    def __init__(self, *args: Any, verbs: dict[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, in the order in which a newcomer needs them."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command."""
        if cmd_name not in self._verbs:
            return None
        module, _, attribute = self._verbs[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is no command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a verb that does not exist."""
        if args and args[0] not in self._verbs and not args[0].startswith("-"):
            ctx.fail(f"there is no verb {args[0]!r}{nearest(args[0], self._verbs)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs in `--help`, from the table alone."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in self._verbs.items()])


VERBS = {
    "serve": ("ringq.cli.serve:serve", "Run the server: own a database, run its tasks on all cores."),
    "submit": ("ringq.cli.submit:submit", "Submit one task, or many from NDJSON."),
    "map": ("ringq.cli.mapping:map_", "Call a task with each line of a pipe, on all cores."),
    "wait": ("ringq.cli.wait:wait", "Wait until tasks have ended; print how."),
    "task": ("ringq.cli.task:task", "List tasks, show one."),
    "tag": ("ringq.cli.tag:tag", "Find active tasks by their tags, and count them."),
    "queue": ("ringq.cli.queue:queue", "Limit, pause, resume queues."),
    "group": ("ringq.cli.group:group", "Limit, pause, resume groups; how they share the workers."),
    "domain": ("ringq.cli.domain:domain", "Limit, pause, resume the kinds of a domain."),
    "kind": ("ringq.cli.kind:kind", "Limit kinds."),
    "server": ("ringq.cli.server:server", "Limit, pause, resume everything."),
    "rate": ("ringq.cli.rate:rate", "Limit how often tasks start, or handlers call others."),
    "callback": ("ringq.cli.callback:callback", "End tasks that wait for somebody outside, by their tokens."),
    "schedule": ("ringq.cli.schedule:schedule", "Submit tasks again and again, by a cron line or an interval."),
    "history": ("ringq.cli.history:history", "List ended tasks, newest first."),
    "events": ("ringq.cli.events:events", "Follow what happens, or print what has happened."),
    "dead": ("ringq.cli.dead:dead", "List dead letters, give them another chance, or delete them."),
    "stats": ("ringq.cli.stats:stats", "Count and time ended tasks per kind and status."),
    "progress": ("ringq.cli.progress:progress", "Show how far running tasks are."),
    "health": ("ringq.cli.health:health", "Ask the server whether it is well."),
    "reload": ("ringq.cli.reload:reload", "Replace the workers by ones with fresh code."),
    "config": ("ringq.cli.config:config", "Show the settings of this project, and where each comes from."),
    "demo": ("ringq.cli.demo:demo", "Analyse the standard library, kill processes, lose nothing."),
    "bench": ("ringq.cli.bench:bench", "Measure ringq on this machine, beside others that do the same work."),
    "version": ("ringq.cli.version:version", "Print the versions of ringq and of what it stands on."),
}

_EPILOG = (
    "The database is named by --db, RINGQ_DB or db in the project's ringq.toml. RINGQ_DEBUG=1 adds the traceback to an "
    "error. Exit codes:\n\n\b\n" + "\n".join(f"{code:>5}  {meaning}" for code, meaning in exit_codes.MEANING.items())
)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        table(["", ""], [("ringq", VERSION)])
        context.exit()


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version of ringq."
)
def ringq() -> None:
    """A durable task queue for one host that uses every core of it."""


def run(args: Sequence[str]) -> int:
    """Run one verb; whatever it raises becomes one line on stderr and an exit code."""
    output = sys.stdout
    try:
        answer = ringq.main(args=list(args), prog_name="ringq", standalone_mode=False)
        sys.stdout.flush()
        return answer if isinstance(answer, int) else exit_codes.OK
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.NoArgsIsHelpError as unsaid:
        unsaid.show()
        return exit_codes.USAGE
    except SystemExit:  # click's answer to `ringq history | head`: the reader has seen enough
        if sys.stdout is output:
            raise
        _drop_output()
        return exit_codes.READER_LEFT
    except (click.Abort, KeyboardInterrupt):
        print("ringq: interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except Exception as error:
        return _tell(error)


def _tell(error: Exception) -> int:
    if os.environ.get("RINGQ_DEBUG", "").lower() not in ("", "0", "false", "no", "off"):
        traceback.print_exception(error)
    if isinstance(error, OSError) and _is_of_output(error):
        _drop_output()
        if isinstance(error, BrokenPipeError):
            return exit_codes.READER_LEFT
        error = OSError(error.errno, f"standard output: {error.strerror}")
    line, code = explain(error)
    if log.is_json():
        log.say(f"ringq: {line}", level="error")
    else:
        print(f"ringq: {line}", file=sys.stderr)
    return code


def explain(error: Exception) -> tuple[str, int]:
    """What went wrong as one printable line (what, where, what to do), and the exit code."""
    if isinstance(error, click.MissingParameter) and error.param is not None and error.param.name == "database":
        return "name the database: --db PATH, or set RINGQ_DB=PATH, or db in ringq.toml", exit_codes.USAGE
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "ringq"
        return f"{visible(error.format_message()).rstrip('.')} (see `{command} --help`)", exit_codes.USAGE
    if isinstance(error, click.ClickException):
        return visible(error.format_message()), exit_codes.USAGE
    code = exit_codes.exit_code(error)
    message = visible(str(error)) or type(error).__name__
    if isinstance(error, AlreadyServed) and "end it first" not in message:
        message += ": use that server, or stop it (kill -TERM its pid) before starting another"
    elif isinstance(error, OSError) and not isinstance(error, RingqError) and error.strerror:
        message = visible(error.strerror if error.filename is None else f"{error.filename}: {error.strerror}")
    elif code == exit_codes.INTERNAL and not isinstance(error, RingqError):
        message = f"internal error, please report it: {type(error).__name__}: {message} (RINGQ_DEBUG=1 shows where)"
    return message, code


def _is_of_output(error: OSError) -> bool:
    """Whether it was standard output that could not be written: the error itself does not say."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    printing = frame.f_code is run.__code__ or frame.f_globals.get("__name__", "").startswith(("click.", "rich."))
    return printing and not isinstance(error, RingqError)


def _drop_output() -> None:
    """What is left for standard output goes nowhere; else the interpreter would try again as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
