"""The one trainer, on one device or several; models that are trained inside a run before its own;
short fine-tuning of a classifier.

May import `scoring` and what stands below it.
"""
