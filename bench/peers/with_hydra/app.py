"""The trivial run for Hydra's launcher: python app.py -m hydra/launcher=submitit_slurm x=range(10) y=range(10) ..."""

from typing import Any

import hydra  # type: ignore[import-not-found, unused-ignore]


def point(config: Any) -> int:
    """The sum of a point."""
    return int(config.x + config.y + config.z)


if __name__ == "__main__":
    hydra.main(version_base=None, config_path=".", config_name="config")(point)()
