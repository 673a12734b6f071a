"""pixieboot: DHCP, proxyDHCP, TFTP and HTTP for machines that boot over the network, from one registry."""

__version__ = "0.1.0"
