"""``aura``: the command line. One module per noun; bodies are imported when they run, so ``aura --help`` stays quick.

Data goes to stdout, talk to stderr. Exit codes come from the error's class, in one table (:data:`EXIT_CODES`).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from aura import errors

#: command → (module, what it does). The help text is here so that listing commands imports none of them.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("aura.cli.up", "Run everything on this machine."),
    "submit": ("aura.cli.submit", "Submit a PRD from a file."),
    "jobs": ("aura.cli.jobs", "List, watch and steer jobs."),
    "events": ("aura.cli.events", "Follow the log."),
    "models": ("aura.cli.models", "See models and their workers."),
    "archives": ("aura.cli.archives", "Finished jobs: inspect, hold, purge."),
    "sessions": ("aura.cli.sessions", "Runs of agent workflows: inspect, cancel."),
    "worker": ("aura.cli.worker", "Run a worker."),
    "gateway": ("aura.cli.services", "Run the gateway (HTTP, WebSocket, commands)."),
    "scheduler": ("aura.cli.services", "Run the scheduler."),
    "projector": ("aura.cli.services", "Run the projector (read models)."),
    "projections": ("aura.cli.projections", "Read models: status, rebuild, verify."),
    "access": ("aura.cli.access", "API keys: issue, list, revoke."),
    "log": ("aura.cli.log", "The log itself: accept it as it is after a loss."),
    "audit": ("aura.cli.audit", "Replay the log."),
    "doctor": ("aura.cli.doctor", "Find what is wrong and how to mend it."),
    "config": ("aura.cli.config", "Show every setting and where it comes from."),
    "env": ("aura.cli.env", "Print variables for the nats CLI and curl."),
    "bench": ("aura.cli.bench", "Measure it on this machine (from a checkout)."),
    "version": ("aura.cli.version", "Print the version."),
}

#: Error class → exit code; the nearest class in the error's ancestry wins. 0 ok, 130 interrupted.
EXIT_CODES: dict[type[BaseException], int] = {
    errors.AuraError: 1,
    errors.InvalidRequest: 2,
    errors.TooLarge: 2,
    errors.ConfigError: 2,
    errors.NotFound: 3,
    errors.Conflict: 4,
    errors.KeyReused: 4,
    errors.Forbidden: 5,
    errors.Unauthenticated: 5,
    errors.Unavailable: 6,
    errors.LogRegression: 6,
}
INTERRUPTED = 130


def exit_code(error: errors.AuraError) -> int:
    """The process's exit code for an error."""
    return next(EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES)


class LazyGroup(click.Group):
    """Commands by name, each imported when it is needed."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = COMMANDS.get(cmd_name)
        if found is None:
            return None
        command: click.Command = getattr(importlib.import_module(found[0]), cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it, but a reader that went away (``aura events tail | head``) is no failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), 1
            )  # nothing more can be said, also not by the interpreter's last flush
            return 0

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aura-orchestra", prog_name="aura")
def aura() -> None:
    """Aura Orchestra: submit work, watch every step live, prove afterwards what happened.

    \b
    aura up --demo          everything on this machine, with a demo
    aura submit prd.json    submit work; --watch follows it live
    aura doctor             what is wrong and how to mend it
    """


def tell(message: str) -> None:
    """One line of talk on stderr."""
    click.echo(message, err=True)


def main(args: list[str] | None = None) -> Any:
    """The entry point. Ends the process with an exit code of API.md."""
    try:
        code = aura.main(args=args, prog_name="aura", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        tell("interrupted")
        sys.exit(INTERRUPTED)
    except errors.AuraError as error:
        tell(f"aura: {describe(error)}")
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # The reader of our output went away (`aura jobs ls | head`): nothing is wrong, and nothing more can be said.
        sys.stdout = None
        sys.exit(0)


def describe(error: errors.AuraError) -> str:
    """What to tell a person."""
    text = error.detail or error.code
    if isinstance(error, errors.Conflict) and error.status:
        text += f" (status {error.status})"
    return text


if __name__ == "__main__":
    main()
