#!/bin/bash
# Leaves a child behind that has a group of its own and none of our marks, in the session of the command.
set -m
env -i sleep "$1" &
echo ready
