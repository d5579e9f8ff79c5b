"""Experience replay: a class-balanced sample of older examples beside the new ones."""

from trainer.methods.base import WithReplay


class ExperienceReplay(WithReplay):
    """Rolnick et al., "Experience Replay for Continual Learning", NeurIPS 2019, arXiv 1811.11682."""

    name = "experience_replay"
