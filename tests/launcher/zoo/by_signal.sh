#!/bin/bash
# Dies of the signal named second.
echo ready
ulimit -c 0
kill "-$2" $$
sleep "$1"
