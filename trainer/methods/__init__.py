"""Continual-learning methods, one file each. Entering one here is what makes the contract tests run on it."""

from core.settings import entry
from trainer.methods.base import Budget, ContinualMethod
from trainer.methods.experience_replay import ExperienceReplay
from trainer.methods.l2_sp import L2SP
from trainer.methods.sequential import Sequential
from trainer.methods.wise_ft import WiseFT

METHODS: dict[str, ContinualMethod] = {
    method.name: method for method in (Sequential(), ExperienceReplay(), L2SP(), WiseFT())
}


def get_method(name: str) -> ContinualMethod:
    """The method of that name.

    Raises:
        BadSettings: no such method.
    """
    return entry(METHODS, name, "method")


__all__ = ["METHODS", "Budget", "ContinualMethod", "get_method"]
