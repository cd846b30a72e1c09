import pytest

from epochal.datapipe.text.excerpts import excerpt, smallest


@pytest.mark.parametrize(
    ("text", "start", "shown"),
    [
        ("short", 0, "short"),
        ("x" * 300, 0, "x" * 300),
        ("x" * 301, 0, "x" * 300 + "…"),
        ("a" * 50 + "b" * 20, 50, "…" + "b" * 20),
    ],
)
def test_an_excerpt_says_where_it_was_cut(text, start, shown):
    assert excerpt(text, start) == shown


def test_the_smallest_rows_do_not_depend_on_their_order_or_on_how_they_are_merged():
    rows = [("b", 2), ("a", 3), ("b", 1), ("c", 0), ("a", 9), ("d", 0)]
    assert smallest(rows, 3) == smallest(rows[::-1], 3) == [("a", 3), ("b", 1), ("c", 0)]
    assert smallest(smallest(rows[:3], 2) + smallest(rows[3:], 2), 2) == smallest(rows, 2)
