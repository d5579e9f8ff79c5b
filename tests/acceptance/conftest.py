"""What the acceptance tests share."""

import os

import pytest


@pytest.fixture(scope="session")
def kafka() -> str:
    """HOST:PORT of a real broker; where CI is set, its absence is a failure and not a reason to skip."""
    address = os.environ.get("KAFKA_BOOTSTRAP")
    if not address:
        if os.environ.get("CI"):
            pytest.fail("KAFKA_BOOTSTRAP is not set, but CI is: start the broker with `make kafka`")
        pytest.skip("KAFKA_BOOTSTRAP is not set; start a broker with `make kafka`")
    return address
