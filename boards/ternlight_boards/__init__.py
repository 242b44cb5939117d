"""One short file per board: pins, clocks and geometry."""
