"""Finding out about a model by running its parts on made-up tokens, rather than by its name."""

from splitlearn.training.trials.trials import Trials

__all__ = ["Trials"]
