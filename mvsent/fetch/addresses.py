"""Refuse hosts inside this network, whatever a redirect or a name server says."""

import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

Places = frozenset[tuple[str, int]]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class BlockedHostError(Exception):
    """The address is private, loopback, link-local or otherwise not public."""


def is_public(address: str) -> bool:
    """Whether the numeric IPv4 or IPv6 `address` is a public unicast address.

    >>> is_public("8.8.8.8"), is_public("10.0.0.1"), is_public("169.254.169.254"), is_public("::1")
    (True, False, False, False)
    >>> is_public("::ffff:127.0.0.1"), is_public("64:ff9b::10.0.0.1"), is_public("2002:7f00:1::")
    (False, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, IPv6Address):
        # the IPv4 address in a mapped, 6to4 or NAT64 address
        inner = IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip.ipv4_mapped or ip.sixtofour
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:  # fec0::/10, which `is_global` lets pass
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_link_local or ip.is_unspecified)


def check_literal(url: URL, allowed: Places) -> None:
    """Raise BlockedHostError if the URL's host is a numeric address that is neither public nor allowed."""
    host = url.raw_host or ""
    if (host, url.port) in allowed:
        return
    try:
        public = is_public(host)
    except ValueError:
        public = ":" not in host  # a name, which the resolver checks; names have no colon
    if not public:
        raise BlockedHostError(f"{host} is not a public address")


class CheckedResolver(AbstractResolver):
    """Resolves names whose addresses are all public, and allowed places.

    aiohttp connects to the addresses returned here, so a name that changes its address after the check (DNS
    rebinding) gains nothing.
    """

    def __init__(self, allowed: Places) -> None:
        self._allowed = allowed
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises: BlockedHostError; OSError if the name has no address."""
        results = await self._system.resolve(host, port, family)
        if (host, port) not in self._allowed:
            for result in results:
                if not is_public(result["host"]):
                    raise BlockedHostError(f"{host} has the address {result['host']}, which is not public")
        return results

    async def close(self) -> None:
        await self._system.close()
