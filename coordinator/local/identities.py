"""The identities in the folders of `logstore up`, read before any process starts (note 0008)."""

from pathlib import Path

from coordinator.local.instance_spec import instance_folders
from logstore.base.errors import WrongClusterError
from logstore.node.instance.identity import Identity, IdentityFile


def identities(data: Path) -> dict[str, Identity]:
    """Instance folder -> the identity in it, for each used folder. `StorageError`."""
    found: dict[str, Identity] = {}
    for folder in instance_folders(data):
        identity = IdentityFile(folder).load()
        if identity is not None:
            found[folder.name] = identity
    return found


def cluster_of(data: Path) -> str | None:
    """The cluster that the folder's instances belong to; None when none of them names one.

    `WrongClusterError` when they belong to several, or a folder holds another instance's data.
    """
    owners: dict[str, str] = {}
    for name, identity in identities(data).items():
        if identity.instance not in ("", name):
            raise WrongClusterError(
                f"{data / name} holds the data of instance {identity.instance!r} of cluster "
                f"{identity.cluster}: put the right folder there"
            )
        if identity.cluster:
            owners.setdefault(identity.cluster, name)
    if len(owners) > 1:
        said = ", ".join(f"{name} to cluster {cluster}" for cluster, name in owners.items())
        raise WrongClusterError(f"the instances in {data} belong to several clusters: {said}")
    return next(iter(owners), None)
