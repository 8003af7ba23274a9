"""`balsam site`: the table of verbs on Sites."""

import click

from balsam.cli.group import Group

_COMMANDS = {
    "init": ("balsam.cli.site_agent:init", "Create a Site in a directory and register it."),
    "start": ("balsam.cli.site_agent:start", "Start the agent of a Site."),
    "stop": ("balsam.cli.site_agent:stop", "Stop the agent; allocations run on."),
    "sync": ("balsam.cli.site_agent:sync", "Have changes of the settings take effect; nothing that runs is touched."),
    "sample-settings": ("balsam.cli.site_settings:sample_settings", "Print the settings that a new Site begins with."),
    "mv": ("balsam.cli.site_move:move", "Move a Site to another directory; what runs goes on."),
    "rename": ("balsam.cli.site_move:rename", "Give a Site another name."),
    "rm": ("balsam.cli.site_remove:remove", "Remove a Site, its Jobs and its files."),
    "doctor": ("balsam.cli.site_doctor:doctor", "Check everything that a Site needs, and say what to do."),
    "globus-login": ("balsam.cli.site_globus:globus_login", "Log a Site in at Globus, for its transfers."),
    "ls": ("balsam.cli.site_list:list_sites", "List your Sites."),
}


@click.group(cls=Group, lazy=_COMMANDS)
def site() -> None:
    """Create, start, change, move and remove Sites."""
