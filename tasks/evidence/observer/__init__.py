"""The folder that is on PYTHONPATH while a run is observed; see tasks/evidence/inputs.py."""
