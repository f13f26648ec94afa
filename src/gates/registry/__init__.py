"""The registry: which version is in staging and in production, who moved it, and how to go back.

    history       the log of stage changes; each entry names the one before it
    ledger        the log of one model in a registry, and the aliases that follow it
    stages        which version is in which stage, according to the log
    submission    a run's outputs, checked against each other, ready to be registered
    files         the names of a version's files
    criteria      what a version must show before it moves to a stage
    check         whether a version's files are intact and its model answers
    pipeline      register, promote, roll back: what the commands call
    loading       files of a registered model, checked
    report        the output of status and history
    store         the interface of a registry; mlflow_store and wandb_store implement it

The log decides. One append to it moves a stage, and the registry does that completely or not at
all. The aliases that other programs read follow the log; any later command corrects stale ones.
"""
