"""Which model runs a role, as configuration has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from aura.setting_values import ANY_ROLE


@dataclass(frozen=True, slots=True)
class RoleModels:
    """``of`` maps roles to models; ``rest`` is the model of every other role."""

    rest: str
    of: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", MappingProxyType(dict(self.of)))

    @classmethod
    def configured(cls, mapping: Mapping[str, str]) -> RoleModels:
        """From a mapping in which :data:`~aura.setting_values.ANY_ROLE` is every other role. Raises ``KeyError`` without it."""
        return cls(mapping[ANY_ROLE], {role: model for role, model in mapping.items() if role != ANY_ROLE})

    def model(self, role: str) -> str:
        """The model that runs jobs of ``role``."""
        return self.of.get(role, self.rest)

    def names(self, role: str) -> bool:
        """Whether the role is mapped by name, and not merely one of those that are left."""
        return role in self.of
