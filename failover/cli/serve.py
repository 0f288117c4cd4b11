"""The commands that serve or look at the configuration: run, router, archive, replicator, check, demo."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from failover.cli import retention
from failover.cli.exits import Exit, leave, say
from failover.cli.options import ConfigOption, JsonOption, config_path
from failover.cli.reloading import reload

DEMO_FOLDER: Final = Path("demo-data")
_DirOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The demo's own folder.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(run)
    app.command()(router)
    house = typer.Typer(invoke_without_command=True, no_args_is_help=False, help=archive.__doc__)
    house.callback()(archive)
    retention.register(house)
    app.add_typer(house, name="archive")
    app.command()(replicator)
    app.command()(check)
    app.command()(reload)
    demo = typer.Typer(invoke_without_command=True, no_args_is_help=False, help=demo_tour.__doc__)
    demo.callback()(demo_tour)
    demo.command("stop-primary")(demo_stop_primary)
    demo.command("start-primary")(demo_start_primary)
    app.add_typer(demo, name="demo")


def run(config: ConfigOption = None) -> None:
    """Run router, archive and replicator, supervised, until SIGTERM."""
    _serve("supervisor", config)


def router(config: ConfigOption = None) -> None:
    """Run the router alone: HTTP proxy, DICOM relay, health, admin API."""
    _serve("router", config)


def archive(context: typer.Context, config: ConfigOption = None) -> None:
    """Run the embedded archive alone; it needs no primary."""
    if context.invoked_subcommand is not None:
        return
    _serve("archive", config)


def replicator(config: ConfigOption = None) -> None:
    """Run the replicator alone: it fills the archive and pays its debt to the primary."""
    _serve("replicator", config)


def check(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Check a configuration: every problem at once, and what the primary will feel of the probes."""
    from failover.config.load import file_advice, load
    from failover.errors import ConfigurationError

    path = config_path(config)
    try:
        configuration = load(path)
    except ConfigurationError as error:
        if json_:
            say([json.dumps({"ok": False, "problems": error.problems}, indent=2, ensure_ascii=False)])
        else:
            say(error.problems)
        raise typer.Exit(int(Exit.USAGE)) from None
    from failover.clock import SystemClock
    from failover.config.checks import advice
    from failover.config.tls_files import tls_advice
    from failover.health.plan import probes_per_day
    from failover.model import UpstreamName

    loads = probes_per_day(configuration, UpstreamName.PRIMARY)
    found = [
        *advice(configuration),
        *file_advice(configuration),
        *tls_advice(configuration, SystemClock().wall()),
    ]
    advised = [f"{'.'.join(key)}: {sentence}" for key, sentence in found]
    if json_:
        facts = {"ok": True, "problems": [], "advice": advised, "probes_per_day": loads}
        say([json.dumps(facts, indent=2, ensure_ascii=False)])
        return
    say([f"{path}: ok"])
    say(f"advice: {line}" for line in advised)
    say(["", "What the primary will feel in calm, a day:"])
    say(f"{count:>9,}  {what}" for what, count in loads.items())


def demo_tour(
    context: typer.Context,
    dir_: _DirOption = DEMO_FOLDER,
    port_offset: Annotated[
        int, typer.Option("--port-offset", metavar="N", help="Added to every port, for a second demo.")
    ] = 0,
) -> None:
    """Show the whole on loopback: a stand-in primary with sample studies, and router, archive, replicator.

    The demo's folder is made anew. Ctrl-C or SIGTERM ends it.
    """
    if context.invoked_subcommand is not None:
        return
    _call("failover.app.demo", lambda demo: demo.run(dir_, port_offset))


def demo_stop_primary(
    how: Annotated[
        str, typer.Option("--how", metavar="kill|stop", help="kill it, or stop it as if frozen (SIGSTOP).")
    ] = "kill",
    dir_: _DirOption = DEMO_FOLDER,
) -> None:
    """Let the demo's stand-in primary die, or freeze it."""
    if how not in ("kill", "stop"):
        leave(Exit.USAGE, f"--how: must be kill or stop, is {how}")
    _call_running_demo(dir_, lambda demo: demo.stop_primary(dir_, how))


def demo_start_primary(dir_: _DirOption = DEMO_FOLDER) -> None:
    """Start the demo's stand-in primary again, or let it go on."""
    _call_running_demo(dir_, lambda demo: demo.start_primary(dir_))


def _call_running_demo(folder: Path, action: Callable[[Any], int | None]) -> None:
    absent = f"no demo runs in {folder}: `failover demo` starts one, --dir names its folder"
    _call("failover.app.demo", action, absent=absent)


def _serve(component: str, config: Path | None) -> None:
    path = config_path(config)
    _call(f"failover.app.{component}", lambda module: module.run(path))


def _call(module_name: str, action: Callable[[Any], int | None], *, absent: str | None = None) -> None:
    """Run one composition and end with its exit code. What the operator can mend is a line, not a trace."""
    from failover.errors import ConfigurationError, ControlUnreachable, FailoverError

    try:
        code = action(import_module(module_name))
    except ControlUnreachable as error:
        leave(Exit.FAILED, absent or str(error))
    except ConfigurationError as error:
        leave(Exit.USAGE, *error.problems)
    except FailoverError as error:  # PortTaken names the key and the address
        leave(Exit.FAILED, str(error))
    raise typer.Exit(code or 0)
