from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def journal(file):
    return JournalStorage(JournalFileBackend(str(file)))
