"""The reference project for tabular data: visits to a doctor, by gradient boosting."""
