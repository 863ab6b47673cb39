"""Tables for notebooks: lists of records, which become data frames where pandas is installed."""

import importlib
from typing import Any

from fallline.errors import MissingExtraError


class Records(list[dict[str, Any]]):
    """A list of records, one a row.

    Example:
        >>> Records([{"arm": "adam", "lr": 0.01}])[0]["lr"]
        0.01
    """

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a column for every key.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise MissingExtraError(
                "to_pandas: pandas must be installed, and is not; pip install pandas, or use the records as they are"
            ) from None
        return pandas.DataFrame(list(self))
