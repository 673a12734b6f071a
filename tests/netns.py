"""Hosts out of network namespaces for tests: the lab's own (see pixieboot/lab/hosts.py), under one name.

from tests.netns import Network

@pytest.mark.needs_root
def test_offer_over_a_wire():
    with Network("wire") as network:
        switch = network.switch()
        server, client = switch.host("server", "10.77.0.2/24"), switch.host("client", mac="52:54:00:12:34:56")
        daemon = server.start("dnsmasq", "--keep-in-foreground", …)
        with client.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
"""

from pixieboot.lab.hosts import NETNS, Host, HostError, Network, Switch

__all__ = ["NETNS", "Host", "HostError", "Network", "Switch"]
