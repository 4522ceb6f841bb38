"""Rho-1: selective language modelling."""
