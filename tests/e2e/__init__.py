"""Real firmware in QEMU, from power-on to Linux userspace, through the daemon as it is installed."""
