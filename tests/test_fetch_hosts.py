"""Redirects, and hosts inside this network: nothing reaches them, whatever a server or a name server says."""

import socket
import ssl
from ipaddress import IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvsent.fetch import Dropped, Fetched, ImageRequest, fetch_images
from mvsent.fetch.addresses import is_public
from mvsent.reasons import Reason
from tests.fault_server import answer, redirect, serving
from tests.fetching import PICTURE, outcome, policy, reason


@pytest.fixture
def server():
    with serving() as running:
        yield running


def test_a_redirect_is_followed_and_the_final_address_kept(server):
    server.url("/b.jpg", answer(body=PICTURE))
    found = outcome(server, server.url("/a.jpg", redirect("/b.jpg", "301 Moved")))
    assert found.url.endswith("/b.jpg")
    assert found.data == PICTURE


@pytest.mark.parametrize("n_hops", [5, 6])
def test_five_redirects_are_followed_and_not_six(server, n_hops):
    for i in range(n_hops):
        server.url(f"/{i}", redirect(f"/{i + 1}"))
    server.url(f"/{n_hops}", answer(body=PICTURE))
    found = outcome(server, f"http://127.0.0.1:{server.place[1]}/0")
    assert isinstance(found, Fetched) == (n_hops == 5)


def test_a_redirect_loop_ends_as_an_http_error(server):
    assert reason(server, server.url("/a.jpg", redirect("/a.jpg"))) is Reason.HTTP_ERROR
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "location", ["http://[::1", "http://", "http:///x", "//", "http://a..b/", "http://\x80/"]
)
def test_a_senseless_redirect_is_a_reason_and_no_crash(server, location):
    url = server.url("/a.jpg", redirect(location))
    assert isinstance(outcome(server, url, retries=0), Dropped)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:image/png;base64,AA"])
def test_only_http_and_https_are_followed(server, location):
    assert reason(server, server.url("/a.jpg", redirect(location))) is Reason.BLOCKED_HOST


def test_a_redirect_to_a_private_host_is_blocked_before_it_is_asked(server):
    with serving("127.0.0.2") as private:
        url = server.url("/a.jpg", redirect(private.url("/secret.jpg", answer(body=PICTURE))))
        assert reason(server, url) is Reason.BLOCKED_HOST
        assert private.requests == []


@pytest.mark.parametrize("user", ["bob:secret", "bob", ":secret"])
def test_an_address_with_a_user_name_or_password_is_not_asked(server, user):
    plain = server.url("/a.jpg", answer(body=PICTURE))
    dropped = outcome(server, plain.replace("://", f"://{user}@"))
    assert dropped.reason is Reason.BLOCKED_HOST
    assert "bob" not in dropped.detail and "secret" not in dropped.detail
    assert server.requests == []


def test_the_first_address_is_checked_like_every_other(server):
    with serving("127.0.0.2") as private:
        assert reason(server, private.url("/a.jpg", answer(body=PICTURE))) is Reason.BLOCKED_HOST
        assert private.requests == []


def test_another_port_of_the_allowed_host_is_not_allowed(server):
    with serving() as other:
        assert reason(server, other.url("/a.jpg", answer(body=PICTURE))) is Reason.BLOCKED_HOST
        assert other.requests == []


@pytest.mark.parametrize(
    "host", ["localhost", "[::ffff:127.0.0.1]", "2130706433", "127.1", "0x7f000001", "0"]
)
def test_another_spelling_of_the_allowed_host_is_not_allowed(server, host):
    url = server.url("/a.jpg", answer(body=PICTURE), host=host)
    assert reason(server, url, retries=0) in (Reason.BLOCKED_HOST, Reason.HTTP_ERROR)
    assert server.requests == []


def resolving(monkeypatch, *addresses):
    """Every name has the next of `addresses` at each look-up, the last one for ever; returns what was asked."""
    asked, left = [], list(addresses)

    def getaddrinfo(host, port, *_, **__):
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in found.split()]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("addresses", ["127.0.0.1", "8.8.8.8 127.0.0.1", "169.254.169.254", "10.1.2.3"])
def test_a_name_with_a_private_address_is_blocked(server, monkeypatch, addresses):
    resolving(monkeypatch, addresses)
    url = server.url("/a.jpg", answer(body=PICTURE), host="pictures.example")
    assert reason(server, url) is Reason.BLOCKED_HOST
    assert server.requests == []


def test_a_name_is_looked_up_once_and_the_connection_made_to_that_address(server, monkeypatch):
    with serving("127.0.0.2", server.place[1]) as private:
        asked = resolving(monkeypatch, "127.0.0.1", "127.0.0.2")
        url = server.url("/a.jpg", answer(body=PICTURE, Connection="close"), host="pictures.example")
        allowed = frozenset({("pictures.example", server.place[1])})
        requests = [ImageRequest(str(i), url) for i in range(3)]
        found = list(fetch_images(requests, policy(server, allowed=allowed, concurrency=1)))
        assert all(isinstance(one, Fetched) for one in found)
        assert asked == ["pictures.example"]
        assert private.requests == []
    assert f"Host: pictures.example:{server.place[1]}" in server.heads[0]


def test_tls_is_spoken_with_the_name_and_not_the_address(server, monkeypatch):
    resolving(monkeypatch, "127.0.0.1")
    names = []

    def hello(peer):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = lambda _, name, __: names.append(name)
        context.wrap_socket(peer, server_side=True)

    monkeypatch.setattr("tests.fault_server._Handler.handle", lambda self: hello(self.request))
    place = ("pictures.example", server.place[1])
    url = f"https://pictures.example:{place[1]}/a.jpg"
    assert reason(server, url, allowed=frozenset({place}), retries=0) is Reason.HTTP_ERROR
    assert names == ["pictures.example"]


def test_a_name_without_an_address_is_an_http_error(server, monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert reason(server, "http://pictures.example/a.jpg") is Reason.HTTP_ERROR


PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.2.1",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001:db8::1",
    "2002:a00:1::",
    "fc00::1",
    "fd00::1",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_no_special_address_is_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_the_internets_addresses_are_public(address):
    assert is_public(address)


@given(st.ip_addresses(v=4))
@settings(max_examples=100)
def test_an_ipv6_form_is_as_public_as_the_ipv4_address_in_it(ip):
    forms = [
        f"::ffff:{ip}",
        f"64:ff9b::{ip}",
        str(IPv6Address((0x2002 << 112) | int(ip) << 80)),
    ]
    assert {is_public(form) for form in forms} == {is_public(str(ip))}
