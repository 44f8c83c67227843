"""The command line. What is heavy is imported inside the commands: `--help` is quick, and signals are heard early."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from p2ptrain.errors import ConfigError

USAGE, INTERRUPTED = 2, 130


def _examples(*usages: tuple[str, str]) -> str:
    """What to type, and what for."""
    width = max(len(usage) for usage, _ in usages)
    return "\n".join(["[bold]Examples[/bold]", "", *(f"  p2ptrain {usage:{width}}   {what}" for usage, what in usages)])


EPILOG = (
    _examples(
        ("up topologies/quickstart.yaml", "four nodes on this machine"),
        ("check my.yaml --set run.codec=topk", "what a file would do"),
        ("node --task digits --home ~/p2ptrain", "the first node of a swarm"),
        ("join p2ptrain://...", "one more, from an invite"),
        ("list codecs", "what there is to choose from"),
    )
    + """

Exit codes: 0 all expectations met, 1 one failed, 2 wrong usage or
configuration, 130 interrupted."""
)

app = typer.Typer(
    name="p2ptrain",
    help="Unequal, unreliable machines train one model together, with no server and nobody in charge.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the file, e.g. run.steps=100.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run; default runs/NAME-TIME.")]
Home = Annotated[Path | None, typer.Option(help="Folder of identity, checkpoints and logs.")]
Json = Annotated[bool, typer.Option("--json", help="JSON lines on standard output instead of a table.")]


def main() -> None:
    """Entry point. Until a command has handlers of its own there is nothing to drain, so a signal simply ends us."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(INTERRUPTED))
    app(prog_name="p2ptrain")


@contextlib.contextmanager
def _mistakes(*places: str) -> Iterator[None]:
    """What the user can mend is one line and exit code 2; anything else is a bug and keeps its traceback.

    The line starts with one of `places`: the first, where the message has none."""
    try:
        yield
    except ConfigError as error:
        text = " ".join(str(error).split("\n"))
        placed = text if text.startswith(("--", "cannot ", *places)) else f"{places[0]}: {text}"
        print(f"p2ptrain: {placed}", file=sys.stderr)
        raise typer.Exit(USAGE) from None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"p2ptrain {version()}")
        raise typer.Exit


def version() -> str:
    """Of the installed package, or of the source tree that this file lies in."""
    import tomllib
    from importlib import metadata

    try:
        return metadata.version("p2ptrain")
    except metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parent.parent / "pyproject.toml"
        return tomllib.loads(project.read_text())["project"]["version"]


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(
    epilog=_examples(
        ("up topologies/quickstart.yaml", "as processes here"),
        ("up topologies/digits.yaml --set run.codec=topk", "with another setting"),
        ("up topologies/churn.yaml --runtime sim", "in virtual time"),
        ("up topologies/wan3.yaml --runtime docker", "in containers"),
    )
)
def up(
    file: Annotated[Path, typer.Argument(help="A topology file (YAML).")],
    runtime: Annotated[
        str, typer.Option(help="Where the nodes run: process, docker, or sim (virtual time).")
    ] = "process",
    seed: Annotated[int | None, typer.Option(help="Overrides run.seed.")] = None,
    settings: Settings = [],  # noqa: B006
    out: Out = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the report in a browser at the end.")] = False,
) -> None:
    """Bring up a swarm, watch it train, and check what is expected of it."""
    with _mistakes(str(file)):
        from node import up as runner
        from p2ptrain.config import load, placed
        from p2ptrain.topology import Topology

        if runtime not in ("sim", *runner.RUNTIMES):
            raise ConfigError(f"--runtime {runtime} is unknown; there is sim, {' and '.join(runner.RUNTIMES)}")
        topology = load(file, Topology, {**_overrides(settings), **({} if seed is None else {"run.seed": seed})})
        folder = out or Path("runs") / f"{topology.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if runtime == "sim":
            from node import simulated

            code = simulated.up(topology, folder, runner.terminal())
        else:
            with placed(file):
                code = asyncio.run(runner.up(topology, folder, runtime=runtime))
    if show:
        import webbrowser

        webbrowser.open((folder / "report.html").absolute().as_uri())
    raise typer.Exit(code)


@app.command(
    epilog=_examples(
        ("sim topologies/campaign.yaml --seeds 50", "faults that end"),
        ("sim topologies/campaign.yaml --mode liveness", "some do not"),
        ("sim topologies/campaign.yaml --seed 7 --keep 0,3", "a failure again"),
    )
)
def sim(
    file: Annotated[Path, typer.Argument(help="A topology file (YAML).")],
    seeds: Annotated[int, typer.Option(min=1, help="How many random schedules of faults to try.")] = 100,
    first: Annotated[int, typer.Option("--from", min=0, help="The first seed.")] = 0,
    seed: Annotated[int | None, typer.Option(min=0, help="Only this one, again.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="With --seed: only these of its faults, such as 0,3, or none.")
    ] = None,
    calm: Annotated[bool, typer.Option("--calm", help="With --seed: without interference inside the code.")] = False,
    mode: Annotated[str, typer.Option(help="safety: faults anywhere, and they end. liveness: some do not.")] = "safety",
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = os.cpu_count() or 1,
    settings: Settings = [],  # noqa: B006
) -> None:
    """Search for bugs: the swarm of a file in virtual time, under random faults, with its invariants watched."""
    with _mistakes(str(file)):
        if mode not in ("safety", "liveness"):
            raise ConfigError(f"--mode {mode} is unknown; there is safety and liveness")
        from node import campaign
        from node import up as runner
        from p2ptrain.config import load
        from p2ptrain.topology import Topology

        topology = load(file, Topology, _overrides(settings))
        console = runner.terminal()
        if seed is None:
            code = campaign.run(topology, file, range(first, first + seeds), mode, jobs, console)  # type: ignore[arg-type]
        else:
            code = campaign.replay(topology, seed, mode, _indices(keep), calm, console)  # type: ignore[arg-type]
    raise typer.Exit(code)


@app.command(
    epilog=_examples(
        ("node --config node.yaml", "all from a file"),
        ("node --task digits --listen 0.0.0.0:7000", "a new swarm"),
        ("node --task ./my_task.py --bootstrap host:7000", "one more in it"),
    )
)
def node(
    config: Annotated[Path | None, typer.Option(help="A node file (YAML).")] = None,
    task: Annotated[str | None, typer.Option(help="What to learn: a task's name or a Python file.")] = None,
    name: Annotated[str | None, typer.Option(help="What others see.")] = None,
    listen: Annotated[str | None, typer.Option(help="host:port; port 0 takes a free one.")] = None,
    announce: Annotated[list[str], typer.Option(help="host:port under which others reach this node.")] = [],  # noqa: B006
    bootstrap: Annotated[list[str], typer.Option(help="Where to find the swarm: host:port or multiaddr.")] = [],  # noqa: B006
    key: Annotated[
        str | None, typer.Option(envvar="P2PTRAIN_KEY", help="The swarm key; without one it is open.")
    ] = None,
    home: Home = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = None,
    settings: Settings = [],  # noqa: B006
    json: Json = False,
    leash: Annotated[bool, typer.Option("--leash", hidden=True)] = False,
    epoch: Annotated[float | None, typer.Option("--epoch", hidden=True)] = None,
) -> None:
    """Run one daemon until its training is over or it is asked to leave."""
    orders = None
    if leash:
        from node.leash import hold

        orders = hold()
    own = {"name": name, "listen": listen, "announce": announce, "bootstrap": bootstrap, "key": key, "device": device}
    given = {f"node.{option}": value for option, value in own.items() if value}
    given |= {"node.home": str(home)} if home else {}
    given |= {"run.task": task} if task else {}
    with _mistakes(str(config or "p2ptrain node")):
        from node import single
        from p2ptrain.config import NodeFile, load

        overrides = {**given, **_overrides(settings)}
        file = load(config, NodeFile, overrides) if config else single.from_options(overrides)
        code = single.run(file, epoch, json, orders)
    raise typer.Exit(code)


@app.command(
    epilog=_examples(
        ("join p2ptrain://... --task charlm", "without a file"),
        ("join p2ptrain://... --config run.yaml --device cuda", "with one"),
    )
)
def join(
    invite: Annotated[str, typer.Argument(help="What `p2ptrain invite` printed.")],
    config: Annotated[Path | None, typer.Option(help="The topology or node file of the run.")] = None,
    task: Annotated[str | None, typer.Option(help="What to learn, when there is no file.")] = None,
    name: Annotated[str, typer.Option(help="What others see.")] = "node",
    listen: Annotated[str | None, typer.Option(help="host:port; others reach this node there.")] = None,
    announce: Annotated[list[str], typer.Option(help="host:port under which others reach this node.")] = [],  # noqa: B006
    home: Home = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    settings: Settings = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Join a swarm from an invite. What peers send is data: nobody can run code on this machine."""
    own = {"name": name, "listen": listen, "announce": announce, "device": device}
    with _mistakes("invite", str(config)):
        from node import single

        given = {f"node.{option}": value for option, value in own.items() if value}
        given |= {"node.home": str(home)} if home else {}
        given |= {"run.task": task} if task else {}
        file = single.from_invite(invite, config, {**given, **_overrides(settings)})
        code = single.run(file, None, json)
    raise typer.Exit(code)


@app.command(
    epilog=_examples(
        ("invite runs/digits-20260101-120000/node-0", "to its swarm"),
        ("invite node.yaml --address alice.example:7000", "where others reach it"),
    )
)
def invite(
    path: Annotated[Path, typer.Argument(help="A node file, or the folder of a run.")],
    address: Annotated[list[str], typer.Option(help="host:port to put in, instead of the file's.")] = [],  # noqa: B006
) -> None:
    """Print an invite to a swarm. Whoever has it can join: it contains the swarm key."""
    with _mistakes(str(path)):
        from node import single

        print(single.invite(path, address))


@app.command(
    epilog=_examples(
        ("top mqtt://alice@broker.example", "who publishes there"),
        ("top mqtts://alice@broker.example --run digits", "one of them"),
    )
)
def top(
    broker: Annotated[str, typer.Argument(help="mqtt://user:password@host:port, or mqtts.")],
    run: Annotated[str | None, typer.Option(help="Only the swarm of this name.")] = None,
) -> None:
    """Watch the swarms that publish to an MQTT broker, until Ctrl-C. The password may be in P2PTRAIN_MQTT_PASSWORD."""
    with _mistakes("top"):
        from node import top as watcher

        asyncio.run(watcher.top(broker, run))


@app.command(
    epilog=_examples(
        ("check topologies/wan3.yaml", "what the file means"),
        ("check my.yaml --set run.codec=topk --print", "all settings"),
        ("check --schema > topology.schema.json", "for editors"),
    )
)
def check(
    file: Annotated[Path | None, typer.Argument(help="A topology file (YAML).")] = None,
    settings: Settings = [],  # noqa: B006
    effective: Annotated[bool, typer.Option("--print", help="Print the effective configuration as YAML.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of such files, for editors.")] = False,
) -> None:
    """Explain a topology file without running it: nodes, graph, links, bytes, length, and faults on a time axis."""
    if schema:
        import json

        from p2ptrain.topology.schema import schema as make_schema

        print(json.dumps(make_schema(), indent=1))
        return
    if file is None:
        raise typer.BadParameter("a FILE to explain is needed, or --schema")
    with _mistakes(str(file)):
        from node import explain, resolve
        from p2ptrain.config import load
        from p2ptrain.topology import Topology

        topology = load(file, Topology, _overrides(settings))
        if effective:
            print(resolve.dump(topology), end="")
        else:
            resolve.check(topology)
            print(explain.topology(topology))


@app.command(
    "list",
    epilog=_examples(
        ("list codecs", "what a codec may be"),
        ("list rules --json", "for programs"),
    ),
)
def list_(
    kind: Annotated[str, typer.Argument(help="codecs, rules, attacks, strategies, tasks, graphs or devices.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List what there is to choose from, with its options."""
    with _mistakes("list"):
        from node import listing

        print(listing.listing(kind, json))


@app.command(
    epilog=_examples(
        ("report runs/digits-20260101-120000 --open", "look at it at once"),
    )
)
def report(
    file: Annotated[Path, typer.Argument(help="events.jsonl of a run, or its folder.")],
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = False,
) -> None:
    """Make report.html anew from a log of events."""
    log = file / "events.jsonl" if file.is_dir() else file
    with _mistakes(str(log)):
        from node import report as reports

        target = reports.rebuild(log)
    print(target)
    if show:
        import webbrowser

        webbrowser.open(target.absolute().as_uri())


def _indices(keep: str | None) -> list[int] | None:
    if keep is None:
        return None
    indices = [] if keep == "none" else keep.split(",")
    if not all(index.isdecimal() for index in indices):
        raise ConfigError(f"--keep {keep}: not numbers of faults with commas between them, nor none")
    return [int(index) for index in indices]


def _overrides(settings: list[str]) -> dict[str, Any]:
    from p2ptrain.config import override

    return dict(override(text) for text in settings)
