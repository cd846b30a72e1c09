from collections.abc import Iterator

import pytest

from epochal.tests.support.stores import moto


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Yield the address of an S3 server that a module has to itself; the environment points there."""
    with moto() as address:
        yield address
