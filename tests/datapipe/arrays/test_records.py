import numpy as np

from epochal.datapipe.arrays.records import joined

KIND = np.dtype([("a", "<u8"), ("b", "<u2"), ("c", "<f4", (3,))])


def test_records_are_joined_as_they_are():
    records = np.frombuffer(np.random.default_rng(0).bytes(10 * KIND.itemsize), KIND)
    for edges in ([], [3], [0, 10], [2, 2, 9]):
        assert joined(np.split(records, edges), KIND).tobytes() == records.tobytes()
    assert joined([records[::2], records[1::2]]).tobytes() == records[::2].tobytes() + records[1::2].tobytes()
    assert joined([records]) is records
    assert joined([], KIND).dtype == joined([records, records]).dtype == KIND
    assert joined([np.arange(2), np.arange(3)]).tolist() == [0, 1, 0, 1, 2]
