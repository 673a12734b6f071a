"""`pixieboot lab`: a real machine in QEMU, booted through the daemon in a private network namespace."""
