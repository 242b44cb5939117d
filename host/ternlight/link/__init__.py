"""Links to a device: the same protocol over every wire."""
