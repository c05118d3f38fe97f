"""How the field measures a metric: agreement with people, fits, intervals, classical measures beside it."""
