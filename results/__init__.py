"""Reported numbers, reruns and measured rows that the project ships."""
