"""Trained students for use elsewhere: exported to files of other programs, and predictions for one's own images."""
