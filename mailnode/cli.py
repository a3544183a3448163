"""The command line: `mailnode`. Reads the options in front of a command; decides nothing."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn, cast

import click

from mailnode import __version__
from mailnode.commands.invocation import CommandError, Invocation, status_of, words_of
from mailnode.commands.output import note

INTERRUPTED: Final = 130  # as a shell counts a process that SIGINT ended
PIPE_CLOSED: Final = 141  # likewise SIGPIPE
COMPLETE: Final = "_MAILNODE_COMPLETE"


# Where each command is. It is imported when it is asked for: half of the time that a command takes would be
# spent on the others.
COMMANDS: Final = {
    **{name: f"mailnode.commands.{name}" for name in ("certificate", "check", "dial", "invite", "join")},
    **{name: f"mailnode.commands.{name}" for name in ("queue", "route", "terminal", "user", "who")},
    **dict.fromkeys(("mail", "send", "soml", "saml"), "mailnode.commands.mail"),
}


class CommandLine(click.Group):
    """A group whose commands return exit statuses, and whose errors are one line on standard error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = import_module(COMMANDS[cmd_name])
        return cast(click.Command, getattr(module, cmd_name))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode or COMPLETE in os.environ:
            return click.Group.main(self, args, "mailnode", complete_var, standalone_mode, **extra)
        return self._end(self._run(sys.argv[1:] if args is None else list(args), extra))

    def _run(self, args: list[str], extra: dict[str, Any]) -> int:
        """The exit status of the command that `args` is."""
        invocation = Invocation()
        try:
            with self.make_context("mailnode", args, obj=invocation, **extra) as context:
                status = self.invoke(context)
                sys.stdout.flush()
            return status if isinstance(status, int) else os.EX_OK
        except click.exceptions.Exit as end:
            return end.exit_code
        except click.UsageError as error:
            note(_usage(error))
            return os.EX_USAGE
        except click.ClickException as error:
            note(error.format_message())
            return os.EX_NOINPUT if isinstance(error, click.FileError) else os.EX_USAGE
        except (KeyboardInterrupt, EOFError, click.Abort):
            return INTERRUPTED
        except CommandError as error:
            note(str(error))
            return error.status
        except BrokenPipeError:
            _let_go_of_output()
            return PIPE_CLOSED
        except OSError as error:
            note(words_of(error))
            return status_of(error)
        except Exception as error:
            # A mistake of ours: one line for whoever typed the command, all of it for who asks.
            if invocation.verbose:
                traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            note(f"internal error: {error!r} at {os.path.basename(where.filename)}:{where.lineno}")
            return os.EX_SOFTWARE

    def _end(self, status: int) -> NoReturn:
        sys.exit(status)


def _usage(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    where = error.ctx.command_path if error.ctx is not None else "mailnode"
    return f"{message} (see: {where} --help)"


def _let_go_of_output() -> None:
    """Python flushes standard output once more as it ends: by then nobody may be left to complain to."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@click.group(
    cls=CommandLine,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 80},
    epilog="The configuration is the first of $MAILNODE_CONFIG, ./mailnode.toml, "
    "~/.config/mailnode/mailnode.toml, /etc/mailnode/mailnode.toml; with none of them the node is one "
    "for this host on 127.0.0.1:2525. The node itself is started with: twistd -n mailnode",
)
@click.option("--config", "-c", "file", metavar="FILE", help="Configuration file.")
@click.option("--verbose", "-v", is_flag=True, help="Show the dialogue with the node on standard error.")
@click.version_option(__version__, "--version", prog_name="mailnode", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context, file: str | None, verbose: bool) -> None:
    """Talks to a mailnode and looks after its spool, its users and its peers."""
    invocation = context.ensure_object(Invocation)
    invocation.file, invocation.verbose = file, verbose
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no UTF-8 gets escapes, never an exception.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    cli.main()
