"""What is measured: per-example scores, and the tasks that image-caption models are scored on."""
