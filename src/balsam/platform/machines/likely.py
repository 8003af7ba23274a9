"""Which shipped machine this host most likely is: the answer that `balsam site init` proposes at a terminal.

Only signs that are a facility's own count, and a batch system that can be told by its commands; the person decides.
"""

from collections.abc import Callable, Mapping

from balsam.platform.machines import machine_names

# The first words of the names of login nodes.
_LOGIN_NODES = {"polaris-login-": "polaris", "aurora-uan-": "aurora"}
# What NERSC and OLCF set in every login, where the names of the login nodes say nothing.
_VARIABLES = {("NERSC_HOST", "perlmutter"): "perlmutter-cpu", ("LMOD_SYSTEM_NAME", "frontier"): "frontier"}
# By a command that no other batch system has.
_COMMANDS = {"sbatch": "generic-slurm", "pbsnodes": "generic-pbs"}


def likely_machine(hostname: str, environ: Mapping[str, str], has_command: Callable[[str], bool]) -> str:
    """A name out of `machine_names`; `local` where nothing speaks for another.

    >>> likely_machine("polaris-login-02", {}, lambda command: True)
    'polaris'
    """
    signs = [name for start, name in _LOGIN_NODES.items() if hostname.startswith(start)]
    signs += [name for (variable, value), name in _VARIABLES.items() if environ.get(variable) == value]
    signs += [name for command, name in _COMMANDS.items() if has_command(command)]
    return next((name for name in signs if name in machine_names()), "local")
