"""The checker that `make lint` runs over docstrings finds what it is for."""

import pytest

from epochal.tests.support.checks.docstrings import problems_of

GOOD = '''
def f(a, b):
    """Return a and b: both of them.

    Args:
        a: int64 of shape (k,).
        b: see `a`; c: is no name of this function.

    Raises:
        ValueError: when there is none.
    """
'''


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(a):\n    pass\n", "f has no docstring"),
        ('def f(a):\n    """Return it. a: what it is."""\n', "'a' is described outside of Args"),
        ('def f(a):\n    """Return it. Raises ValueError."""\n', "outside of Raises"),
        ('def f(a):\n    """Return it.\n\n    Args:\n        b: what it is.\n    """\n', "names 'b'"),
        (
            'def f():\n    """Do it.\n\n    Raises:\n        A: so.\n\n    Args:\n        a: so.\n    """\n',
            "in this order",
        ),
        ('class C:\n    """A thing. x: of it."""\n\n    x: int\n', "described outside of Attributes"),
        (
            'class C:\n    """A thing."""\n\n    def f(self, a):\n        """Do it. a: what."""\n',
            "C.f: 'a' is described",
        ),
    ],
)
def test_what_is_not_in_its_section_is_found(source: str, problem: str) -> None:
    found = [text for _, text in problems_of(source)]
    assert any(problem in text for text in found), found


@pytest.mark.parametrize(
    "source",
    [
        GOOD,
        'def _private(a):\n    """Do it. a: what."""\n',
        'def f(a):\n    """Return one thing: a."""\n',
        '@router.get("/x")\ndef f(a):\n    """Return it. a: what the HTTP interface says."""\n',
    ],
)
def test_what_is_well_formed_passes(source: str) -> None:
    assert list(problems_of(source)) == []
