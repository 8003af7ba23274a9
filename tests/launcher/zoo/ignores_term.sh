#!/bin/bash
# Ignores every polite signal; so does its child.
trap '' TERM INT HUP
sleep "$1" &
echo ready
while true; do sleep "$1"; done
