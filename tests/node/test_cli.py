"""The command line as a person meets it. Mistakes are one line on standard error, exit code 2, and nothing begun."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from node import cli, resolve, single
from p2ptrain.config import NodeFile, load
from p2ptrain.errors import ConfigError
from p2ptrain.network.invites import Invite
from p2ptrain.telemetry.events import Stamped, to_json
from p2ptrain.topology import Topology

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
GOOD = """\
name: mine
run:
  task: digits
  steps: 10
nodes:
  - {count: 2}
"""


def p2ptrain(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="p2ptrain")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("task: digits", "task: [digits", r"bad.yaml:4: not YAML: .+"),
        (GOOD, "- 1\n", r"bad.yaml: expected keys and values such as .+"),
        ("  steps: 10", "  stepz: 10", r"bad.yaml:4: run.stepz: there is no such key.*"),
        ("  steps: 10", "  steps: -1", r"bad.yaml:4: run.steps: .*greater than 0 \(got -1\)"),
        ("  steps: 10", "  codec: zip", r"bad.yaml:4: run.codec: unknown codec 'zip'; choose one of .*int8.*"),
        (
            "  steps: 10",
            "  codec: {name: topk, ratio: 3}",
            r"bad.yaml:4: run.codec: codec 'topk': ratio: .*\(got 3\).*",
        ),
        ("task: digits", "task: ./none.py", r"bad.yaml:3: run.task: no task file at none.py.*"),
        ("  steps: 10\n", "", r"bad.yaml:2: run: give steps or seconds.*"),
        ("nodes:", "node: {mqtt: 'http://user:secret@h'}\nnodes:", r"bad.yaml:.*mqtt: expected mqtt://(?!.*secret).*"),
        ("count: 2", "device: pdp11", r"bad.yaml:6: nodes.0.device: unknown device profile.*"),
        ("count: 2", "count: 3000", r"bad.yaml: data.shards: 3000 parts of .*"),
        ("nodes:", "node: {home: x}\nnodes:", r"bad.yaml: node.home: every node has its own.*"),
        (
            "nodes:",
            "expect: {accuracy: good}\nnodes:",
            r'bad.yaml:5: expect.accuracy: write a comparison such as ">= 0.93".*',
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    path, out = tmp_path / "bad.yaml", tmp_path / "out"
    path.write_text(GOOD.replace(old, new))
    for command in (("up", path, "--out", out), ("check", path)):
        result = p2ptrain(*command)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert re.fullmatch(f"p2ptrain: {tmp_path}/{expected}\n", result.stderr), result.stderr
        assert not out.exists()


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    for command in ("up", "check", "report", "invite"):
        result = p2ptrain(command, tmp_path / "none")
        assert result.exit_code == 2
        assert re.fullmatch(r"p2ptrain: cannot read .*none: No such file or directory\n", result.stderr), result.stderr


def test_an_impossible_override_is_one_line(good: Path) -> None:
    for setting, message in (
        ("run.steps", "key=value"),
        ("run.stepz=1", "run.stepz"),
        ("run.steps.x=1", "run.steps.x"),
    ):
        result = p2ptrain("check", good, "--set", setting)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(good: Path, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert p2ptrain("up", good, "--out", tmp_path / "locked" / "run").exit_code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mode", "reckless"], "--mode reckless is unknown; there is safety and liveness"),
        (["--seed", 3, "--keep", "0,x"], "--keep 0,x: not numbers of faults with commas between them, nor none"),
        (["--seed", 3, "--keep", "99"], r"--keep 99: there is no such fault, seed 3 has \d of them, from 0 on"),
    ],
)
def test_what_a_campaign_cannot_do(options: list[object], said: str) -> None:
    result = p2ptrain("sim", TOPOLOGIES / "campaign.yaml", *options)
    assert result.exit_code == 2
    assert re.fullmatch(f"p2ptrain: {said}\n", result.stderr), result.stderr


def test_a_folder_that_cannot_be_made(good: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = p2ptrain("up", good, "--out", tmp_path / "file" / "run")
    assert result.exit_code == 2
    assert re.fullmatch(r"p2ptrain: --out .*: Not a directory\n", result.stderr)


def test_a_folder_with_a_run_in_it(good: Path, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    result = p2ptrain("up", good, "--out", tmp_path)
    assert result.exit_code == 2
    assert "already" in result.stderr


def test_a_port_that_is_taken(good: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = p2ptrain("up", good, "--set", f"node.listen=127.0.0.1:{port}", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert re.fullmatch(
        rf"p2ptrain: .*good.yaml: node.listen: 127.0.0.1:{port}: Address already in use\n", result.stderr
    )
    assert not (tmp_path / "out").exists()


def test_what_no_process_can_do_to_a_link_is_not_pretended(good: Path, tmp_path: Path) -> None:
    result = p2ptrain("up", good, "--set", "links={default: {drop: 0.1}}", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert re.fullmatch(r"p2ptrain: .*good.yaml:1: links.default.drop: only `--runtime sim` can: .*\n", result.stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runtime", ["moon"])
def test_other_runtimes_are_not_pretended(good: Path, runtime: str) -> None:
    result = p2ptrain("up", good, "--runtime", runtime)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"p2ptrain: --runtime {runtime}")


def test_check_explains(good: Path) -> None:
    result = p2ptrain("check", good, "--set", "graph={kind: ring, n: 4}", "--set", "nodes=[{count: 4}]")
    assert result.exit_code == 0, result.stderr
    for text in (
        "mine: 4 nodes",
        "4,810 parameters",
        "4 edges, degree 2",
        "this-machine  local  1      1, 3",
        "10 steps per node",
        "4.9 kB",
    ):
        assert text in result.stdout


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_topologies_are_sound_and_round_trip(path: Path, tmp_path: Path) -> None:
    checked = p2ptrain("check", path)
    assert checked.exit_code == 0
    assert "warning" not in checked.stdout
    printed = p2ptrain("check", path, "--print").stdout
    (tmp_path / "again.yaml").write_text(printed)
    assert load(tmp_path / "again.yaml", Topology) == load(path, Topology)
    assert p2ptrain("check", tmp_path / "again.yaml", "--print").stdout == printed


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_topologies_say_what_they_show_and_what_must_hold(path: Path) -> None:
    topology = load(path, Topology)
    assert topology.name == path.stem
    command = re.match(rf"# .+\.\n#   p2ptrain (up|sim) topologies/{path.name}", path.read_text())
    assert command
    if command[1] == "sim":  # its invariants are expected of it
        return
    assert topology.expect.keys() & {"accuracy", "loss", "gap"}
    killed = {name for deed in topology.plan() for name in deed.nodes if deed.verb == "kill"}
    started = {name for deed in topology.plan() for name in deed.nodes if deed.verb == "start"}
    assert topology.expect["alive"].bound == topology.num_nodes - len(killed - started)


KINDS = ["codecs", "aggregators", "rules", "attacks", "strategies", "tasks", "graphs", "devices"]


@pytest.mark.parametrize("kind", KINDS)
def test_list(kind: str) -> None:
    entries = json.loads(p2ptrain("list", kind, "--json").stdout)
    shown = p2ptrain("list", kind).stdout
    assert entries
    for entry in entries:
        assert entry["what"]
        assert re.search(rf"^{re.escape(entry['name'])} ", shown, re.MULTILINE)
    if kind == "codecs":
        assert {entry["name"]: entry["options"] for entry in entries}["int8"]["block"] == 256
    if kind == "rules":
        facts = {entry["name"]: entry["facts"] for entry in entries}
        assert facts["krum"] == {"breakdown": "2f + 2 < n", "cost": "O(n^2 d)", "synchronous rounds": True}
        assert "breakdown: 2f + 2 < n; cost: O(n^2 d); synchronous rounds: true" in shown
    if kind == "attacks":
        assert {entry["name"]: entry["facts"]["kind"] for entry in entries}["label-flip"] == "data"


def test_list_of_something_else() -> None:
    result = p2ptrain("list", "colours")
    assert result.exit_code == 2
    assert "choose one of codecs" in result.stderr


def test_report_from_a_log(log: list[Stamped], tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text("".join(to_json(stamped) + "\n" for stamped in log))
    result = p2ptrain("report", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "report.html")
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_invites_go_round(tmp_path: Path) -> None:
    run = {"task": "digits", "steps": 5}
    nodes = [
        {"listen": "127.0.0.1:4000", "key": "very-secret"},
        {"announce": ["example.org:5000"], "key": "very-secret"},
    ]
    for index, node in enumerate(nodes):
        (tmp_path / f"node-{index}").mkdir()
        file = NodeFile.model_validate({"name": "mine", "run": run, "node": node})
        resolve.save(tmp_path / f"node-{index}" / "node.yaml", file)
    whole = Invite("very-secret", ("127.0.0.1:4000", "example.org:5000"), "mine")
    assert p2ptrain("invite", tmp_path).stdout.strip() == str(whole)
    assert p2ptrain("invite", tmp_path / "node-0").stdout.strip() == str(
        Invite("very-secret", whole.addresses[:1], "mine")
    )
    given = p2ptrain("invite", tmp_path / "node-1" / "node.yaml", "--address", "a.example:1")
    assert given.stdout.strip() == str(Invite("very-secret", ("a.example:1",), "mine"))

    home = tmp_path / "home"
    joined = single.from_invite(str(whole), tmp_path / "node-0" / "node.yaml", {"node.home": str(home)})
    assert joined.run.steps == 5
    assert (joined.name, joined.node.key, joined.node.bootstrap) == ("mine", "very-secret", whole.addresses)
    assert joined.node.listen == "127.0.0.1:0"
    again = single.from_invite(str(whole), None, {"node.home": str(home), "run.task": "digits", "run.task.hidden": 8})
    assert again.node.slot == joined.node.slot
    assert again.run.task.model_dump()["hidden"] == 8


def test_an_invite_that_says_too_little(tmp_path: Path) -> None:
    for text in ("p2ptrain://@127.0.0.1:1/mine", "nonsense"):
        result = p2ptrain("join", text, "--home", tmp_path)
        assert result.exit_code == 2
        assert result.stderr.startswith("p2ptrain: invite: ")
        assert result.stderr.count("\n") == 1


def test_no_address_no_invite(tmp_path: Path) -> None:
    resolve.save(tmp_path / "node.yaml", single.from_options({"run.task": "digits"}))
    assert "--address" in p2ptrain("invite", tmp_path).stderr


def test_a_node_from_options_alone() -> None:
    file = single.from_options({"run.task": "digits", "run.codec": "topk", "run.codec.ratio": 0.5, "node.name": "me"})
    assert file.run.codec.model_dump() == {"name": "topk", "ratio": 0.5, "values": "fp32"}
    assert file.node.name == "me"
    with pytest.raises(ConfigError, match=r"run\.task"):
        single.from_options({})
    result = p2ptrain("node", "--set", "run.task=chess")
    assert result.exit_code == 2
    assert result.stderr.startswith("p2ptrain: p2ptrain node: run.task: unknown task 'chess'")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "alice"], r"node.listen: expected host:port \(got 'alice'\)"),
        (["--listen", "alice:99999"], r"node.listen: expected host:port .*"),
        (["--announce", "alice:0"], r"node.announce.0: expected host:port .*"),
        (["--bootstrap", "alice"], r"bootstrap: 'alice' is neither host:port nor a DHT address such as .*"),
        (["--home", "/dev/null/home"], "node.home: /dev/null/home: Not a directory"),
        (["--home", "/dev/null/home", "--json"], "node.home: /dev/null/home: Not a directory"),
    ],
)
def test_a_node_that_cannot_be_starts_nothing(options: list[str], said: str, tmp_path: Path) -> None:
    result = p2ptrain("node", "--task", "digits", "--home", tmp_path, "--set", "run.steps=1", *options)
    assert result.exit_code == 2
    assert re.fullmatch(rf"p2ptrain: p2ptrain node: {said}\n", result.stderr.splitlines(True)[-1]), result.stderr


def test_help_has_examples_and_loads_nothing_slow() -> None:
    code = "import sys, atexit; from node.cli import main; sys.argv[1:] = ['--help']; main()"
    probe = "import sys; sys.modules['torch'] = sys.modules['hivemind'] = sys.modules['pydantic'] = None; "
    done = subprocess.run([sys.executable, "-c", probe + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "p2ptrain up topologies/quickstart.yaml" in done.stdout


@pytest.mark.parametrize("command", ["up", "sim", "node", "join", "invite", "top", "check", "list", "report"])
def test_every_command_has_examples_that_fit_a_terminal(command: str) -> None:
    said = p2ptrain(command, "--help").stdout
    examples = [line for line in said[said.index("Examples") :].splitlines()[1:] if line.strip()]
    assert examples
    assert all(line.startswith(f" p2ptrain {command} ") for line in examples), said


def test_version_and_usage() -> None:
    assert re.fullmatch(r"p2ptrain \d+\.\d+\.\d+\S*\n", p2ptrain("--version").stdout)
    assert p2ptrain().exit_code == 2
    assert p2ptrain("up").exit_code == 2
    assert p2ptrain("fly").exit_code == 2


def test_a_signal_during_imports_ends_quietly(tmp_path: Path) -> None:
    """`node` is told to go before its heavy imports are done."""
    config = tmp_path / "node.yaml"
    resolve.save(config, single.from_options({"run.task": "digits", "node.home": str(tmp_path)}))
    slow = "import sys, time; from node import cli; "
    slow += "cli._overrides = lambda _: (print('here', flush=True), time.sleep(30)); "
    code = slow + f"sys.argv[1:] = ['node', '--config', {str(config)!r}]; cli.main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 130
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()


def test_the_effective_configuration_is_yaml(good: Path) -> None:
    body = yaml.safe_load(p2ptrain("check", good, "--print", "--set", "run.codec=int4").stdout)
    assert body["run"]["codec"] == {"name": "int4", "block": 64}


def test_the_schema_is_printed_for_editors() -> None:
    result = p2ptrain("check", "--schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == "p2ptrain topology"
    assert p2ptrain("check").exit_code == 2
