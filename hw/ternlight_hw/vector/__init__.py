"""What norm unit and gate unit share: fixed-point expressions, the compact format, the sigmoid, reductions."""
