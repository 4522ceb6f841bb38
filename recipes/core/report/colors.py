"""Colours that pictures share."""

INK, MUTED, GRID = "#1d232b", "#5d6673", "#dfe2e6"
