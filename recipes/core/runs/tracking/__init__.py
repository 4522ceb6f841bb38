"""Trackers beside the run folder: W&B, TensorBoard, MLflow. Each is a class of six methods (`tracker.Tracker`).

A new one is a module here, a choice of `tracker.kind` in the settings, a line in `opening.TRACKERS` and a file in
`conf/tracker/`.
"""
