"""The golden model: one bit-exact numpy function per hardware operation.

Every function takes integer arrays (int64) with any leading batch dimensions, and never wraps: what does not
fit its format saturates.
"""
