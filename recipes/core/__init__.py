"""What every recipe shares: config, data, models, trainer, statistics, run folders and reports."""
