"""The registry: which model is in staging and in production, who put it there, and the way back.

    history       the log of every change of a stage, each entry naming the one before it
    ledger        the log of one model in a registry, and the aliases that follow it
    stages        what the log says is where
    submission    a run's outputs, checked to fit together, as they are registered
    files         the files of a version
    criteria      what a version must show before it moves to a stage
    check         whether a version is what was registered, and answers
    pipeline      register, promote, roll back: what the commands call
    loading       files of a registered model, checked
    report        what status and history print
    store         what a registry must be able to do; mlflow_store and wandb_store do

The log decides. A stage is moved by one append to it, which the registry does whole or not at all;
the aliases that other programs read follow, and any later command puts them right.
"""
