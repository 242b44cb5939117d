"""The gateware of ternlight, in Amaranth."""
