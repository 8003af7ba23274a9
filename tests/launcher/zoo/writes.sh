#!/bin/bash
# Writes for ever.
echo ready
while true; do echo "$1 and more"; done
