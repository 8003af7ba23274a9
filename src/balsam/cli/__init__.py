"""The `balsam` command: thin sub-commands over `balsam.api`, each loaded only when it is used."""
