import pytest

from epochal.common.errors import RequestError
from epochal.shards.order.amendment.skips import Skip, Spans, first_difference, read_skips, skip_argument


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[5, 5]], "which is larger"),
        ([[7, 5]], "which is larger"),
        ([[-1, 5]], "from 0"),
        ([[0, 2**63]], "which is larger"),
        ([["1", 5]], "which are integers"),
        ([[True, 5]], "which are integers"),
        ([[1.0, 5]], "which are integers"),
        ([[1]], "write each span as"),
        ([7], "write each span as"),
        ([[1, 2, "a", "b"]], "write each span as"),
        ([[1, 2, "two\nlines"]], "one line"),
        ([[1, 2, "x" * 201]], "at most 200"),
        ([[1, 2, 3]], "one line"),
        ([[4, 8], [6, 9]], r"skip \[6, 9\] comes after \[4, 8\]: write the spans in order"),
        ([[4, 8], [1, 2]], "in order"),
        ([[2 * i, 2 * i + 1] for i in range(10_001)], "at most 10,000 spans"),
    ],
)
def test_what_is_no_span_is_refused_in_a_line(spans, message):
    with pytest.raises(RequestError, match=message) as caught:
        read_skips(spans)
    assert "\n" not in str(caught.value)


def test_spans_that_touch_are_two():
    assert read_skips([[1, 4], (4, 6, "why")]) == (Skip(1, 4), Skip(4, 6))


def test_spans_lie_within_the_plan_and_leave_something():
    with pytest.raises(RequestError, match=r"skip \[5, 11\]: the plan ends at position 10"):
        Spans(read_skips([[5, 11]]), 10)
    with pytest.raises(RequestError, match="leave no position"):
        Spans(read_skips([[0, 5], [5, 10]]), 10)
    assert Spans(read_skips([[0, 9]]), 10).left == 1


def test_argument_of_a_command():
    assert skip_argument("400:480") == Skip(400, 480)
    assert skip_argument("4_000:1,000,000:spike: at step 4").to_list() == [4000, 1_000_000, "spike: at step 4"]
    for text in ("400", "400-480", "a:b", "-1:5", "::", "_:5"):
        with pytest.raises(RequestError):
            skip_argument(text)


@pytest.mark.parametrize(
    ("one", "other", "first"),
    [
        ([], [], None),
        ([[3, 5]], [], 3),
        ([], [[3, 5]], 3),
        ([[3, 5]], [[3, 5]], None),
        ([[3, 5], [5, 8]], [[3, 8]], None),
        ([[3, 5]], [[3, 8]], 5),
        ([[3, 8]], [[3, 5], [6, 8]], 5),
        ([[3, 5]], [[3, 5], [9, 10]], 9),
        ([[1, 2], [3, 5]], [[3, 5]], 1),
    ],
)
def test_first_position_at_which_two_lists_differ(one, other, first):
    assert first_difference(read_skips(one), read_skips(other)) == first
