"""From tables to work: cells, runs, cohorts and the plan."""
