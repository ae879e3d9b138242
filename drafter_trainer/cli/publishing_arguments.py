"""Options of publishing a drafter or its rows."""

from drafter_trainer.cli.options import option, options, parameters
from drafter_trainer.hub.publishing import HUB, Publishing
from drafter_trainer.pipeline.publish import publish

_PUBLISHING = {
    "to": option(
        HUB,
        "Destination: hub for your own repository with the name of the drafter; hub:REPOSITORY, hub:@BRANCH or "
        "hub:REPOSITORY@BRANCH for another repository or branch; or a folder",
    ),
    **parameters(publish, "tag", "overwrite", "dry_run", "format"),
    "sources": option(
        [], "Draft sources: lookup, ngram, network (default: all). Without network no weights are published"
    ),
    **parameters(publish, "license", "adapter_of"),
    "card_folder": option(
        None,
        "Folder of cards: the card and its inputs are also written to <card_folder>/<drafter_name>",
        str | None,
    ),
}


class PublishingArguments(options("publishing", _PUBLISHING, rare={"adapter_of", "card_folder"})):
    """Where a drafter is published to, and in which form."""

    def __post_init__(self) -> None:
        self.publishing()

    def publishing(self) -> Publishing:
        """Return the checked values."""
        values, (place, _, rest) = vars(self), self.to.partition(":")
        if place == HUB:
            repository, _, branch = rest.partition("@")
            values = values | {"to": HUB, "repo_id": repository or None, "revision": branch or None}
        return Publishing(**values)


_PUBLISHED = {"dataset": option(False, "Publish the rows of RUN_FOLDER/distill, not the drafter")}
PublishedArguments = options("publishing", _PUBLISHED)
