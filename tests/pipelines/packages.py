"""Packages that register something by an entry point, for tests."""

from pathlib import Path


def leave_package(folder: Path, name: str, entry_points: str, *, version: str = "1.0") -> None:
    """The metadata of an installed package, as pip would leave it; its modules are the caller's to write.

    Args:
        folder: to be put on `sys.path`.
        name: of the distribution.
        entry_points: content of `entry_points.txt`.
        version: of the distribution.
    """
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(entry_points)
