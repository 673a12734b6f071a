"""The shell: the only sockets, tasks and clocks.  It moves bytes and decides nothing."""
