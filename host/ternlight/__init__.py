"""ternlight: ternary language models on open FPGAs (host, compiler and model tools)."""
