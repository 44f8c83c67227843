"""Who is let in at a broker that a node runs: whoever knows its password, and in a swarm with a key every member."""

import hmac
from dataclasses import replace

from p2ptrain.swarm.records import swarm_secret
from p2ptrain.telemetry.mqtt_broker import Broker

MEMBER = "p2ptrain-member"


def member_password(key: str, run: str) -> str:
    """What all who know the swarm's key can work out, and others cannot."""
    return hmac.digest(swarm_secret(key, "broker"), run.encode(), "sha256").hex()


def reached_at(url: str, key: str | None, run: str) -> Broker:
    """The broker of `node.mqtt`. Where its URL names no user, a node that has the swarm's key comes as a member;
    a broker that lets everyone in does not mind. Raises `ValueError`."""
    broker = Broker.parse(url)
    if key is None or broker.username is not None:
        return broker
    return replace(broker, username=MEMBER, password=member_password(key, run))
