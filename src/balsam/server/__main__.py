"""`python -m balsam.server`: the service alone, for supervisors and tests. People use `balsam server up`."""

from balsam.server.command import up

if __name__ == "__main__":
    up(prog_name="python -m balsam.server")
