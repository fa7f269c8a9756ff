"""``aura worker``: the ready-made workers, agent workflows, and any Python handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from aura.worker.attempt import Handler

F = TypeVar("F", bound=Callable[..., Any])
#: Workflows that one worker runs at once, unless it is told otherwise.
WORKFLOW_SLOTS = 2


@click.group(invoke_without_command=True)
@click.option("--model", help="The pool to work for.")
@click.option("--name", "worker_id", help="The worker's id (default: model, host and a number).")
@click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder (AURA_DATA_DIR, default ./.aura)."
)
@click.option(
    "--workflows",
    multiple=True,
    metavar="NAME=MODULE:ATTRIBUTE",
    help="Run agent workflows (pool: agents); may repeat.",
)
@click.option(
    "--slots",
    type=click.IntRange(1, 10_000),
    default=WORKFLOW_SLOTS,
    show_default=True,
    help="Workflows at once (with --workflows).",
)
@click.pass_context
def worker(
    ctx: click.Context,
    model: str | None,
    worker_id: str | None,
    data: Path | None,
    workflows: tuple[str, ...],
    slots: int,
) -> None:
    """Run a worker. Ends on SIGTERM or Ctrl-C after letting its jobs finish."""
    ctx.obj = {"model": model, "worker_id": worker_id, "data": data}
    if ctx.invoked_subcommand is not None:
        if workflows:
            raise click.UsageError("--workflows is a worker of its own: leave out the command", ctx)
        return
    if not workflows:
        click.echo(ctx.get_help(), color=ctx.color)
        raise click.exceptions.Exit(2)
    from aura.agents.loading import load_workflows
    from aura.agents.workflow import workflow_handler
    from aura.setting_values import AGENTS_MODEL

    ctx.obj["model"] = model or AGENTS_MODEL
    handler = workflow_handler(load_workflows(workflows))
    _run(ctx, handler, {"slots": slots, "roles": ("Agent",), "lease_ttl_s": 10.0, "grace_s": 10.0})


def _worker_options(command: F) -> F:
    """What every kind of worker takes."""
    options: tuple[Callable[[F], F], ...] = (
        click.option("--model", help="The pool to work for."),
        click.option("--name", "worker_id", help="The worker's id."),
        click.option("--slots", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Jobs at once."),
        click.option("--role", "roles", multiple=True, help="Shown to people; may repeat."),
        click.option(
            "--lease",
            "lease_ttl_s",
            type=click.FloatRange(5, 3600),
            default=10,
            show_default=True,
            help="Lease, seconds.",
        ),
        click.option(
            "--grace", "grace_s", type=click.FloatRange(0), default=10, show_default=True, help="Drain, seconds."
        ),
        click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Data folder."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@worker.command("command")
@click.option("--allow", multiple=True, help="A program that jobs may run; may repeat.")
@click.option("--allow-shell", is_flag=True, help='Let jobs say {"shell": "…"}: anything goes.')
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    show_default=True,
    help="Jobs stay in here.",
)
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="Longest run, seconds.")
@click.option("--env", "env_pairs", multiple=True, metavar="NAME=VALUE", help="For the programs; may repeat.")
@_worker_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    allow: tuple[str, ...],
    allow_shell: bool,
    root: Path,
    timeout_s: float | None,
    env_pairs: tuple[str, ...],
    **options: Any,
) -> None:
    """Jobs run programs: {"argv": ["make", "test"]}.

    Programs find AURA_URL, AURA_JOB_ID and AURA_ATTEMPT in their environment.
    """
    from aura.cli.options import gateway_url
    from aura.worker.adapters.command import CommandAdapter, CommandRules

    env = {"AURA_URL": gateway_url(None, _chosen(ctx, options, "data"))}
    for pair in env_pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--env")
        env[name] = value
    rules = CommandRules(allow=allow, allow_shell=allow_shell, root=root, timeout_s=timeout_s, env=env)
    _run(ctx, CommandAdapter(rules), options)


@worker.command("chat")
@click.option("--base-url", required=True, help="An OpenAI-compatible server, for example http://127.0.0.1:11434/v1")
@click.option("--chat-model", required=True, help="The server's name of the model, for example qwen2.5:7b")
@click.option("--system", help="System prompt for jobs that send only a prompt.")
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="First line is the key (else OPENAI_API_KEY).",
)
@_worker_options
@click.pass_context
def chat(
    ctx: click.Context, /, base_url: str, chat_model: str, system: str | None, api_key_file: Path | None, **options: Any
) -> None:
    """Jobs ask a chat model: {"prompt": "…"}. Tokens stream as they come."""
    import os

    from aura.worker.adapters.openai_chat import ChatAdapter, ChatServer

    key = (
        api_key_file.read_text("utf-8").partition("\n")[0].strip() if api_key_file else os.environ.get("OPENAI_API_KEY")
    )
    _run(ctx, ChatAdapter(ChatServer(base_url, chat_model, key or None, system)), options)


@worker.command("python")
@click.argument("handler", metavar="MODULE:FUNCTION")
@_worker_options
@click.pass_context
def python(ctx: click.Context, /, handler: str, **options: Any) -> None:
    """Jobs run an async function of yours: async def handle(job): …"""
    import importlib
    import sys

    module, colon, name = handler.partition(":")
    if not colon or not name:
        raise click.BadParameter("must be module:function", param_hint="MODULE:FUNCTION")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise click.BadParameter(f"{handler}: {error}", param_hint="MODULE:FUNCTION") from None
    _run(ctx, found, options)


def _chosen(ctx: click.Context, options: dict[str, Any], name: str) -> Any:
    return options.get(name) if options.get(name) is not None else ctx.obj.get(name)


def _run(ctx: click.Context, handler: Handler, options: dict[str, Any]) -> None:
    import os

    from aura.cli.logs import configure_logging
    from aura.cli.loop import loop_factory
    from aura.worker import Worker

    model, worker_id, data = (_chosen(ctx, options, name) for name in ("model", "worker_id", "data"))
    if model is None:
        raise click.UsageError("which pool? --model", ctx)
    if data is not None:
        os.environ["AURA_DATA_DIR"] = str(data)
    configure_logging()

    async def main() -> None:
        settings = {name: options[name] for name in ("slots", "lease_ttl_s", "grace_s")}
        async with Worker(model, handler, worker_id=worker_id, roles=options["roles"], **settings) as running:
            await running.run()
        close = getattr(handler, "close", None)
        if close is not None:
            await close()

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main())
