"""The receipt that a finished run left in its folder."""

import os

from ...common import storage
from ...common.errors import EpochalError, RequestError, WorkError
from ...shards.order.receipt import RECEIPT_NAME, Receipt


def read_receipt(folder: str) -> Receipt:
    """Return the receipt of a finished run, checked.

    Raises:
        RequestError: when there is none.
        WorkError: when it does not hold: what the model was fed is then not known.
    """
    if storage.is_url(folder):
        raise RequestError(f"{folder} is a URL: copy the run's folder to this machine and name that")
    path = os.path.join(folder, RECEIPT_NAME)
    try:
        receipt = Receipt.from_json(storage.read_bytes(path).decode(errors="replace"))
    except (FileNotFoundError, NotADirectoryError):
        raise RequestError(
            f"{folder} is no folder of a finished run: there is no {RECEIPT_NAME}, which a run writes at its end"
        ) from None
    except EpochalError as error:
        raise type(error)(f"{path}: {error}") from None
    if problem := receipt.check():
        raise WorkError(f"{path} does not hold, so what the model was fed is not known: {problem}")
    return receipt
