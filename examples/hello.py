"""The hello of the executor's page, on a site of yours.

Start `balsam up` in another terminal, then:  python examples/hello.py  [name of the site]
"""

import logging
import sys

from libensemble.executors.balsam_executors import BalsamExecutor

from balsam.api import ApplicationDefinition, Site


def pick_site(name: str | None) -> Site:
    """The site of that name, or the only one there is."""
    sites = [site for site in Site.objects.all() if name in (None, site.name)]
    if len(sites) != 1:
        known = ", ".join(site.name for site in Site.objects.all()) or "none; start one with: balsam up"
        raise SystemExit(f"Give the name of one site. There are: {known}")
    return sites[0]


logging.basicConfig(level=logging.WARNING)
here = pick_site(sys.argv[1] if len(sys.argv) > 1 else None)


class HelloApp(ApplicationDefinition):
    """Says hello."""

    site = here.name
    command_template = "echo Hello, {{ my_name }}"


with BalsamExecutor() as exctr:  # leaves no task and no allocation behind
    exctr.register_app(HelloApp, app_name="hello")
    exctr.submit_allocation(site_id=here.id, num_nodes=1, wall_time_min=30)

    args = {"my_name": "World"}
    task = exctr.submit(app_name="hello", app_args=args, num_procs=4, num_nodes=1, procs_per_node=4)
    print(f"Submitted {task.name} to site {here.name} as job {task.process.id}: {task.runline}")

    task.wait(timeout=120)
    print(f"{task.state}, exit code {task.errcode}; {task.total_time:.2f} s in all, {task.runtime:.3f} s running")
    print(task.read_stdout())

if task.state != "FINISHED":
    raise SystemExit(f"the task ended as {task.state}")
