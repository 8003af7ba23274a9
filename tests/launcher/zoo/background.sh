#!/bin/bash
# Leaves a child in its own group behind and exits at once.
sleep "$1" &
echo ready
