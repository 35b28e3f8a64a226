"""Metrics, merging and reports over saved predictions. Imports no torch."""
