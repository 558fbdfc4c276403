"""The split of a dataset in Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mvsent.errors import UsageError, did_you_mean
from mvsent.pairs import LABEL_NAMES

if TYPE_CHECKING:
    import pandas as pd

    from mvsent.splits import Split


@dataclass(frozen=True, repr=False)
class PairSplit:
    """The role of every row in every fold.

    Attributes:
        roles: the split; `roles.roles` is int8 [F, N].
        labels: int8 [N].
    """

    roles: "Split"
    labels: npt.NDArray[np.int8]

    @property
    def protocol(self) -> str:
        """The protocol by which it was made."""
        return self.roles.protocol

    def is_of(self, ids: Sequence[str]) -> bool:
        """Whether these are the ids of its rows, in order."""
        own = self.roles.ids
        return len(own) == len(ids) and all(one == other for one, other in zip(own, ids, strict=True))

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return self.roles.n_folds

    def rows(self, fold: int = 0, role: str = "train") -> npt.NDArray[np.int64]:
        """The numbers of the rows with a role in a fold, ascending; dev and val are validation.

        Raises: UsageError for an unknown fold or role.
        """
        from mvsent.datasets.split_tables import ROLE_WORDS
        from mvsent.splits import ROLES

        role = ROLE_WORDS.get(role, role)
        if role not in ROLES:
            raise UsageError(
                f"role {role!r}: there is none", did_you_mean(role, ROLES) + f"Choose from {', '.join(ROLES)}"
            )
        if not 0 <= fold < self.n_folds:
            raise UsageError(f"fold {fold}: there is none", f"Choose from 0 to {self.n_folds - 1}")
        return self.roles.rows(fold, ROLES.index(role))

    def counts(self) -> "pd.DataFrame":
        """Number of rows of each label, for each fold and role."""
        import pandas as pd

        from mvsent.splits import ROLES

        keys = [(fold, role) for fold in range(self.n_folds) for role in ROLES]
        counts = [np.bincount(self.labels[self.rows(*key)], minlength=len(LABEL_NAMES)) for key in keys]
        index = pd.MultiIndex.from_tuples(keys, names=["fold", "role"])
        return pd.DataFrame(np.array(counts), index=index, columns=list(LABEL_NAMES))

    def to_pandas(self) -> "pd.DataFrame":
        """A row for each id of each fold: id, fold, role."""
        import pandas as pd

        from mvsent.splits import ROLES

        ids = np.array(list(self.roles.ids), object)
        parts = []
        for fold in range(self.n_folds):
            used = np.flatnonzero(self.roles.roles[fold] >= 0)
            roles = named(self.roles.roles[fold][used], ROLES)
            parts.append(pd.DataFrame({"id": ids[used], "fold": fold, "role": roles}))
        return pd.concat(parts, ignore_index=True)

    def __repr__(self) -> str:
        return f"PairSplit({self.protocol!r}: {self.n_folds} folds of {len(self.labels)} rows)"

    def _repr_html_(self) -> str:
        from mvsent.report.cells import table

        counts = self.counts()
        rows = [(*key, *numbers) for key, numbers in zip(counts.index, counts.to_numpy(), strict=True)]
        return table(repr(self), ("fold", "role", *LABEL_NAMES), rows)


def named(codes: npt.NDArray[Any], names: Sequence[str] = LABEL_NAMES) -> "pd.Categorical[str]":
    """Numbers as a categorical of their names, in order; -1 is missing."""
    import pandas as pd

    return pd.Categorical.from_codes(codes, pd.Index(names), ordered=True)
