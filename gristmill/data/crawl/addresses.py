"""Which network addresses a crawler may connect to: those of the public Internet, and those that a user allows.

What is refused is everything that the IANA special-purpose registries (RFC 6890 and its updates) do not call globally
reachable, also where it hides inside an IPv6 address (mapped, 6to4, NAT64, ISATAP), and the addresses behind which
clouds keep the secrets of a machine. Checked after a name is resolved; the connection is then made to the address that
was checked and not to the name, so that a second look at the name (DNS rebinding) cannot lead elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> addresses as text; raises OSError where there are none."""

_V4 = {
    "0.0.0.0/8": "this network", "10.0.0.0/8": "private", "100.64.0.0/10": "shared by carriers",
    "127.0.0.0/8": "loopback", "168.63.129.16/32": "metadata of a cloud", "169.254.0.0/16": "link-local or metadata",
    "172.16.0.0/12": "private", "192.0.0.0/24": "protocol assignments", "192.0.2.0/24": "documentation",
    "192.31.196.0/24": "AS112", "192.52.193.0/24": "AMT", "192.88.99.0/24": "6to4 relays", "192.168.0.0/16": "private",
    "192.175.48.0/24": "AS112", "198.18.0.0/15": "benchmarks", "198.51.100.0/24": "documentation",
    "203.0.113.0/24": "documentation", "224.0.0.0/4": "multicast", "240.0.0.0/4": "reserved or broadcast",
}
_V6 = {
    "::1/128": "loopback", "::/128": "unspecified", "fc00::/7": "private", "fe80::/10": "link-local",
    "fec0::/10": "site-local", "ff00::/8": "multicast", "2001::/23": "protocol assignments",
    "2001:db8::/32": "documentation", "2620:4f:8000::/48": "AS112", "3fff::/20": "documentation",
}
_REFUSED_V4 = [(ipaddress.IPv4Network(net), why) for net, why in _V4.items()]
_REFUSED_V6 = [(ipaddress.IPv6Network(net), why) for net, why in _V6.items()]
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)


def refusal(address: str, allowed: Sequence[Network] = ()) -> str:
    """Why this address may not be connected to; "" if it may. What is no address may not."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no address"
    if any(found in network for network in allowed if network.version == found.version):
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return next((why for network, why in _REFUSED_V4 if found in network), "")
    inside = embedded(found)
    if inside is not None:
        why = refusal(str(inside), allowed)
        return f"{inside} inside: {why}" if why else ""
    named = next((why for network, why in _REFUSED_V6 if found in network), "")
    return named or ("" if found in _GLOBAL_V6 else "not of the public Internet")


def embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, NAT64 (RFC 6052), 6to4, ISATAP."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        return address.sixtofour
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def port_refusal(port: int) -> str:
    """Ports below 1024 belong to other services (mail, databases of names), which a request could be made to serve."""
    return "" if port in (80, 443) or 1024 <= port <= 65535 else f"port {port} is not one of 80, 443, 1024 and above"


def networks(texts: Sequence[str] | None) -> list[Network]:
    """Networks from their texts; a bare address is a network of one."""
    return [ipaddress.ip_network(text) for text in texts or ()]


async def system_resolver(host: str, port: int) -> list[str]:
    """The addresses of a name by the resolver of this machine, each once, in its order of preference."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
