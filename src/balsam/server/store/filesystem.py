"""Is a directory on a network file system? Locks and shared memory of SQLite are only safe there from one host."""

from pathlib import Path

_NETWORK = frozenset(
    (
        *("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "beegfs", "panfs", "ceph", "afs", "9p"),
        *("fuse.sshfs", "fuse.glusterfs"),
    )
)
_MOUNTS = Path("/proc/self/mountinfo")


def network_filesystem(directory: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the network file system that holds `directory`, or an empty string."""
    if not mounts.exists():
        return ""
    target = str(directory.resolve())
    best, kind = "", ""
    for line in mounts.read_text(errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) < 5 or not right:
            continue
        mount = fields[4].replace("\\040", " ")
        if (target + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind if kind in _NETWORK else ""
