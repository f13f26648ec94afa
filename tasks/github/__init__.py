"""The rules that workflow files, rulesets and code owners must follow."""
