"""From rows to tables: matching, verdicts, gains, and their output."""
