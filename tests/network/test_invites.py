import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.errors import ConfigError
from p2ptrain.network.invites import Invite
from p2ptrain.network.multiaddrs import of_listener, parse, split_bootstrap

ADDRESSES = st.lists(st.sampled_from(["10.0.0.1:7000", "a.example:1", "[::1]:65535"]), min_size=1, max_size=8)


@given(
    st.none() | st.text(min_size=8, max_size=50), ADDRESSES, st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
)
def test_round_trip(key: str | None, addresses: list[str], run: str) -> None:
    invite = Invite(key, tuple(addresses), run)
    assert Invite.parse(f" {invite}\n") == invite


def test_it_looks_as_documented() -> None:
    assert str(Invite("swarm key", ("a:1", "b:2"), "wan3")) == "p2ptrain://c3dhcm0ga2V5@a:1,b:2/wan3"
    assert str(Invite(None, ("a:1",), "wan3")) == "p2ptrain://@a:1/wan3"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "starts with p2ptrain://"),
        ("http://a:1/run", "starts with p2ptrain://"),
        ("p2ptrain://a:1/run", "no @"),
        ("p2ptrain://@a:1", "/RUN"),
        ("p2ptrain://@a:1/", "/RUN"),
        ("p2ptrain://@a:1/a b", "'a b'"),
        ("p2ptrain://@a/run", "'a' is not host:port"),
        ("p2ptrain://@a:1,b/run", "'b' is not host:port"),
        ("p2ptrain://@" + "a:1," * 8 + "a:1/run", "9 addresses"),
        ("p2ptrain://c3dhcm0ga2V5%@a:1/run", "key is damaged"),
        ("p2ptrain://c3dhc@a:1/run", "key is damaged"),
        ("p2ptrain://____@a:1/run", "key is damaged"),
    ],
)
def test_the_message_says_which_part_is_wrong(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Invite.parse(text)
    assert part in str(raised.value)
    assert "c3dhc" not in str(raised.value)


@given(st.text(max_size=60))
def test_noise_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError):
        Invite.parse(f"p2ptrain:/{text}")


PEER = "12D3KooWRcAiLP1XxtQepqzvkBHTPQ7h2WuhcokSkdfz8jbMSD4M"


@pytest.mark.parametrize(
    "text",
    [
        f"/ip4/10.0.0.1/tcp/7001/p2p/{PEER}",
        f"/ip6/::1/tcp/1/p2p/{PEER}",
        f"/dns4/boot.example/tcp/65535/p2p/{PEER}",
        "/dns/boot/tcp/1/p2p/QmZCXmBGkD4MTzK88g83y6bztPW7FwsFNNmZYP3Umzrfir",
    ],
)
def test_multiaddrs(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "write /ip4/"),
        ("/ip4/10.0.0.1/tcp/7001", "write /ip4/"),
        (f"/ip/10.0.0.1/tcp/7001/p2p/{PEER}", "did you mean '/ip4/'?"),
        (f"/ipv4/10.0.0.1/tcp/7001/p2p/{PEER}", "did you mean '/ip4/'?"),
        (f"/ip4/10.0.0.1/tpc/7001/p2p/{PEER}", "did you mean '/tcp/'?"),
        (f"/ip4/10.0.0.1/tcp/7001/ipfs/{PEER}", "did you mean '/p2p/'?"),
        (f"/ip4/10.0.0.300/tcp/7001/p2p/{PEER}", "'10.0.0.300' is not an ip4 address"),
        (f"/ip4/::1/tcp/7001/p2p/{PEER}", "'::1' is not an ip4 address"),
        (f"/ip4/10.0.0.1/tcp/70000/p2p/{PEER}", "'70000' is not a port"),
        (f"/ip4/10.0.0.1/tcp/x/p2p/{PEER}", "'x' is not a port"),
        ("/ip4/10.0.0.1/tcp/7001/p2p/12D3KooW", "not the id of a DHT node"),
    ],
)  # fmt: skip
def test_wrong_multiaddrs(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    assert part in str(raised.value)


@given(st.lists(st.sampled_from(["", "ip4", "::", "1", "tcp", "p2p", PEER, "٣", "x/y"]), max_size=8))
def test_noise_is_a_config_error_too(parts: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        parse("/".join(parts))


def test_bootstrap_entries_are_told_apart() -> None:
    multiaddr = f"/ip4/10.0.0.1/tcp/7001/p2p/{PEER}"
    assert split_bootstrap(["a:1", multiaddr, "b:2"]) == (["a:1", "b:2"], [multiaddr])
    for wrong in ("a", "http://a:1", ""):
        with pytest.raises(ConfigError, match="neither host:port nor"):
            split_bootstrap([wrong])


def test_listeners() -> None:
    assert of_listener("127.0.0.1:0", "dht_listen") == "/ip4/127.0.0.1/tcp/0"
    assert of_listener("[::]:7001", "dht_listen") == "/ip6/::/tcp/7001"
    for wrong in ("localhost:1", "1.2.3.4", "1.2.3.4:x", "1.2.3.4:70000", ""):
        with pytest.raises(ConfigError, match="dht_listen"):
            of_listener(wrong, "dht_listen")
