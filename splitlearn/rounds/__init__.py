"""Rounds of several clients, by a framework for federated learning: the files by which a client's run and the framework's app
meet, and the apps for Flower (`client_app` and `server_app`, which need the extra ``splitfed``).
"""

from splitlearn.rounds.round_folder import Ends, NoRunError, RoundFolder

__all__ = ["Ends", "NoRunError", "RoundFolder"]
