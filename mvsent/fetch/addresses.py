"""Which hosts may be asked: never one inside this network, whatever a redirect or a name server says."""

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

Places = frozenset[tuple[str, int]]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class BlockedHostError(Exception):
    """The address is private, loopback, link-local or otherwise not the internet's."""


def is_public(address: str) -> bool:
    """Whether `address` (IPv4 or IPv6 in digits) is one of the internet's, for one host.

    >>> is_public("8.8.8.8"), is_public("10.0.0.1"), is_public("169.254.169.254"), is_public("::1")
    (True, False, False, False)
    >>> is_public("::ffff:127.0.0.1"), is_public("64:ff9b::10.0.0.1"), is_public("2002:7f00:1::")
    (False, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = _embedded(ip)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_link_local or ip.is_unspecified)


def _embedded(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a mapped, 6to4 or NAT64 address leads to."""
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


def check_literal(url: URL, allowed: Places) -> None:
    """Raise BlockedHostError if the URL's host is an address in digits that may not be asked."""
    host = url.raw_host or ""
    if (host, url.port) in allowed:
        return
    try:
        public = is_public(host)
    except ValueError:
        public = ":" not in host  # a name, which the resolver checks; a colon never is in one
    if not public:
        raise BlockedHostError(f"{host} is not a public address")


class CheckedResolver(AbstractResolver):
    """Looks names up, and gives addresses only if all of a name's are public or the place is allowed.

    The connection is made to the very addresses given here, so a name that has another address a moment
    later (DNS rebinding) gains nothing by it.
    """

    def __init__(self, allowed: Places) -> None:
        self._allowed = allowed
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises: BlockedHostError; OSError where the name has no address."""
        found = await self._system.resolve(host, port, family)
        if (host, port) not in self._allowed:
            for one in found:
                if not is_public(one["host"]):
                    raise BlockedHostError(f"{host} has the address {one['host']}, which is not public")
        return found

    async def close(self) -> None:
        await self._system.close()
