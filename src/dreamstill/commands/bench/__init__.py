"""dreamstill bench: suites of runs, their records and tables."""
