"""Models from the hub. The program that fetches them stands apart from the nodes, whose files would shadow modules."""

from .download import REPOSITORIES, complete, download

__all__ = ["REPOSITORIES", "complete", "download"]
