"""The reference project for tabular data: doctor visits predicted by gradient boosting."""
