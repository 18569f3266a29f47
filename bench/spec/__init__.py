"""YAML and CSV files as validated data: tables, recipes, runs and reported numbers."""
