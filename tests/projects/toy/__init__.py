"""A minimal project for the tests of `training`; it is not shipped."""
