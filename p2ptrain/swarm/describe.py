"""What the swarm trains, told to a newcomer that has only an invite."""

import json
from typing import Any

from google.protobuf.message import DecodeError

from p2ptrain.errors import PeerError
from p2ptrain.ports import Bytes, PeerId, Transport
from p2ptrain.wire.membership_pb2 import DescribeRequest, Description

DESCRIBE = "/p2ptrain.v1.Membership/Describe"
SIZE_BYTES_MAX = 64 * 1024
TIMEOUT_S = 10.0


def serve(transport: Transport, config: dict[str, Any]) -> None:
    """Answer with `config`, the `run` and `graph` of this node's own file."""
    reply = Description(config=json.dumps(config)).SerializeToString()

    async def answer(peer: PeerId, request: Bytes) -> bytes:
        return reply

    transport.serve(DESCRIBE, answer)


async def ask(transport: Transport, address: str) -> dict[str, Any]:
    """What the node at `address` says, as unchecked configuration. Raises `PeerError`.

    A task that is a file is refused: naming a file of this machine is not for others to do."""
    reply = await transport.greet(address, DESCRIBE, DescribeRequest().SerializeToString(), TIMEOUT_S)
    if len(reply) > SIZE_BYTES_MAX:
        raise PeerError("oversized", f"a description of {len(reply)} bytes")
    try:
        config = json.loads(Description.FromString(bytes(reply)).config)
        task = config["run"]["task"]["name"]
    except (DecodeError, ValueError, KeyError, TypeError, RecursionError):
        raise PeerError("malformed", "not a description of a run") from None
    if not isinstance(task, str) or task.endswith(".py"):
        raise PeerError(
            "refused", f"the swarm trains a task of its own, {task!r}: ask for that file and give it as --task"
        )
    return {"run": config["run"], "graph": config.get("graph")}
