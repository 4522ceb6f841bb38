"""Importance of data sources for answers that rest on retrieved passages."""
