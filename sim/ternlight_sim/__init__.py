"""Golden model, float reference and simulated device."""
