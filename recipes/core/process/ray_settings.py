"""What a Ray that we start says: nothing that is the driver's to say, or no concern of what runs on it."""

import os

QUIET = {
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the driver says what went wrong
    "RAY_USAGE_STATS_ENABLED": "0",  # its notice would not be seen
    "RAY_local_fs_capacity_threshold": "1",  # of a full disk it warns for ever; we hand it nothing that it could spill
}


def quiet_ray() -> None:
    """Set this for a Ray that is started from here on; what the user has set stays."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
