"""What all tests share."""

from __future__ import annotations

import signal


def pytest_configure():
    # A background job ignores interrupts, and would hand that down to the programs under test.
    signal.signal(signal.SIGINT, signal.default_int_handler)
