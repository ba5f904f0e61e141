"""What pictures show and what texts claim, as tables with a column for every value of a domain."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tools.captions import Claims, Vocabulary


class Columns:
    """Every value of every group of a vocabulary, in a fixed order: the columns of all tables here.

    Attributes:
        names: (group, value) of each column.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.names = [(group.name, value) for group in vocabulary.groups().values() for value in group.values]
        self._index = {column: i for i, column in enumerate(self.names)}
        self._sizes = [len(group.values) for group in vocabulary.groups().values()]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_groups(self) -> int:
        return len(self._sizes)

    def truth(self, attributes: Sequence[Mapping[str, str]]) -> Tensor:
        """1 where a picture visibly shows a value, else 0: float32 [N, columns]."""
        table = torch.zeros(len(attributes), len(self))
        for row, shown in zip(table, attributes, strict=True):
            for group, seen in self.vocabulary.visible(shown).items():
                if seen:
                    row[self._index[group, shown[group]]] = 1
        return table

    def unknown(self, attributes: Sequence[Mapping[str, str]]) -> Tensor:
        """Whether nothing is known of a group, which is then not among the attributes: bool [N, groups]."""
        groups = self.vocabulary.groups()
        return torch.tensor([[group not in shown for group in groups] for shown in attributes])

    def claims(self, claims: Sequence[Claims]) -> Tensor:
        """1 for the values that a text allows in the groups it speaks of, else 0: float32 [N, columns]."""
        table = torch.zeros(len(claims), len(self))
        for row, claim in zip(table, claims, strict=True):
            row[[self._index[group, value] for group, values in claim.items() for value in values]] = 1
        return table

    def by_group(self, table: Tensor) -> tuple[Tensor, ...]:
        """The columns of each group: views [N, values]."""
        return table.split(self._sizes, dim=1)

    def positives(self, shown: Tensor, claimed: Tensor) -> Tensor:
        """Which texts are wholly true of which pictures: bool [N, M] of a truth table and a claim table.

        A picture shows at most one value of a group, so all claims of a text are true where the picture
        shows as many of the allowed values as the text speaks of groups.
        """
        return shown @ claimed.T == self._speaks_of(claimed).sum(1)

    def undecided(self, shown: Tensor, unknown: Tensor, claimed: Tensor) -> Tensor:
        """Which texts may be true of which pictures, for all that is known of these: bool [N, M].

        Args:
            shown: truth table [N, columns].
            unknown: bool [N, groups] of the same pictures.
            claimed: claim table [M, columns].
        """
        speaks_of = self._speaks_of(claimed)
        open_groups = unknown.float() @ speaks_of.T
        return (shown @ claimed.T + open_groups == speaks_of.sum(1)) & (open_groups > 0)

    def claim_targets(self, claimed: Tensor) -> Tensor:
        """Distributions over each group's values: even among the allowed, or among all if not claimed."""
        parts = []
        for part in self.by_group(claimed):
            allowed = torch.where(part.any(1, keepdim=True), part, 1.0)
            parts.append(allowed / allowed.sum(1, keepdim=True))
        return torch.cat(parts, dim=1)

    def _speaks_of(self, claimed: Tensor) -> Tensor:
        """1 for the groups a text speaks of: float32 [M, groups]."""
        return torch.stack([part.any(1) for part in self.by_group(claimed)], dim=1).float()
