"""Model versions and the append-only log of promotions, over an object store."""

from core.registry.objects import ObjectStore
from core.registry.promotions import Promotion, PromotionKind, PromotionLog
from core.registry.runs import RunState, TrainingRun
from core.registry.versions import Registry, Verdict, VersionSummary, forget_cached

__all__ = [
    "ObjectStore",
    "Promotion",
    "PromotionKind",
    "PromotionLog",
    "Registry",
    "RunState",
    "TrainingRun",
    "Verdict",
    "VersionSummary",
    "forget_cached",
]
