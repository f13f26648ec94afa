"""The smallest project there is: what the tests of `training` train. Nobody ships it."""
