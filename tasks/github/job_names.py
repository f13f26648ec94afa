"""Job names shared by the workflows, their rules, the rulesets and the session `green`."""

# The one check that a pull request requires; it passes only if all other jobs did.
GREEN = "green"

# The job whose outputs are the plan.
PLAN = "plan"

# The jobs that run the planned sessions: on the runner itself, and in the container image.
SESSION, CONTAINED = "session", "contained"

# The output of the plan that lists the projects, and the variable that contains one of them.
PROJECTS, PROJECT = "projects", "PROJECT"

# The output of the plan that each of these jobs uses as its matrix.
FED = {SESSION: "matrix", CONTAINED: "contained"}
