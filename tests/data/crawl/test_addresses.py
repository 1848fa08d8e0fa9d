"""Which addresses may be connected to: by hand for the places where others were fooled, and against Python's own."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.core.config import to_plain
from gristmill.data.crawl.addresses import networks, port_refusal, refusal
from gristmill.data.crawl.settings import Network

REFUSED = [
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
    "169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.7",
    "203.0.113.9", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "3fff::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2606:4700::5efe:a00:1",
    "2606:4700::200:5efe:7f00:1", "100::1", "5f00::1", "4000::1", "localhost", "", "1.2.3", "0x7f.1",
]
OPEN = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.1", "100.128.0.1", "192.0.1.1",
        "2606:4700:4700::1111", "2a00:1450:4001:82a::200e", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]


@pytest.mark.parametrize("address", REFUSED)
def test_refused(address):
    assert refusal(address)


@pytest.mark.parametrize("address", OPEN)
def test_open(address):
    assert refusal(address) == ""


@given(st.ip_addresses())
def test_nothing_that_python_calls_private_is_open(address):
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast or (
            address.is_reserved or address.is_unspecified):
        mapped = getattr(address, "ipv4_mapped", None)
        assert refusal(str(address)) or (mapped is not None and not refusal(str(mapped))), address


@given(st.ip_addresses(v=4))
def test_hidden_in_ipv6_it_is_as_open_as_by_itself(address):
    number = int(address)
    forms = [ipaddress.IPv6Address((0xFFFF << 32) | number), ipaddress.IPv6Address((0x64FF9B << 96) | number),
             ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1)]
    assert {bool(refusal(str(form))) for form in forms} == {bool(refusal(str(address)))}


def test_what_is_allowed_by_name():
    allowed = networks(["127.0.0.1", "10.1.0.0/16", "fd00::/8"])
    assert refusal("127.0.0.1", allowed) == refusal("10.1.2.3", allowed) == refusal("fd12::1", allowed) == ""
    assert refusal("::ffff:10.1.2.3", allowed) == ""
    assert refusal("127.0.0.2", allowed)
    assert refusal("10.2.0.1", allowed)
    assert to_plain(Network(allow=["10.1.0.0/16"]))["allow"] == ["10.1.0.0/16"]
    with pytest.raises(ValueError, match=r"allow: '10\.1' is no address"):
        Network(allow=["10.1"])


def test_ports():
    assert not port_refusal(80)
    assert not port_refusal(443)
    assert not port_refusal(8080)
    assert "port 25" in port_refusal(25)
    assert port_refusal(0)
