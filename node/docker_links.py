"""Links between containers: what `tc` and `iptables` have to be told inside each, as one shell script.

What a node sends is shaped where it leaves, by htb (bandwidth) and netem (latency, where the kernel has it); what gets
lost, or is cut off, gets lost where it arrives, by iptables, so that the sender is told nothing.
"""

from collections.abc import Iterator, Mapping

from p2ptrain.topology.links import Link

NO_NETEM = "no netem"
"""What a script prints when the kernel could not delay."""
DEVICE = "$device"
DEFAULT_CLASS = 1
FIRST_CLASS = 2
QUANTUM = "quantum 15140"  # bytes that a class sends before it is the next one's turn


def is_shaped(link: Link) -> bool:
    """Whether it needs something where packets leave."""
    return link.bandwidth is not None or link.latency > 0 or link.jitter > 0


def leaving(own: str, uplink: float, links: Mapping[str, Link]) -> str:
    """From one's own address towards these there are such links, and all together share `uplink` bits per second."""
    shaped = {address: link for address, link in links.items() if is_shaped(link)}
    return "\n".join(_leaving(own, uplink, shaped))


def _leaving(own: str, uplink: float, links: Mapping[str, Link]) -> Iterator[str]:
    yield f"device=$(ip -oneline address show to {own} | cut --delimiter=' ' --fields=2)"
    yield f"tc qdisc del dev {DEVICE} root 2>/dev/null"
    yield "set -e"
    yield f"tc qdisc add dev {DEVICE} root handle 1: htb default {DEFAULT_CLASS}"
    yield f"tc class add dev {DEVICE} parent 1: classid 1:ffff htb rate {uplink:.0f}bit {QUANTUM}"
    share = max(uplink / (len(links) + 1), 8000.0)  # what each may always have; beyond it they borrow
    rate = f"rate {share:.0f}bit ceil {uplink:.0f}bit {QUANTUM}"
    yield f"tc class add dev {DEVICE} parent 1:ffff classid 1:{DEFAULT_CLASS} htb {rate}"
    for number, (address, link) in enumerate(links.items(), FIRST_CLASS):
        ceiling = min(link.bandwidth or uplink, uplink)
        rate = f"rate {min(share, ceiling):.0f}bit ceil {ceiling:.0f}bit {QUANTUM}"
        yield f"tc class add dev {DEVICE} parent 1:ffff classid 1:{number:x} htb {rate}"
        yield f"tc filter add dev {DEVICE} parent 1: protocol ip u32 match ip dst {address}/32 flowid 1:{number:x}"
        if link.latency or link.jitter:  # netem's jitter goes both ways
            delay = f"delay {1e6 * (link.latency + link.jitter / 2):.0f}us {1e6 * link.jitter / 2:.0f}us limit 10000"
            yield f"tc qdisc add dev {DEVICE} parent 1:{number:x} netem {delay} 2>/dev/null || echo {NO_NETEM}"


def arriving(links: Mapping[str, Link]) -> str:
    """From these addresses there are such links. All change at once."""
    rules = "\n".join(_arriving(links))
    return f"iptables-restore --wait <<end\n*filter\n:INPUT ACCEPT\n{rules}\nCOMMIT\nend"


def _arriving(links: Mapping[str, Link]) -> Iterator[str]:
    for address, link in links.items():
        if link.down:
            yield f"--append INPUT --source {address} --jump DROP"
        elif link.loss:
            chance = f"--match statistic --mode random --probability {link.loss:.6f}"
            yield f"--append INPUT --source {address} {chance} --jump DROP"


def broken(addresses: list[str]) -> str:
    """Connections with these are reset; new ones can be made."""
    return "\n".join(f"ss --kill dst {address} >/dev/null" for address in addresses)
