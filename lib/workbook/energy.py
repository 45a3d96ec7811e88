"""Energy that the processor took, where Linux lets a user read its counters (RAPL).

https://www.kernel.org/doc/html/latest/power/powercap/powercap.html. Since 2020 most systems let only root read them, and virtual
machines have none: then there is no number, and none is guessed.
"""

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def read(root: Path = POWERCAP) -> dict[str, tuple[int, int]]:
    """{processor package: (microjoules counted so far, the number at which its counter begins again)}; empty if none can be read."""
    found = {}
    for zone in sorted(root.glob("*rapl:*")):
        try:
            if (zone / "name").read_text().startswith("package"):
                found[zone.name] = tuple(int((zone / file).read_text()) for file in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):
            continue
    return found


def joules(before: dict, after: dict) -> float | None:
    """What was taken between two `read`s, by all packages and all that ran on them; None where nothing can be read."""
    if not before or before.keys() != after.keys():
        return None
    return sum((after[zone][0] - begun) % most for zone, (begun, most) in before.items()) / 1e6
